"""The folder for a model hub: weights, their description and a card."""

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

import tokenlearner_flexivit
from tokenlearner_flexivit import dials, paths, terminal
from tokenlearner_flexivit.figures import curve, plane, table
from tokenlearner_flexivit.inference import about as about_lib
from tokenlearner_flexivit.inference import export
from tokenlearner_flexivit.inference import profile as profile_lib
from tokenlearner_flexivit.inference import trained as trained_lib

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
PICTURE_FILE = "plane.png"
_MAX_LABELS = 30  # Nobody reads a longer list; config.json has all of them.

Row = dict[str, Any]
Profile = Sequence[Mapping[str, Any]]


def write(
  trained: trained_lib.Trained,
  folder: str | os.PathLike,
  profile: Profile | None = None,
) -> pathlib.Path:
  """Writes model.safetensors, config.json, README.md and plane.png.

  `trained.load(folder)` reads the weights with their metadata. The picture is
  left out if nothing is recorded about the settings.

  Args:
    trained: the model.
    folder: an empty or new folder.
    profile: rows of `Predictor.profile`, measured on this machine, whose times
      go into table and picture; if they have several batch sizes, those of the
      smallest. None for the times of the run's report.

  Returns:
    The path of the card, README.md.

  Raises:
    ValueError: the folder is not empty.
  """
  rows = _rows(trained, profile or ())
  # The resolved path has a name even for "." or "..".
  name = export.check_new(folder).resolve().name
  with export.new_folder(folder) as path:
    _write_files(trained, path, name, rows, profile)
  return paths.local(folder, "output") / CARD_FILE


def _write_files(
  trained: trained_lib.Trained,
  path: pathlib.Path,
  name: str,
  rows: Sequence[Row],
  profile: Profile | None,
) -> None:
  """Writes the files of `write` into an existing folder."""
  trained.save(path / trained_lib.MODEL_FILE)
  config = {
    "library": "tokenlearner_flexivit",
    "version": tokenlearner_flexivit.__version__,
    "weights": trained_lib.MODEL_FILE,
    "model": trained.model_section,
    **about_lib.about_input_and_output(trained),
    "metric": trained.headline,
    "settings": [row["about"] for row in rows],
    "training": trained.training,
  }
  (path / CONFIG_FILE).write_text(
    json.dumps(config, indent=2) + "\n", encoding="utf-8"
  )
  drawn = [
    row
    for row in rows
    if None not in (row[trained.headline], row["images_per_s"])
  ]
  if drawn:
    _draw(trained, drawn, path / PICTURE_FILE)
  sections = [
    _front_matter(trained, name, rows),
    _introduction(trained, rows),
    _metric_and_cost(trained, rows, profile, bool(drawn)),
    _use(trained, rows),
    _input(trained),
    _training(trained),
    _notes_for_the_author(name),
  ]
  card = terminal.encodable("\n".join(sections))
  (path / CARD_FILE).write_text(card, encoding="utf-8")


def _rows(trained: trained_lib.Trained, profile: Profile) -> list[Row]:
  """Returns a row of recorded values for each known setting."""
  fewest = min((row["batch_size"] for row in profile), default=None)
  profiled = {
    dials.Setting.from_row(row): row
    for row in profile
    if row["batch_size"] == fewest
  }
  best = export.best_settings(trained)
  rows = []
  for setting in trained.known_settings:
    about = about_lib.about_setting(trained, setting)
    recorded = trained.row(setting) or {}
    row = {
      **setting.row,
      "about": about,
      "seq_len": about["seq_len"],
      "gmacs": about["multiply_adds"] / 1e9,
      trained.headline: about[trained.headline],
      # One picture must not mix the times of two machines.
      "images_per_s": None if profile else recorded.get("images_per_s"),
      "best": about[trained.headline] is not None and setting in best,
    }
    measured = profiled.get(setting, {})
    names = ("batch_size", "latency_ms", "images_per_s", "memory_bytes")
    rows.append(row | {name: measured[name] for name in names if measured})
  return rows


def _draw(
  trained: trained_lib.Trained, rows: Sequence[Row], path: pathlib.Path
) -> None:
  data = trained.training.get("data")
  title = f"{data}: one model" if data else "One model"
  draw = plane.draw if plane.is_plane(rows) else curve.draw
  number = trained.training.get("num_examples")
  title = f"{title}, {terminal.counted(len(rows), 'setting')}"
  draw(
    rows,
    path,
    title,
    trained.headline,
    trained.headline_metric,
    number,
    trained.kind,
  )


