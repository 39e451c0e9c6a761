"""Exports of a trained model as programs that run without this package.

An export has one file of weights, and for each setting a small program without
weights: a function of weights and images or videos, as StableHLO that
`jax.export` reads. manifest.json describes them for programs, README.md for
people.
"""

import contextlib
import inspect
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import export as jax_export

import tokenlearner_flexivit
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, paths, terminal
from tokenlearner_flexivit.figures import plane, table
from tokenlearner_flexivit.inference import settings as settings_lib
from tokenlearner_flexivit.inference import trained as trained_lib
from tokenlearner_flexivit.tasks import answers, classification

MANIFEST_FILE = "manifest.json"  # A folder with this file is complete.
_PARTIAL = ".partial"  # The hidden folder of an incomplete export.
# Arguments of ops that say nothing of the image itself.
_OF_TRUTH = frozenset(("masks", "masks_exif", "ignore", "boxes", "min_visible"))
# One program serves all of them, and holds each version of operations that
# differ.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Creates a new folder, complete or not at all; a context manager.

  Files are first written to a hidden folder inside it. They are moved up, the
  manifest last, if the context ends without an error.

  Args:
    folder: as `check_new` takes it.

  Yields:
    The folder to write files to.

  Raises:
    ValueError, OSError: `check_new` refuses it, or it cannot be written.
  """
  path = check_new(folder)
  is_new = not path.exists()
  partial = path / _PARTIAL
  shutil.rmtree(partial, ignore_errors=True)  # Of a killed process.
  try:
    partial.mkdir(parents=True)
    yield partial
    for file in sorted(
      partial.iterdir(), key=lambda file: file.name == MANIFEST_FILE
    ):
      file.rename(path / file.name)
    partial.rmdir()
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    if is_new:
      with contextlib.suppress(OSError):
        path.rmdir()
    raise


def check_new(folder: str | os.PathLike) -> pathlib.Path:
  """Returns the folder's path if it does not exist or is empty; else raises.

  Args:
    folder: may begin with "~", which is expanded.

  Raises:
    ValueError: a file has that name, or the folder is not empty.
  """
  path = paths.local(folder, "output")
  if path.exists() and not path.is_dir():
    raise ValueError(f"{path} is a file. Give the name of a new folder.")
  names = [entry.name for entry in path.iterdir()] if path.exists() else []
  names = sorted(name for name in names if name != _PARTIAL)
  if names:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise ValueError(
      f"The folder {path} is not empty: it holds {shown}. Nothing is "
      "overwritten; remove them, or give a new folder."
    )
  return path


def best_settings(trained: trained_lib.Trained) -> tuple[dials.Setting, ...]:
  """Returns the settings worth choosing, from the cheapest to the dearest.

  They are the Pareto front of the headline metric against multiply-adds, among
  all settings that the run's report has evaluated; or, if nothing is recorded,
  the settings of the training that fit the images.
  """
  known = settings_lib.Settings(trained)
  settings = tuple(known.values)
  best = plane.front(
    [known.gmacs(setting) for setting in settings],
    [known.values[setting] for setting in settings],
  )
  return tuple(settings[index] for index in best) or trained.known_settings


def about_input_and_output(trained: trained_lib.Trained) -> dict[str, Any]:
  """Returns input, preprocessing and output of the model, as JSON values."""
  output = {
    "values": trained.task.answer_text or "answer",
    "task": trained.task_section["name"],
  }
  if trained.classifies:
    output = {
      "shape": ["batch", trained.model_section["num_classes"]],
      "dtype": "float32",
      "values": "logits",
      "probabilities": link_name(trained),
      "loss": trained.loss,
    }
  return {
    "input": {
      "shape": ["batch", *trained.preparation().shape],
      "axes": input_axes(trained),
      "dtype": "float32",
      # The rate and size of the frames that the preprocessing begins with.
      **(trained.video or {}),
      **({"stride_of_windows": trained.stride} if trained.stride else {}),
      "preprocessing": trained.pp,
      "preprocessing_steps": _steps_in_words(trained),
    },
    "output": output,
    "labels": trained.class_names,
  }


def about_setting(
  trained: trained_lib.Trained, setting: dials.Setting
) -> dict[str, Any]:
  """Returns a setting with its cost and recorded metrics, as JSON values.

  Raises:
    ValueError: the setting does not fit the images or the model.
  """
  size = trained.image_shape[:-1]
  trained.model.check(size, **setting)
  about = {
    **{name: setting.get(name) for name in dials.KINDS},
    "trained": setting in trained.settings,
    "evaluated": trained.row(setting) is not None,
    "seq_len": trained.model.seq_len(size, **setting),
    "multiply_adds": trained.model.cost(trained.image_shape, **setting),
    **trained.metrics(setting),
  }
  if not trained.classifies:
    about["answer"] = about_answer(trained, setting)
  return about


def about_answer(
  trained: trained_lib.Trained, setting: dials.Setting
) -> dict[str, Any]:
  """Returns the shape and dtype of each array of an answer, by name."""
  inputs = jax.ShapeDtypeStruct((1, *trained.preparation().shape), jnp.float32)
  arrays = jax.eval_shape(_answering(trained, setting), trained.params, inputs)
  return {
    name: {"shape": ["batch", *array.shape[1:]], "dtype": str(array.dtype)}
    for name, array in arrays.items()
  }


def answer_in_words(about: Mapping[str, Any]) -> str:
  """Returns the arrays of `about_answer` as words."""
  arrays = [
    f"`{name}` {array['dtype']} [{', '.join(map(str, array['shape']))}]"
    for name, array in about.items()
  ]
  return ", ".join(arrays)


def noun(trained: trained_lib.Trained) -> str:
  """Returns a name for the kind of model, such as "classifier"."""
  if trained.classifies:
    return "classifier"
  return f"model for {trained.task_section['name'].replace('_', ' ')}"


def link_name(trained: trained_lib.Trained) -> str:
  """Returns the name in `jax.nn` of the link from logits to probabilities."""
  return classification.LINKS[trained.loss].__name__


def input_axes(trained: trained_lib.Trained) -> list[str]:
  """Returns the names of the axes of the input."""
  axes = ["height", "width", "channels"]
  if trained.kind == "video":
    axes.insert(0, "frames")
  if len(trained.preparation().shape) > len(axes):
    axes.insert(0, "views")
  return ["batch", *axes]


def input_in_words(trained: trained_lib.Trained) -> str:
  """Describes frames that come before preprocessing, and windows after it."""
  if trained.stride is not None:
    height, width, _ = trained.image_shape
    down, across = trained.stride
    return (
      f" The model then sees windows of {height} x {width} pixels, {down} down "
      f"and {across} across from one to the next, the last ones at the border. "
      "Answers are averaged where windows overlap."
    )
  if trained.kind == "image":
    return ""
  return (
    " The steps begin with the frames that a file shows "
    f"{trained.video['fps']:g} times a second, reduced to a smaller side of "
    f"{trained.video['size']} pixels if it is larger."
  )


def preprocessing_table(trained: trained_lib.Trained) -> str:
  """Returns the steps of the preprocessing as a Markdown table."""
  rows = [
    {
      "step": f"`{step['op']}`",
      "what it does": step["does"],
      "with": ", ".join(f"{k} {v}" for k, v in step["arguments"].items()),
    }
    for step in _steps_in_words(trained)
  ]
  if rows:
    return table.markdown(rows)
  return f"{trained.kind.capitalize()}s are taken as they are."


def write(
  trained: trained_lib.Trained,
  folder: str | os.PathLike,
  settings: Sequence[dials.Setting] | None = None,
) -> pathlib.Path:
  """Writes weights, a program for each setting, a manifest and a README.

  The programs take a batch of any size, and run on CPUs, GPUs and TPUs (tried
  on CPUs). The file of weights can also be read by `trained.load`.

  Args:
    trained: the model.
    folder: an empty or new folder.
    settings: of the dials; None for `best_settings`.

  Returns:
    The path of the manifest.

  Raises:
    ValueError: the folder is not empty, there is no setting, or one does not
      fit the images or the model.
  """
  if settings is None:
    settings = best_settings(trained)
  settings = tuple(dict.fromkeys(settings))
  if not settings:
    raise ValueError("No setting to export. Give at least one.")
  rows = [
    {"name": s.name, "file": f"{s.name}.jax", **about_setting(trained, s)}
    for s in settings
  ]
  for row in rows:
    if not (row["trained"] or row["evaluated"]):
      warnings.warn(
        f"The model was neither trained nor evaluated for {row['name']}, so "
        "its answers may be poor.",
        stacklevel=2,
      )
  with new_folder(folder) as path:
    _write_files(trained, path, rows, settings)
  return paths.local(folder, "output") / MANIFEST_FILE


def _write_files(
  trained: trained_lib.Trained,
  path: pathlib.Path,
  rows: Sequence[dict[str, Any]],
  settings: Sequence[dials.Setting],
) -> None:
  """Writes the files of `write` into an existing folder."""
  programs = [_program(trained, setting) for setting in settings]
  trained.save(path / trained_lib.MODEL_FILE)
  for row, program in zip(rows, programs, strict=True):
    (path / row["file"]).write_bytes(program.serialize())
  about = {
    "weights": trained_lib.MODEL_FILE,
    "call": (
      f"jax.export.deserialize(bytes of a file).call(weights, {trained.kind}s) "
      f"gives {'logits' if trained.classifies else 'a dict of arrays'}; "
      "weights is the dict of arrays in the weights file"
    ),
    **about_input_and_output(trained),
    "model": trained.model_section,
    "metric": trained.headline,
    "settings": rows,
    "platforms": PLATFORMS,
    "versions": {
      "tokenlearner_flexivit": tokenlearner_flexivit.__version__,
      "jax": jax.__version__,
      "calling_convention": programs[0].calling_convention_version,
    },
  }
  (path / "README.md").write_text(_readme(trained, rows), encoding="utf-8")
  (path / MANIFEST_FILE).write_text(
    json.dumps(about, indent=2) + "\n", encoding="utf-8"
  )


def _answering(
  trained: trained_lib.Trained, setting: dials.Setting
) -> Callable[[Any, jax.Array], Any]:
  """Returns a function from parameters and inputs to logits or arrays."""

  def answer(params, inputs):
    batch = {trained.kind: inputs}
    answer = trained.task.predict(params, batch, setting)
    return answer if trained.classifies else answers.leaves(answer)

  return answer


def _program(
  trained: trained_lib.Trained, setting: dials.Setting
) -> jax_export.Exported:
  answer = _answering(trained, setting)

  def program(weights, inputs):
    return answer(traverse_util.unflatten_dict(weights, sep="/"), inputs)

  weights = {
    name: jax.ShapeDtypeStruct(array.shape, array.dtype)
    for name, array in traverse_util.flatten_dict(
      trained.params, sep="/"
    ).items()
  }
  batch = jax_export.symbolic_shape("batch")
  shape = *batch, *trained.preparation().shape
  inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
  exported = jax_export.export(jax.jit(program), platforms=PLATFORMS)
  return exported(weights, inputs)


def _steps_in_words(trained: trained_lib.Trained) -> list[dict[str, Any]]:
  """Returns the ops on the input in words, which are their docstrings'."""
  steps = []
  for step in data_lib.parse(trained.pp).steps:
    signature = inspect.signature(step.op)
    # The op's first arguments: the example and, if it is random, the rng.
    first = (None, None) if step.is_random else (None,)
    bound = signature.bind(*first, *step.args, **step.kwargs)
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[len(first) :])
    # Ops on labels, or only on names, mean nothing to users.
    if arguments.pop("key", None) == trained.kind:
      for name in _OF_TRUTH & arguments.keys():
        del arguments[name]
      does = inspect.getdoc(step.op).splitlines()[0]
      steps.append({"op": step.text, "does": does, "arguments": arguments})
  return steps


