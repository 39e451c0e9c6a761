"""A trained model as programs that run without this package.

One set of weights, and for each setting a small program without any: a function
of weights and images, as StableHLO that `jax.export` reads again. What must be
known to use them stands beside them, for machines in manifest.json and for
people in README.md.
"""

import inspect
import json
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import export as jax_export

import tokenlearner_flexivit
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, table
from tokenlearner_flexivit.analysis import flops, plane
from tokenlearner_flexivit.inference import settings as settings_lib
from tokenlearner_flexivit.inference import trained as trained_lib
from tokenlearner_flexivit.tasks import classification

MANIFEST_FILE = "manifest.json"
# One program serves all; the few operations that differ are in it for each.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def new_folder(folder: str | os.PathLike) -> pathlib.Path:
  """Returns a folder without content, made if it is not there.

  Raises:
    ValueError: there is a file of that name, or something in the folder.
  """
  path = pathlib.Path(folder)
  if path.exists() and not path.is_dir():
    raise ValueError(f"{path} is a file. Give the name of a new folder.")
  path.mkdir(parents=True, exist_ok=True)
  found = sorted(entry.name for entry in path.iterdir())
  if found:
    shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    raise ValueError(
      f"The folder {path} is not empty: it holds {shown}. Nothing is "
      "overwritten; remove them, or give a new folder."
    )
  return path


def best_settings(trained: trained_lib.Trained) -> tuple[dials.Setting, ...]:
  """The settings worth choosing, from the cheapest to the dearest.

  They are the Pareto front of recorded accuracy against multiply-adds, or all
  settings of the training where no accuracy is recorded.
  """
  known = settings_lib.Settings(trained)
  settings = tuple(known.accuracies)
  best = plane.front(
    [known.gmacs(setting) for setting in settings],
    [known.accuracies[setting] for setting in settings],
  )
  return tuple(settings[index] for index in best) or trained.settings


def about_input_and_output(trained: trained_lib.Trained) -> dict[str, Any]:
  """What goes in, how it is made, and what comes out, as JSON takes it."""
  return {
    "input": {
      "shape": ["batch", *trained.image_shape],
      "dtype": "float32",
      "preprocessing": trained.pp,
      "preprocessing_steps": _steps_in_words(trained.pp),
    },
    "output": {
      "shape": ["batch", trained.model_section["num_classes"]],
      "dtype": "float32",
      "values": "logits",
      "probabilities": link_name(trained),
      "loss": trained.loss,
    },
    "labels": trained.class_names,
  }


def about_setting(
  trained: trained_lib.Trained, setting: dials.Setting
) -> dict[str, Any]:
  """The cost of a setting and what is recorded of it, as JSON takes it.

  Raises:
    ValueError: it does not fit the images or the model.
  """
  height, width = trained.model.check(trained.image_shape[:2], *setting)
  row = trained.row(setting) or {}
  return {
    "patch_size": setting.patch_size,
    "num_tokens": setting.num_tokens,
    "trained": setting in trained.settings,
    # Of the image, before TokenLearner, and a cls token.
    "seq_len": height * width + int(trained.model.pool == "tok"),
    "multiply_adds": flops.macs(trained.model, trained.image_shape, *setting),
    "accuracy": row.get("accuracy"),
  }


def link_name(trained: trained_lib.Trained) -> str:
  """The function of `jax.nn` that makes probabilities of logits."""
  return classification.LINKS[trained.loss].__name__


def preprocessing_table(trained: trained_lib.Trained) -> str:
  """The steps of the preprocessing as a Markdown table."""
  rows = [
    {
      "step": f"`{step['op']}`",
      "what it does": step["does"],
      "with": ", ".join(f"{k} {v}" for k, v in step["arguments"].items()),
    }
    for step in _steps_in_words(trained.pp)
  ]
  return table.markdown(rows) if rows else "Images are taken as they are."


