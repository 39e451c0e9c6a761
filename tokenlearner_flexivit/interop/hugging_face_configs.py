"""Reads the config.json beside Hugging Face's ViT and the models like it."""

import pathlib
from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit.interop import (
  config_files,
  foreign,
  hugging_face_names,
)
from tokenlearner_flexivit.interop.leaves import Leaves

_VIT = dict(
  hidden_act="gelu",
  hidden_size=768,
  image_size=224,
  layer_norm_eps=1e-12,
  num_attention_heads=12,
  pooler_act="tanh",
)
# What transformers takes where a config leaves a key out, by kind of model.
_DEFAULTS = {
  "deit": _VIT,
  "dinov2": _VIT | dict(layer_norm_eps=1e-6),
  "dinov2_with_registers": _VIT | dict(layer_norm_eps=1e-6),
  "ijepa": _VIT,
  "vit": _VIT,
  "vit_mae": _VIT,
  "vit_msn": _VIT | dict(layer_norm_eps=1e-6),
  "vivit": _VIT
  | dict(
    hidden_act="gelu_fast",
    layer_norm_eps=1e-6,
    num_frames=32,
    tubelet_size=[2, 16, 16],
  ),
}


def read(path: pathlib.Path, leaves: Leaves) -> dict[str, Any]:
  """Returns the fields of `about.About` for a file in the names of ViT.

  Args:
    path: of the weights.
    leaves: the arrays, by their names without prefixes.

  Raises:
    ValueError: the config is damaged, is of another model, or is of one that
      the models here cannot compute; names the feature.
  """
  told = config_files.read(path)
  images = config_files.images_of_hugging_face(path)
  untold = config_files.untold_images(images.mean, "preprocessor_config.json")
  cls = hugging_face_names.CLS in leaves
  registers = hugging_face_names.num_registers(leaves)
  if cls and "embeddings.register_tokens" in leaves:
    entries = 1  # DINOv2's registers have no positions.
  else:
    entries = cls + registers
  if "model_type" not in told:
    dinov2 = hugging_face_names.is_dinov2(set(leaves))
    return dict(
      prefix_entries=entries,
      images=images,
      untold_images=untold,
      guessed=dict(gelu="erf", norm_eps=1e-6 if dinov2 else 1e-12),
      computes=_pool(leaves),
    )
  where = str(path.parent / "config.json")
  kind = told["model_type"]
  if kind not in _DEFAULTS:
    raise config_files.unsupported_kind(where, kind)
  config = _DEFAULTS[kind] | told
  kernel = leaves[hugging_face_names.KERNEL].shape
  foreign.check(leaves, str(path))  # Before its width is found to differ.
  config_files.check_width(config["hidden_size"], kernel[0], where)
  if "pooler.dense.weight" in leaves and config["pooler_act"] != "tanh":
    raise config_files.unsupported(
      where, f"it has pooler_act={config['pooler_act']!r}"
    )
  positions = leaves.get(hugging_face_names.POSEMB)
  grid, known = config_files.grid(
    _image_size(config),
    kernel[2:],
    positions.shape if positions else (),
    (entries,),
  )
  classifier = leaves.get(hugging_face_names.CLASSIFIER)
  return dict(
    where=where,
    num_heads=config["num_attention_heads"],
    posemb_grid=grid,
    prefix_entries=entries if known is None else known,
    images=images,
    class_names=config_files.class_names(
      config.get("id2label"), classifier.shape[0] if classifier else None
    ),
    untold_images=untold,
    computes=dict(
      gelu=config_files.gelu(config["hidden_act"], "hidden_act", where),
      norm_eps=config["layer_norm_eps"],
    )
    | _pool(leaves),
  )


def _image_size(config: Mapping[str, Any]) -> Any:
  """Returns the size of the images, with the frames of a video in front."""
  size = config["image_size"]
  if "num_frames" not in config:
    return size
  sides = (size, size) if isinstance(size, int) else tuple(size)
  return (config["num_frames"], *sides)


def _pool(leaves: Leaves) -> dict[str, Any]:
  """Returns the pooling that arrays tell, in the terms of `models.ViT`."""
  if hugging_face_names.DISTILLED in leaves:
    return dict(pool="tok_dist")
  classifier = leaves.get(hugging_face_names.CLASSIFIER)
  width = leaves[hugging_face_names.KERNEL].shape[0]
  if classifier and classifier.shape[1:] == (2 * width,):
    return dict(pool="tok_gap")
  return dict(pool="tok" if hugging_face_names.CLS in leaves else "gap")
