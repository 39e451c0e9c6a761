"""Weights of other libraries in use, where a config beside them tells all."""

import pathlib
from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit import dials, interop, models
from tokenlearner_flexivit.interop import config_files


def read(path: pathlib.Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
  """Returns parameters and what is known of a classifier of images.

  Mean and standard deviation are absorbed, so that the model takes images in
  [-1, 1], resized as the config tells.

  Args:
    path: of the weights.

  Returns:
    the parameters, and the other fields of `trained.Trained`.

  Raises:
    ValueError: weights that the models here cannot compute, without a head, or
      without a config that tells the images they expect; says what to do.
  """
  described = interop.describe(path)
  arguments, options = described.for_images()
  section = {"name": "vit"} | arguments
  model = models.create(**section)
  if "text" in section or model.input != "image":
    raise ValueError(
      f"{path} is no classifier of images. Load it with interop.load_params "
      f"into models.create(**interop.describe({str(path)!r}).model)."
    )
  if not model.num_classes:
    raise ValueError(
      f"{path} is a backbone without a head: it gives features, no answers. "
      "Teach it classes by configs/transfer.py:init="
      f"{path.parent},data=folder:/your/images, or all patch sizes by "
      "configs/flexify.py in the same way, and give the workdir of that run; "
      "or compute features with interop.load_params, whose models return "
      'them as out["pre_logits"] and out["encoded"].'
    )
  ops, mean = described.images.ops, described.images.mean
  if ops is None or mean is None:
    guesses = f" ({'; '.join(described.guesses)})" if described.guesses else ""
    raise ValueError(
      f"{path} is a classifier, but no config beside it tells size, mean and "
      "standard deviation of the images it expects, and how they are cropped"
      f"{guesses}. Put that file of its hub "
      "beside it (config.json of timm, preprocessor_config.json of Hugging "
      "Face), or load it with interop.load_params."
    )
  if config_files.read(path).get("problem_type") == "regression":
    raise ValueError(
      f"The config.json beside {path} has problem_type='regression': its "
      "outputs are no classes. Load it with interop.load_params."
    )
  task = config_files.task_of_hugging_face(path)
  params, _ = interop.load_params_and_report(
    path,
    model,
    input_mean=mean,
    input_std=described.images.std,
    **options,
  )
  decode = "decode" if described.channels == 3 else "decode(1)"
  return params, dict(
    model_section=section,
    pp=f"{decode}|{ops}|value_range(-1,1)|keep('image')",
    image_shape=(*described.images.size, described.channels),
    loss=task.get("loss", "softmax_xent"),
    settings=[dials.Setting(model.own_patch_size, None)],
    class_names=interop.class_names(path),
    recorded=(),
  )
