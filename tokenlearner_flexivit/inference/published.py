"""Weights of other libraries in use, where a config beside them tells all."""

import pathlib
from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit import dials, interop, models


def read(path: pathlib.Path) -> tuple[Mapping[str, Any], dict[str, Any]] | None:
  """Returns parameters and what is known of a classifier of images.

  Mean and standard deviation are absorbed, so that the model takes images in
  [-1, 1], resized as the config tells.

  Args:
    path: of the weights.

  Returns:
    the parameters, and the other fields of `trained.Trained`; None for weights
    without a head, or without a config that tells the images they expect.

  Raises:
    ValueError: weights that the models here cannot compute.
  """
  described = interop.describe(path)
  ops, mean = described.images.ops, described.images.mean
  model = models.create(**{"name": "vit"} | described.model)
  if ops is None or mean is None or not model.num_classes:
    return None
  if "text" in described.model or model.input != "image":
    return None
  params, _ = interop.load_params_and_report(
    path, model, input_mean=mean, input_std=described.images.std
  )
  decode = "decode" if described.channels == 3 else "decode(1)"
  return params, dict(
    model_section={"name": "vit"} | described.model,
    pp=f"{decode}|{ops}|value_range(-1,1)|keep('image')",
    image_shape=(*described.images.size, described.channels),
    loss="softmax_xent",
    settings=[dials.Setting(model.own_patch_size, None)],
    class_names=interop.class_names(path),
    recorded=(),
  )
