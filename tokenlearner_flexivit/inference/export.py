"""Exports of a trained model as programs that run without this package.

An export has one file of weights, and for each setting a small program without
weights: a function of weights and images or videos, as StableHLO that
`jax.export` reads. manifest.json describes them for programs, README.md for
people.
"""

import contextlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import export as jax_export

import tokenlearner_flexivit
from tokenlearner_flexivit import dials, paths, terminal
from tokenlearner_flexivit.figures import plane
from tokenlearner_flexivit.inference import about as about_lib
from tokenlearner_flexivit.inference import export_readme
from tokenlearner_flexivit.inference import settings as settings_lib
from tokenlearner_flexivit.inference import trained as trained_lib

MANIFEST_FILE = "manifest.json"  # A folder with this file is complete.
_PARTIAL = ".partial"  # The hidden folder of an incomplete export.
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
    {
      "name": s.name,
      "file": f"{s.name}.jax",
      **about_lib.about_setting(trained, s),
    }
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
  programs = [_answers(trained, setting) for setting in settings]
  trained.save(path / trained_lib.MODEL_FILE)
  for row, program in zip(rows, programs, strict=True):
    (path / row["file"]).write_bytes(program.serialize())
  further = {}
  for name, known in trained.task.further_programs().items():
    further[name] = {
      "file": f"{name}.jax",
      "shape": ["batch", *known.shape],
      "dtype": jnp.dtype(known.dtype).name,
      "gives": known.does,
      **known.about,
    }
    program = _program(trained, known.function, known.shape, known.dtype)
    (path / further[name]["file"]).write_bytes(program.serialize())
  about = {
    "weights": trained_lib.MODEL_FILE,
    "call": (
      f"jax.export.deserialize(bytes of a file).call(weights, {trained.kind}s) "
      f"gives {'logits' if trained.classifies else 'a dict of arrays'}; "
      "weights is the dict of arrays in the weights file"
    ),
    **about_lib.about_input_and_output(trained),
    "model": trained.model_section,
    "metric": trained.headline,
    "settings": rows,
    **({"further_programs": further} if further else {}),
    "platforms": PLATFORMS,
    "versions": {
      "tokenlearner_flexivit": tokenlearner_flexivit.__version__,
      "jax": jax.__version__,
      "calling_convention": programs[0].calling_convention_version,
    },
  }
  readme = export_readme.readme(trained, about, MANIFEST_FILE)
  readme = terminal.encodable(readme)
  (path / "README.md").write_text(readme, encoding="utf-8")
  (path / MANIFEST_FILE).write_text(
    json.dumps(about, indent=2) + "\n", encoding="utf-8"
  )


def _answers(
  trained: trained_lib.Trained, setting: dials.Setting
) -> jax_export.Exported:
  """Returns the program of the answers at a setting."""
  shape = trained.preparation().shape
  function = about_lib.answering(trained, setting)
  return _program(trained, function, shape, jnp.float32)


def _program(
  trained: trained_lib.Trained,
  function: Callable[[Any, jax.Array], Any],
  shape: Sequence[int],
  dtype: Any,
) -> jax_export.Exported:
  """Returns a program of weights and a batch of inputs.

  Args:
    trained: the model.
    function: of parameters and the batch.
    shape: of an input.
    dtype: of the inputs.
  """

  def program(weights, inputs):
    return function(traverse_util.unflatten_dict(weights, sep="/"), inputs)

  weights = {
    name: jax.ShapeDtypeStruct(array.shape, array.dtype)
    for name, array in traverse_util.flatten_dict(
      trained.params, sep="/"
    ).items()
  }
  batch = jax_export.symbolic_shape("batch")
  inputs = jax.ShapeDtypeStruct((*batch, *shape), dtype)
  exported = jax_export.export(jax.jit(program), platforms=PLATFORMS)
  return exported(weights, inputs)