def _front_matter(
  trained: trained_lib.Trained, name: str, rows: Sequence[Row]
) -> str:
  """Returns the metadata for a hub as YAML, whose values are JSON."""
  values = {"library_name": "tokenlearner_flexivit"}
  if trained.task.hub_task:
    values["pipeline_tag"] = trained.task.hub_task
  values |= {
    "tags": ["vision", "jax", "flax", "vit", "flexivit", "tokenlearner"],
    "metrics": [trained.headline],
  }
  dataset, is_public = _dataset(trained.training.get("data", ":"))
  if is_public:
    values["datasets"] = [dataset]
  results = _hub_results(trained, rows)
  if results:
    values["model-index"] = [{"name": name, "results": results}]
  lines = [
    f"{key}: {json.dumps(value, ensure_ascii=False)}"
    for key, value in values.items()
  ]
  return "\n".join(["---", *lines, "---\n"])


def _dataset(data: str) -> tuple[str, bool]:
  """Returns a dataset's name for a hub, and whether it is TFDS's.

  Names such as "folder:flowers" mean nothing to others, nor do those of stored
  videos.

  Args:
    data: its name in a config, without the path.
  """
  name = re.sub(r":\d+\.\d+\.\d+$", "", data)  # A version of TFDS.
  kind, colon, folder = name.partition(":")
  if colon:
    return folder, False
  first, _, rest = kind.partition("/")
  return (rest, False) if first == "video_folder" else (first, True)


def _hub_results(
  trained: trained_lib.Trained, rows: Sequence[Row]
) -> list[dict[str, Any]]:
  """Returns the results for a model card's `model-index`, as the Hub reads it.

  Args:
    trained: the model.
    rows: of its settings.

  Returns:
    One result with a metric for each evaluated setting; none if no evaluation
    is recorded.
  """
  title = trained.headline_metric.title
  metrics = [
    {
      "type": trained.headline,
      "value": row[trained.headline],
      "name": f"{title} ({dials.Setting.from_row(row).name})",
    }
    for row in rows
    if row[trained.headline] is not None
  ]
  evaluation = trained.training.get("evaluation")
  if not (metrics and evaluation):
    return []
  data, _, split = evaluation.rpartition(", ")
  dataset = {"name": data, "type": _dataset(data)[0], "split": split}
  task = {"type": trained.task.hub_task or trained.task_section["name"]}
  return [{"task": task, "dataset": dataset, "metrics": metrics}]


def _introduction(trained: trained_lib.Trained, rows: Sequence[Row]) -> str:
  number = sum(array.size for array in jax.tree.leaves(trained.params))
  *frames, height, width, _ = trained.image_shape
  title = "An image"
  inputs = f"images of {height}x{width} pixels"
  if frames:
    title = "A video"
    inputs = (
      f"videos, in clips of {terminal.counted(frames[0], 'frame')} of "
      f"{height}x{width} pixels"
    )
  dials = "The patch size ([FlexiViT](https://arxiv.org/abs/2212.08013)) is"
  if any(row["num_tokens"] is not None for row in rows):
    dials = (
      "Patch size ([FlexiViT](https://arxiv.org/abs/2212.08013)) and number of "
      "learned tokens ([TokenLearner](https://arxiv.org/abs/2106.11297)) are"
    )
  settings = terminal.counted(len(rows), "setting")
  if trained.classifies:
    classes = trained.model_section["num_classes"]
    inputs += f"\nand {terminal.counted(classes, 'class')}"
  return f"""\
# {title} {about_lib.noun(trained)} with {settings}

One set of weights, {number:,} parameters, for {inputs}.
{dials} chosen per call, and with that what a call costs.
"""


def _metric_and_cost(
  trained: trained_lib.Trained,
  rows: Sequence[Row],
  profile: Profile | None,
  has_picture: bool,
) -> str:
  headline, metric = trained.headline, trained.headline_metric.title
  seen = "window" if trained.stride else curve.view(trained.kind)
  notes = [f"Multiply-adds are those of one {seen}."]
  if any(row[headline] is not None for row in rows):
    on = trained.training.get("evaluation")
    notes.append(f"The {metric} is measured on {on}." if on else "")
    notes.append(f"A star: no setting that costs less reaches this {metric}.")
  else:
    notes.append(f"No {metric} is recorded for these weights.")
  if profile:
    notes.append(
      "Time, speed and memory are those of a call with so many "
      f"{trained.kind}s, "
      f"measured on {profile_lib.hardware()} with JAX {jax.__version__}."
    )
  elif has_picture:
    on = trained.training.get("hardware", "the machine of the training")
    notes.append(f"Times in the picture are of evaluation batches on {on}.")
  picture = (
    f"![{metric} against patch size, learned tokens and cost]({PICTURE_FILE})"
    "\n\n"
  )
  shown = [_shown(row, rows, trained) for row in rows]
  # A name such as mIoU is written as it is.
  heading = metric.capitalize() if metric.islower() else metric
  return (
    f"## {heading} and cost\n\n"
    f"{picture if has_picture else ''}{table.markdown(shown)}\n\n"
    f"{' '.join(filter(None, notes))}\n"
  )