def _readme(
  trained: trained_lib.Trained, rows: Sequence[dict[str, Any]]
) -> str:
  kind, axes = trained.kind, input_axes(trained)
  headline, metric = trained.headline, trained.headline_metric
  shape = 1, *trained.preparation().shape
  title = {"image": "An image", "video": "A video"}[kind]
  per = " of a view" if "views" in axes else ""
  shown = [
    {
      "file": f"`{row['file']}`",
      **{
        title: text or "the model's own"
        for title, text in dials.Setting.from_row(row).cells.items()
      },
      f"multiply-adds{per} in 10⁶": f"{row['multiply_adds'] / 1e6:.4g}",
      metric.column: (
        "not recorded" if row[headline] is None else metric.text(row[headline])
      ),
    }
    for row in rows
  ]
  programs = terminal.counted(len(rows), "program")
  call = f"answer = program(weights, {kind}s)"
  labels = ", and the labels of the classes" * bool(trained.class_names)
  if trained.classifies:
    call = (
      f"logits = program(weights, {kind}s)\n"
      f"probabilities = jax.nn.{link_name(trained)}(logits)"
    )
    labels = ", and the labels in the order of the\nlogits"
  else:
    call += f"\n# A dict of {answer_in_words(rows[-1]['answer'])}"
    about = trained.task.answer_text
    call += f":\n# {about}." if about else "."
  return f"""\
# {title} {noun(trained)}, exported

One set of weights and {programs}, one for each setting of the dials.
They need no more than `pip install jax flatbuffers safetensors`:

```python
import jax
import numpy as np
import safetensors.numpy
from jax import export

weights = safetensors.numpy.load_file("{trained_lib.MODEL_FILE}")
weights = jax.device_put(weights)
with open("{rows[-1]["file"]}", "rb") as file:
  program = jax.jit(export.deserialize(file.read()).call)
{kind}s = np.zeros({shape}, np.float32)  # Yours, preprocessed as below.
{call}
```

The number of {kind}s is free; each new one is compiled once. The programs run
on {", ".join(PLATFORMS[:-1])} and {PLATFORMS[-1]}.

{table.markdown(shown)}

{kind.capitalize()}s are float32 [{", ".join(axes)}], colours in the order red,
green, blue, prepared from files by these steps.{input_in_words(trained)}

{preprocessing_table(trained)}

`{MANIFEST_FILE}` has all this for machines{labels}.

Written with JAX {jax.__version__}. JAX promises to read such programs with
releases up to six months newer, and up to three weeks older. The weights have
no such limit, and tokenlearner_flexivit writes new programs from them:

    python -m tokenlearner_flexivit.predict export --workdir=THIS --output=NEW
"""
