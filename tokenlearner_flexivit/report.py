"""The report of a run: a table, a JSON file and a picture of every setting."""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.data import splits_read
from tokenlearner_flexivit.figures import metric as metric_lib
from tokenlearner_flexivit.figures import settings_table, table
from tokenlearner_flexivit.run import metric_log
from tokenlearner_flexivit.run import workdir as workdir_lib

Row = dict[str, Any]


class Experiment(Protocol):
  """The parts of `train.setup.Experiment` that a report reads.

  Attributes:
    config: complete, as plain values.
    dials: settings, and how often each is drawn.
    evaluators: by name.
    image_shape: [H, W, C] or [T, H, W, C] of a training example.
    task: with its model.
  """

  config: Mapping[str, Any]
  dials: Any
  evaluators: Mapping[str, Any]
  image_shape: tuple[int, ...]
  task: Any


# The unit of costs. A video may be seen in several views, an image has one.
_VIEW = {"image": "image", "video": "view"}
# A line of an evaluation fits in about 120 columns.
_WIDTH_OF_SETTINGS = 72


def _cost(model, image_shape, setting) -> Row:
  patch_size = setting.patch_size or model.own_patch_size
  return {
    **setting.replace(patch_size=patch_size).row,
    "seq_len": model.seq_len(image_shape[:-1], **setting),
    "gmacs": model.cost(image_shape, **setting) / 1e9,
  }


def cost_table(experiment: Experiment) -> str:
  """Returns a table of every setting's cost, for the start of a run."""
  drawn_from, model = experiment.dials, experiment.task.model
  rows = []
  for setting, share in zip(
    drawn_from.settings, drawn_from.shares, strict=True
  ):
    row = _cost(model, experiment.image_shape, setting)
    rows.append(
      {
        **settings_table.shown_setting(row),
        f"GMACs/{_VIEW[model.input]}": terminal.number(row["gmacs"]),
        "share of steps": f"{share:.2f}",
      }
    )
  return table.markdown(rows)


def one_line(
  experiment: Experiment,
  name: str,
  values: dict[str, float],
  step: int,
  seconds: float,
) -> str:
  """Returns an evaluation as a line: each setting's headline metric."""
  evaluator = experiment.evaluators[name]
  metric = evaluator.metrics[evaluator.headline]
  parts = {
    setting.name.removeprefix("patch"): (
      values[f"{setting.name}/{evaluator.headline}"]
    )
    for setting in evaluator.settings
  }
  shown = "  ".join(
    f"{key}: {metric.text(value)}" for key, value in parts.items()
  )
  if len(shown) > _WIDTH_OF_SETTINGS:
    low, high = (choose(parts, key=parts.get) for choose in (min, max))
    shown = (
      f"{metric.text(parts[low])} ({low}) to {metric.text(parts[high])} "
      f"({high}), "
      f"{terminal.counted(len(parts), 'setting')}"
    )
  return f"step {step}  {name} {metric.axis}  {shown}  ({seconds:.1f} s)"


def setting_rows(
  experiment: Experiment,
  name: str,
  params: Any,
  values: dict[str, float],
) -> list[Row]:
  """Joins the metrics of an evaluator with costs and measured throughput.

  Args:
    experiment: the run.
    name: of the evaluator.
    params: replicated.
    values: the metrics that it yielded.

  Returns:
    A row per setting, as in report.json. For a model for videos, `seq_len` and
    `gmacs` are of one view, and `images_per_s` counts videos with all views.
  """
  evaluator = experiment.evaluators[name]
  throughput = evaluator.throughput(params)
  rows = []
  for setting in evaluator.settings:
    row = _cost(experiment.task.model, evaluator.image_shape, setting)
    prefix = f"{setting.name}/"
    row |= {
      key.removeprefix(prefix): value
      for key, value in values.items()
      if key.startswith(prefix)
    }
    rows.append(row | {"images_per_s": throughput[setting]})
  return rows


def other_rows(
  experiment: Experiment, name: str, values: dict[str, float]
) -> list[Row]:
  """Returns metrics of things other than settings: teachers, ensembles.

  Args:
    experiment: the run.
    name: of the evaluator.
    values: the metrics that it yielded.

  Returns:
    A row for each: its `name`, and its metrics.
  """
  settings = {setting.name for setting in experiment.evaluators[name].settings}
  rows = {}
  for key, value in values.items():
    owner, _, metric = key.partition("/")
    if owner not in settings:
      rows.setdefault(owner, {"name": owner})[metric] = value
  return list(rows.values())


def _num_examples(rows: Sequence[Row]) -> int | None:
  """Returns the number of examples of the rows, None if it is not recorded."""
  count = rows[0].get("examples")
  return None if count is None else round(count)