def _shown(row: Row, rows: Sequence[Row], trained: trained_lib.Trained) -> Row:
  """Returns a row of the table, without columns that are empty in all rows."""

  def known(name):
    return any(other.get(name) is not None for other in rows)

  shown = {
    title: text or "the model's own"
    for name, (title, text) in zip(
      dials.KINDS, dials.Setting.from_row(row).cells.items(), strict=True
    )
    if known(name)
  }
  shown["multiply-adds in 10⁶"] = terminal.number(1e3 * row["gmacs"])
  headline, metric = trained.headline, trained.headline_metric
  number = trained.training.get("num_examples")
  on = f", {number:,} {trained.kind}s" if number else ""
  columns = {
    headline: (f"{metric.column}{on}", metric.text),
    "batch_size": (f"{trained.kind}s", str),
    "latency_ms": ("ms", "{:.2f}".format),
    "memory_bytes": ("MB", lambda x: f"{x / 1e6:.1f}"),
  }
  for name, (title, text) in columns.items():
    if known(name):
      value = row.get(name)
      shown[title] = "" if value is None else text(value)
  if known(headline):
    shown["best"] = "*" if row["best"] else ""
  return shown


def _use(trained: trained_lib.Trained, rows: Sequence[Row]) -> str:
  setting = rows[0]
  file = {"image": "image.jpg", "video": "video.mp4"}[trained.kind]
  by_budget = f"""\
# The best setting that keeps to a budget, measured on your machine:
predictor.predict("{file}", budget_ms=20)
"""
  if all(row[trained.headline] is None for row in rows):
    by_budget = ""  # It is not known which one is the most accurate.
  chosen = "".join(
    f", {name}={setting[name]!r}"
    for name in dials.KINDS
    if setting[name] is not None
  )
  return f"""\
## Use

With the Python package tokenlearner_flexivit (`pip install -e '.[hub]'` in a
clone of it), and this folder as `model`. From the Hugging Face Hub it is
`Predictor.load("hf://OWNER/NAME")` instead, or

```bash
hf download OWNER/NAME --local-dir model
```

```python
from tokenlearner_flexivit.inference import Predictor

predictor = Predictor.load("model")
predictor.predict("{file}"{chosen})
{by_budget}```
"""


def _input(trained: trained_lib.Trained) -> str:
  labels, shape = trained.class_names, list(trained.preparation().shape)
  if labels is None:
    text = "The classes have no names." if trained.classifies else ""
  elif len(labels) > _MAX_LABELS:
    text = f"The names of all {len(labels)} classes are in `{CONFIG_FILE}`."
  else:
    text = f"Classes: {', '.join(labels)}."
  if trained.classifies:
    output = (
      f"A {about_lib.link_name(trained)} turns logits into probabilities."
    )
  else:
    setting = trained.known_settings[0]
    about = about_lib.about_answer(trained, setting)
    output = f"An answer has {about_lib.answer_in_words(about)}"
    meaning = trained.task.answer_text
    output += f": {meaning}." if meaning else "."
  return f"""\
## Input and output

{trained.kind.capitalize()}s become float32 arrays {shape} by these steps, which
the library applies by itself.{about_lib.input_in_words(trained)}

{about_lib.preprocessing_table(trained)}

{f"{output} {text}".rstrip()}
"""


def _training(trained: trained_lib.Trained) -> str:
  about = trained.training
  parts = []
  if "data" in about:
    parts.append(f"on {about['data']} (split {about['split']})")
  if "steps" in about:
    steps = f"{about['steps']:,} step{'s' * (about['steps'] != 1)}"
    minutes = terminal.number(about["seconds"] / 60, 3)
    parts.append(f"for {steps} in {minutes} min")
  if "hardware" in about:
    parts.append(f"on {about['hardware']}")
  told = " ".join(["Trained", *parts]) if parts else "Nothing is recorded"
  settings = len(trained.settings)
  for_all = f" One model for {settings} settings." if settings > 1 else ""
  others = len(set(trained.known_settings) - set(trained.settings))
  if others:
    for_all += f" {others} more were evaluated, but not trained."
  return f"## Training\n\n{told}.{for_all} `{CONFIG_FILE}` has the model.\n"


def _notes_for_the_author(name: str) -> str:
  """Returns notes in a comment, which hubs do not show."""
  return f"""\
<!--
Before you publish this: write the owner and the name above in place of
hf://OWNER/NAME, and add `license:` on top, and what the model is meant for and
where it fails. Then: hf upload OWNER/NAME {name}
-->
"""
