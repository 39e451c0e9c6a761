"""A trained model and all that its users need to know of its training.

It comes from the workdir of a run or, without the run, from one safetensors
file that keeps what is not an array in its metadata.
"""

import dataclasses
import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util

from tokenlearner_flexivit import checkpoint, dials, models, paths
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import workdir as workdir_lib
from tokenlearner_flexivit.analysis import runs
from tokenlearner_flexivit.inference import images
from tokenlearner_flexivit.tasks import classification

MODEL_FILE = "model.safetensors"
_METADATA = "tokenlearner_flexivit"


@dataclasses.dataclass(frozen=True)
class Trained:
  """A classifier with its dials.

  Attributes:
    params: nested dicts of NumPy arrays.
    model_section: keys of `models.create`, with `num_classes`.
    pp: how the run's evaluation preprocesses an example.
    image_shape: (H, W, C) of the images that its evaluation sees.
    loss: of the training, a key of `classification.LOSSES`.
    settings: of the dials, those of the training.
    class_names: in order, or None where the data has none.
    recorded: the rows of the run's report, one per setting; empty before its
      end.
    training: what is known of the run: data, split, evaluation, and from its
      end on steps, seconds, hardware and date.
  """

  params: Mapping[str, Any]
  model_section: Mapping[str, Any]
  pp: str
  image_shape: tuple[int, int, int]
  loss: str
  settings: tuple[dials.Setting, ...]
  class_names: tuple[str, ...] | None
  recorded: tuple[Mapping[str, Any], ...]
  training: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def model(self) -> nn.Module:
    """The Flax module; its call gives (logits, out)."""
    return models.create(**self.model_section)

  def row(self, setting: dials.Setting) -> Mapping[str, Any] | None:
    """What the report says of a setting, None if nothing."""
    return next(
      (row for row in self.recorded if setting.row.items() <= row.items()), None
    )

  def describe(self) -> dict[str, Any]:
    """All but the parameters, as JSON takes it."""
    return {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name != "params"
    }

  def save(self, path: str | os.PathLike) -> None:
    """Writes one safetensors file that `load` reads."""
    flat = traverse_util.flatten_dict(self.params, sep="/")
    content = safetensors.numpy.save(
      {name: np.ascontiguousarray(array) for name, array in flat.items()},
      metadata={_METADATA: json.dumps(self.describe())},
    )
    # Not by `save_file`, whose files nobody else may read.
    pathlib.Path(path).write_bytes(content)


def load(source: str | os.PathLike) -> Trained:
  """Opens a trained model.

  Args:
    source: the workdir of a run, a file of `Trained.save`, or a folder with
      one named model.safetensors.

  Raises:
    FileNotFoundError: nothing there.
    ValueError: a workdir without a checkpoint, a task that does not classify,
      a run without an evaluation (whose preprocessing would be missing), or a
      file of something else.
  """
  path = paths.local(source, "source")
  if not path.exists():
    raise FileNotFoundError(f"There is no file or folder {path}.")
  if path.is_dir() and (path / MODEL_FILE).exists():
    path = path / MODEL_FILE
  return _of_run(path) if path.is_dir() else _of_file(path)


def _of_run(workdir: pathlib.Path) -> Trained:
  config = workdir_lib.read_config(workdir)
  report = workdir_lib.read_report(workdir) or {}
  if "evaluation" in report:  # The one that its accuracies are of.
    data = config["evals"][report["evaluation"]]["data"]
  else:
    data = runs.test_data(config)
  if data is None:
    raise ValueError(
      f"The run in {workdir} has no evaluation with data.split in config.evals,"
      " so how to preprocess images is not known."
    )
  task = {"loss": "softmax_xent", **config["task"]}
  about = workdir_lib.read_about_data(workdir)
  section = {**config["model"], "num_classes": about["num_classes"]}
  model = models.create(**section)
  if model.input == "video":
    raise ValueError(
      f"The run in {workdir} is of videos, predictions are of images. Evaluate "
      "it with --mode=eval; look at it with analysis.video_maps."
    )
  params = checkpoint.read_params(workdir)
  # The evaluation may be at another resolution than the training.
  shape = report.get("image_shape", about["image_shape"])
  shape = images.common_shape(data["pp"], shape[-1]) or shape
  if not report:
    warnings.warn(
      f"The run in {workdir} has no report, so it has not ended: these are the "
      "weights of its newest checkpoint, and no accuracies are known.",
      stacklevel=4,
    )
  trained, _ = dials.from_config(config["flexi"], model.patch_size)
  return _build(
    params,
    model_section=section,
    pp=data["pp"],
    image_shape=shape,
    loss=task["loss"],
    settings=trained.settings,
    class_names=about["class_names"],
    recorded=report.get("settings", []),
    training=_about_training(config["data"], data, report),
  )


def _about_training(
  data: Mapping[str, Any],
  test_data: Mapping[str, Any],
  report: Mapping[str, Any],
) -> dict[str, Any]:
  return {
    "data": _public_name(data["name"]),
    "split": data["split"],
    "evaluation": f"{_public_name(test_data['name'])}, {test_data['split']}",
    **report.get("train", {}),
    **{key: report[key] for key in ("hardware", "date") if key in report},
  }


def _public_name(name: str) -> str:
  """The name of data without the path to it, which is nobody's business."""
  kind, colon, rest = name.partition(":")
  return f"{kind}:{pathlib.Path(rest).name}" if colon else name


def _of_file(path: pathlib.Path) -> Trained:
  try:
    with safetensors.safe_open(path, framework="np", backend="pread") as file:
      about = (file.metadata() or {}).get(_METADATA)
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{path} is damaged or no safetensors file: {error}."
    ) from error
  if about is None:
    raise ValueError(
      f"{path} holds weights alone. Its preprocessing, labels and settings are "
      "missing; give the workdir of its run, or a file that export wrote from "
      "one."
    )
  params = traverse_util.unflatten_dict(arrays, sep="/")
  return _build(params, **json.loads(about))


def _build(
  params: Mapping[str, Any],
  *,
  image_shape: Sequence[int],
  settings: Sequence[Sequence[Any]],
  class_names: Sequence[str] | None,
  recorded: Sequence[Mapping[str, Any]],
  loss: str,
  **plain: Any,
) -> Trained:
  """Joins what JSON says with the parameters."""
  configuration.choose(loss, classification.LINKS, "config.task.loss")
  return Trained(
    params=params,
    image_shape=tuple(image_shape),
    settings=tuple(
      dials.Setting(tuple(patch_size), num_tokens)
      for patch_size, num_tokens in settings
    ),
    class_names=None if class_names is None else tuple(class_names),
    recorded=tuple(recorded),
    loss=loss,
    **plain,
  )