def _joined(tables: dict[str, list[Row]], first: str) -> list[Row]:
  """Returns an evaluator's rows, with metrics of others as `name/metric`.

  Costs are only those of that evaluator.
  """
  costs = (*dials.KINDS, "seq_len", "gmacs", "images_per_s")
  rows = [dict(row) for row in tables[first]]
  for name, others in tables.items():
    for row, other in itertools.product(rows, others if name != first else ()):
      if all(other[k] == row[k] for k in dials.KINDS):
        row |= {f"{name}/{k}": v for k, v in other.items() if k not in costs}
  return rows


def write(
  experiment: Experiment,
  workdir: pathlib.Path,
  params: Any,
  results: dict[str, dict[str, float]],
  step: int,
) -> dict[str, Any] | None:
  """Prints the tables; writes report.md, report.json and pictures.

  The picture is patch_sizes.png, or plane.png if there are several numbers of
  learned tokens.

  One evaluator provides the rows of the report: if possible one of the task's
  headline, such as accuracy, on the dataset of the training, on another split
  of it. Of accuracy and mean average precision it is the latter if examples may
  have several classes. Each other evaluator gets a table, and its metrics are
  added to those rows in report.json.

  Args:
    experiment: the run.
    workdir: the folder for the files.
    params: the evaluated parameters, replicated.
    results: metrics by evaluator and name.
    step: the training step of the parameters.

  Returns:
    The content of report.json, or None if the config has no evaluator.

  Raises:
    OSError: some files could not be written; the others are, and all tables
      were printed.
  """
  if not results:
    return None
  tables = {
    name: setting_rows(experiment, name, params, values)
    for name, values in results.items()
  }
  if jax.process_index() > 0:
    return None
  others = {
    name: rows
    for name, values in results.items()
    if (rows := other_rows(experiment, name, values))
  }
  _add_before_training(experiment, tables, workdir, step)
  sections = _say_tables(experiment, tables, others)
  report = _content(experiment, workdir, params, tables, others, step)
  problems = []

  def attempt(what: str, write: Callable[[pathlib.Path], Any]) -> bool:
    """Writes a file, or notes the error; tells whether the file was written."""
    try:
      return write(workdir / what) is not False  # False means nothing to draw.
    except OSError as error:
      problems.append(f"{what} ({error.strerror or error})")
      return False

  attempt(
    workdir_lib.REPORT_FILE, lambda path: workdir_lib.write_json(path, report)
  )
  title, pictures = _draw(experiment, params, report, attempt)
  text = _text(experiment, report, title, pictures, sections)
  attempt(
    "report.md",
    lambda path: workdir_lib.write_whole(
      path, terminal.encodable(text).encode()
    ),
  )
  if problems:
    raise OSError(
      f"In {workdir} could not be written: {', '.join(problems)}. The results "
      "are in the tables above; --mode=eval writes the report anew."
    )
  terminal.say(f"\nReport: {workdir / 'report.md'}")
  return report


def _add_before_training(
  experiment: Experiment,
  tables: Mapping[str, Sequence[Row]],
  workdir: pathlib.Path,
  step: int,
) -> None:
  """Adds the headlines at step 0, if the run evaluated then, to the rows."""
  logged = {}
  for record in metric_log.read(workdir) if step else ():
    if record["step"] == 0:
      logged |= record
  for name, rows in tables.items():
    evaluator = experiment.evaluators[name]
    for setting, row in zip(evaluator.settings, rows, strict=True):
      key = f"{name}/{setting.name}/{evaluator.headline}"
      if key in logged:
        row[settings_table.BEFORE] = logged[key]


def _say_tables(
  experiment: Experiment,
  tables: Mapping[str, Sequence[Row]],
  others: Mapping[str, Sequence[Row]],
) -> list[str]:
  """Prints the table of each evaluation; returns them as Markdown."""
  kind, sections = experiment.task.model.input, []
  for name, rows in tables.items():
    evaluator = experiment.evaluators[name]
    shown = settings_table.markdown(
      rows, evaluator.metrics, evaluator.headline, kind
    )
    if name in others:
      more = settings_table.markdown_of_others(others[name], evaluator.metrics)
      shown += f"\n\n{more}"
    count = _num_examples(rows)
    about = "" if count is None else terminal.counted(count, kind)
    title = f"{name} ({about})" if about else name
    # Tables of every class are long, and for the file alone.
    details = evaluator.details(rows)
    whole = "\n\n".join(filter(None, (shown, details)))
    sections.append(f"## {title}\n\n{whole}\n")
    terminal.say(f"\n{', '.join(filter(None, (name, about)))}:\n{shown}")
  return sections