def write(
  trained: trained_lib.Trained,
  folder: str | os.PathLike,
  settings: Sequence[dials.Setting] | None = None,
) -> pathlib.Path:
  """Writes weights, a program for each setting, a manifest and a README.

  The programs take a batch of any size, and are made for CPUs, GPUs and TPUs
  alike (tried on CPUs). The weights are a file that `trained.load` reads too.

  Args:
    trained: the model.
    folder: becomes or is an empty folder.
    settings: of the dials; None for `best_settings`.

  Returns:
    The path of the manifest.

  Raises:
    ValueError: there is something in the folder, no setting is given, or one
      does not fit the images or the model.
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
    if not row["trained"]:
      warnings.warn(
        f"The model was not trained for {row['name']}, so its answers may be "
        "poor.",
        stacklevel=2,
      )
  path = new_folder(folder)
  programs = [_program(trained, setting) for setting in settings]
  contents = [program.serialize() for program in programs]
  trained.save(path / trained_lib.MODEL_FILE)
  for row, content in zip(rows, contents, strict=True):
    (path / row["file"]).write_bytes(content)
  about = {
    "weights": trained_lib.MODEL_FILE,
    "call": (
      "jax.export.deserialize(bytes of a file).call(weights, images) gives "
      "logits; weights is the dict of arrays in the weights file"
    ),
    **about_input_and_output(trained),
    "settings": rows,
    "platforms": PLATFORMS,
    "versions": {
      "tokenlearner_flexivit": tokenlearner_flexivit.__version__,
      "jax": jax.__version__,
      "calling_convention": programs[0].calling_convention_version,
    },
  }
  (path / "README.md").write_text(_readme(trained, rows), encoding="utf-8")
  # The last: a folder that has it is complete.
  manifest = path / MANIFEST_FILE
  manifest.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
  return manifest


def _program(
  trained: trained_lib.Trained, setting: dials.Setting
) -> jax_export.Exported:
  model = trained.model

  def logits(weights, images):
    params = traverse_util.unflatten_dict(weights, sep="/")
    return model.apply({"params": params}, images, **setting._asdict())[0]

  weights = {
    name: jax.ShapeDtypeStruct(array.shape, array.dtype)
    for name, array in traverse_util.flatten_dict(
      trained.params, sep="/"
    ).items()
  }
  batch = jax_export.symbolic_shape("batch")
  images = jax.ShapeDtypeStruct((*batch, *trained.image_shape), jnp.float32)
  exported = jax_export.export(jax.jit(logits), platforms=PLATFORMS)
  return exported(weights, images)


def _steps_in_words(pp: str) -> list[dict[str, Any]]:
  """What the ops do to the image, from their own docstrings."""
  steps = []
  for step in data_lib.parse(pp).steps:
    signature = inspect.signature(step.fn)
    given = (None, None) if step.is_random else (None,)  # Example and rng.
    bound = signature.bind(*given, *step.args, **step.kwargs)
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[len(given) :])
    # Ops on labels, or on nothing but names, mean nothing to users.
    if arguments.pop("key", None) == "image":
      does = inspect.getdoc(step.fn).splitlines()[0]
      steps.append({"op": step.text, "does": does, "arguments": arguments})
  return steps


def _readme(
  trained: trained_lib.Trained, rows: Sequence[dict[str, Any]]
) -> str:
  shape = (1, *trained.image_shape)
  shown = [
    {
      "file": f"`{row['file']}`",
      "patch size": "x".join(map(str, row["patch_size"])),
      "learned tokens": row["num_tokens"] or "the model's own",
      "multiply-adds in 10⁶": f"{row['multiply_adds'] / 1e6:.4g}",
      "accuracy %": (
        "not recorded"
        if row["accuracy"] is None
        else f"{100 * row['accuracy']:.2f}"
      ),
    }
    for row in rows
  ]
  return f"""\
# An image classifier, exported

One set of weights and {len(rows)} programs, one for each setting of the dials.
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
images = np.zeros({shape}, np.float32)  # Yours, preprocessed as below.
logits = program(weights, images)
probabilities = jax.nn.{link_name(trained)}(logits)
```

The number of images is free; each new one is compiled once. The programs are
made for {", ".join(PLATFORMS[:-1])} and {PLATFORMS[-1]}.

{table.markdown(shown)}

Images are float32 [batch, height, width, channels], colours in the order red,
green, blue, made of encoded files by these steps:

{preprocessing_table(trained)}

`{MANIFEST_FILE}` has all this for machines, and the labels in the order of the
logits.

Written with JAX {jax.__version__}. JAX promises to read such programs with
releases up to six months newer, and up to three weeks older. The weights have
no such limit, and tokenlearner_flexivit makes new programs of them:

    python -m tokenlearner_flexivit.predict export --workdir=THIS --output=NEW
"""