def _content(
  experiment: Experiment,
  workdir: pathlib.Path,
  params: Any,
  tables: dict[str, list[Row]],
  others: dict[str, list[Row]],
  step: int,
) -> dict[str, Any]:
  """Returns the content of report.json."""
  trained_on = experiment.config["data"]

  def rank(name: str) -> tuple[bool, ...]:
    """Returns a sort key that precedes the name, as a ConfigDict sorts keys."""
    data = experiment.config["evals"][name]["data"]
    evaluator = experiment.evaluators[name]
    parts = [part for source in evaluator.sources for part in source.parts]
    is_trained_on, differs, is_shared = splits_read.unlike_training(
      data, trained_on, parts
    )
    return (
      evaluator.headline not in experiment.task.headlines,
      name in others,  # Ensembles come after plain accuracy.
      is_trained_on,
      differs,
      evaluator.for_several != evaluator.has_several,
      is_shared,
    )

  first = min(tables, key=rank)
  evaluator = experiment.evaluators[first]
  return {
    "evaluation": first,
    "headline": evaluator.headline,
    "metrics": {
      name: dataclasses.asdict(metric)
      for name, metric in evaluator.metrics.items()
    },
    "num_examples": _num_examples(tables[first]),
    "image_shape": list(evaluator.image_shape),
    "settings": _joined(tables, first),
    "evals": tables,
    "others": others,  # Rows of teachers and ensembles, which are no settings.
    "train": {
      "steps": step,
      "seconds": metric_log.train_seconds(workdir, step),
    },
    "num_params": sum(x.size for x in jax.tree.leaves(params)),
    "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "date": time.strftime("%Y-%m-%d"),
    "config": experiment.config,
  }


def _draw(
  experiment: Experiment,
  params: Any,
  report: Mapping[str, Any],
  attempt: Callable[[str, Callable[[pathlib.Path], Any]], bool],
) -> tuple[str, str]:
  """Draws the pictures, and returns a title and Markdown that shows them."""
  # Imported here, since a training needs no Matplotlib before.
  from tokenlearner_flexivit.analysis import token_maps, video_maps
  from tokenlearner_flexivit.figures import curve, plane

  rows = report["evals"][report["evaluation"]]
  metric = metric_lib.from_report(report, report["headline"])
  about = report["headline"], metric, report["num_examples"]
  data, kind = experiment.config["data"]["name"], experiment.task.model.input
  file, draw, noun = "patch_sizes.png", curve.draw, "patch size"
  text = f"{metric.title} against cost and speed"
  if plane.is_plane(rows):
    file, draw, noun = "plane.png", plane.draw, "setting"
    text = f"{metric.title} by patch size and learned tokens"
  if rows[0]["patch_size"] is None:
    noun = "setting"
  title = f"{data}: one model, {terminal.counted(len(rows), noun)}"
  pictures = ""
  if attempt(file, lambda path: draw(rows, path, title, *about, kind)):
    pictures += f"![{text}]({file})\n\n"
  # On one device: the other processes take no part.
  params = jax.tree.map(lambda x: x.addressable_data(0), params)
  evaluator = experiment.evaluators[report["evaluation"]]
  for file, text, draw in evaluator.pictures(params, rows):
    if attempt(file, draw):
      pictures += f"![{text}]({file})\n\n"
  maps = {"image": token_maps, "video": video_maps}[kind]
  if attempt(
    "token_maps.png",
    lambda path: maps.draw_run(
      path, experiment.config, experiment.task.model, params
    ),
  ):
    pictures += "![where learned tokens look](token_maps.png)\n\n"
    if kind == "video":
      pictures += "![the same in time](token_maps.gif)\n\n"
  return title, pictures


def _text(
  experiment: Experiment,
  report: Mapping[str, Any],
  title: str,
  pictures: str,
  sections: Sequence[str],
) -> str:
  """Returns the content of report.md."""
  train, kind = report["train"], experiment.task.model.input
  interval = ""
  if any("95 % interval" in section for section in sections):
    interval = (
      f" An interval is Wilson's, for so many {kind}s tested; other seeds of "
      "the training differ beside it."
    )
  evals = experiment.config["evals"]
  sliding = [name for name in report["evals"] if evals[name].get("window")]
  windows = ""
  if sliding:
    windows = f", of {', '.join(sliding)} per window that slides over an image"
  return (
    f"# {title}\n\n{report['num_params']:,} parameters, "
    f"{terminal.counted(train['steps'], 'step')} "
    f"in {terminal.duration(train['seconds'])} on {report['hardware']}.\n\n"
    f"{pictures}GMACs are multiply-adds per {_VIEW[kind]}{windows} (in the "
    f"FlexiViT paper's GFLOPs, twice as many); {kind}s/s is one batch's "
    f"evaluation on this hardware, median of interleaved runs.{interval}\n\n"
    + "\n".join(sections)
  )
