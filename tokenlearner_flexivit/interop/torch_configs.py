"""Reads the config.json of timm and of Hugging Face beside a weight file."""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenlearner_flexivit.interop import torch_names
from tokenlearner_flexivit.interop.leaves import Leaves

ERF = (
  "its library computes GELU with erf, the models here in its tanh form:"
  " outputs differ by 1e-4 to 4e-4 of the largest, unless the model has"
  " gelu='erf'"
)
TANH = ("gelu_tanh", "gelu_new", "gelu_pytorch_tanh", "gelu_fast")
# Parts of names of timm's architectures that no array shows.
_ARCHITECTURES = {
  "quickgelu": "quick GELU, x sigmoid(1.702 x)",
  "rope|dinov3|eva02|vit_pe": "rotary positions",
  "relpos": "relative positions",
  "_rpn": "norms after the residual branches",
  "_xp": "parallel branches",
  "naflex": "NaFlex's patches",
}
_ARCHITECTURE_HEADS = {"so400m": 16, "giantopt": 16}
# Arguments of timm's VisionTransformer that make it the model here.
_TIMM_ARGUMENTS = {
  "act_layer": (None, "gelu", *TANH),
  "embed_norm_layer": (None,),
  "fc_norm": (None, False),
  "final_norm": (None, True),
  "mlp_layer": (None, "mlp"),
  "norm_layer": (None, "layernorm"),
  "pool_include_prefix": (None, False),
  "pre_norm": (None, False),
  "qk_norm": (None, False),
  "reg_tokens": (None, 0),
  "scale_attn_norm": (None, False),
  "scale_mlp_norm": (None, False),
}
# Other arguments, which arrays show or which do not affect the answers.
_HARMLESS = (
  "img_size|patch_size|in_chans|num_classes|global_pool|embed_dim|depth"
  "|num_heads|mlp_ratio|qkv_bias|proj_bias|init_values|class_token|pos_embed"
  "|no_embed_class|dynamic_img_(size|pad)|weight_init|fix_init|device|dtype"
  r"|strict_img_size|\w*drop\w*"
)
_TIMM_POOLS = {"token": "tok", "avg": "gap", "map": "map"}
# Hugging Face's kinds of models that use the names of its ViT.
_HUGGING_FACE = ("vit", "vit_mae", "vit_msn", "ijepa", "deit")


def read(path: pathlib.Path, leaves: Leaves) -> dict[str, Any]:
  """Returns the fields of `about.About` from the configs beside a file.

  Args:
    path: of the weights.
    leaves: the arrays, by their names in the file.

  Raises:
    ValueError: a config is damaged, is of another model, or is of one that the
      models here cannot compute; names the feature.
  """
  beside = path.parent / "config.json"
  config = (
    parse(beside.read_text(encoding="utf-8"), beside)
    if beside.is_file()
    else {}
  )
  timm = torch_names.is_timm(set(leaves))
  if timm and "architecture" in config:
    return _fields_of_timm(config, leaves, str(beside))
  if not timm and "model_type" in config:
    return _fields_of_hugging_face(config, path, leaves, str(beside))
  pooling = "the pooling, which is that of its arrays" if timm else ""
  return dict(
    # If Hugging Face's models have a cls token, it has a position.
    cls_entry=None if timm else any(n.endswith("cls_token") for n in leaves),
    differences=(
      f"{ERF}; quick GELU and ReLU, which no array shows, differ by 0.2",
    ),
    unknown=tuple(
      f"{what}: there is no config.json beside the file"
      for what in (pooling, "mean and std of the images, taken as 0.5")
      if what
    ),
  )


def _fields_of_timm(
  config: Mapping[str, Any], leaves: Leaves, where: str
) -> dict[str, Any]:
  name = str(config["architecture"])
  model_args = config.get("model_args") or {}
  for part, feature in _ARCHITECTURES.items():
    if re.search(part, name):
      raise unsupported(where, f"{name} has {feature}")
  for key, allowed in _TIMM_ARGUMENTS.items():
    if model_args.get(key) not in allowed:
      raise unsupported(where, f"it has {key}={model_args[key]!r}")
  kernel = leaves["patch_embed.proj.weight"].shape
  width = model_args.get("embed_dim", config.get("num_features", kernel[0]))
  check_width(width, kernel[0], where)
  _check_timm_pool(
    config.get("global_pool", model_args.get("global_pool")), leaves
  )
  cfg = config.get("pretrained_cfg") or config
  unknown = [
    f"{key}={value!r} of {where}, whose meaning is unknown here"
    for key, value in model_args.items()
    if key not in _TIMM_ARGUMENTS and not re.fullmatch(_HARMLESS, key)
  ]
  size = model_args.get("img_size") or (cfg.get("input_size") or ())[1:]
  cls_entry = None
  if "no_embed_class" in model_args:
    cls_entry = not model_args["no_embed_class"] and "cls_token" in leaves
  grid, cls_entry = _grid(size, kernel, leaves.get("pos_embed"), cls_entry)
  heads = [n for part, n in _ARCHITECTURE_HEADS.items() if part in name]
  tanh = model_args.get("act_layer") in TANH
  differences = [] if tanh else [f"{ERF}; {name} may have another"]
  if name.startswith("flexivit"):
    differences.append(
      "timm stores a 16x16 kernel that is a resized one of 32x32: patches"
      " smaller than 16 are embedded otherwise than by the original (0.1 to 0.3"
      " of the largest), which big_vision's .npz holds"
    )
  mean, std = _statistics(cfg.get("mean"), cfg.get("std"))
  if not mean:
    unknown.append(f"mean and std of the images: {where} has none")
  return dict(
    where=where,
    num_heads=model_args.get("num_heads", heads[0] if heads else None),
    posemb_grid=grid,
    cls_entry=cls_entry,
    input_mean=mean,
    input_std=std,
    differences=tuple(differences),
    unknown=tuple(unknown),
  )


def _check_timm_pool(pool: str | None, leaves: Leaves) -> None:
  has_cls, has_map = "cls_token" in leaves, "attn_pool.latent" in leaves
  if pool is None:
    return
  if pool not in _TIMM_POOLS:
    raise unsupported("config.json", f"it has global_pool={pool!r}")
  fits = {"token": has_cls, "avg": not has_cls, "map": has_map}[pool]
  if not fits:
    raise unsupported(
      "config.json",
      f"it has global_pool={pool!r} {'with' if has_cls else 'without'} a cls"
      " token",
    )


def _fields_of_hugging_face(
  config: Mapping[str, Any],
  path: pathlib.Path,
  leaves: Leaves,
  where: str,
) -> dict[str, Any]:
  kind = config["model_type"]
  if kind not in _HUGGING_FACE:
    raise unsupported(where, f"it is a model of the kind {kind!r}")
  prefix = "vit." if any(name.startswith("vit.") for name in leaves) else ""
  kernel = leaves[f"{prefix}{torch_names.HUGGING_FACE_KERNEL}"].shape
  check_width(config.get("hidden_size", kernel[0]), kernel[0], where)
  activation = config.get("hidden_act", "gelu")
  if activation not in ("gelu", *TANH):
    raise unsupported(where, f"it has hidden_act={activation!r}")
  pooler = config.get("pooler_act", "tanh")
  if f"{prefix}pooler.dense.weight" in leaves and pooler != "tanh":
    raise unsupported(where, f"it has pooler_act={pooler!r}")
  eps = config.get("layer_norm_eps", 1e-12)
  differences = [ERF] if activation == "gelu" else []
  if eps > 1e-5:
    raise unsupported(where, f"it has layer_norm_eps={eps}")
  if eps != 1e-6:
    differences.append(
      f"layer norms have an epsilon of {eps} there and of 1e-06 here: outputs"
      " differ by up to 1e-5 of the largest"
    )
  size = config.get("image_size") or ()
  cls_entry = f"{prefix}embeddings.cls_token" in leaves
  positions = leaves.get(f"{prefix}embeddings.position_embeddings")
  grid, cls_entry = _grid(size, kernel, positions, cls_entry)
  mean, std, unknown = image_statistics(path)
  return dict(
    where=where,
    num_heads=config.get("num_attention_heads"),
    posemb_grid=grid,
    cls_entry=cls_entry,
    input_mean=mean,
    input_std=std,
    differences=tuple(differences),
    unknown=unknown,
  )


def image_statistics(path: pathlib.Path) -> tuple[Any, Any, tuple[str, ...]]:
  """Returns mean and std by a file's preprocessor_config.json.

  Args:
    path: of the weights.

  Returns:
    mean and std of images in [0, 1], None if they are unknown, and then in
    words what is unknown.
  """
  beside = path.parent / "preprocessor_config.json"
  processor = (
    parse(beside.read_text(encoding="utf-8"), beside)
    if beside.is_file()
    else {}
  )
  mean, std = processor.get("image_mean"), processor.get("image_std")
  if processor.get("do_normalize") is False:
    mean, std = 0.0, 1.0
  # The statistics are those of images in [0, 1]: values from 0 to 255 are
  # usually multiplied by 1 / 255.
  factor = processor.get("rescale_factor") or 1 / 255
  factor = 1.0 if processor.get("do_rescale") is False else factor
  mean, std = _statistics(mean, std, 255 * factor)
  unknown = (
    ()
    if mean
    else (
      "mean and std of the images, taken as 0.5: there"
      " is no preprocessor_config.json beside the file that tells them",
    )
  )
  return mean, std, unknown


def _grid(size, kernel, positions, cls_entry):
  """Returns the grid of positions, and whether cls has one; None if unknown."""
  size = (size, size) if isinstance(size, int) else size
  if positions is None or len(size) != 2 or len(kernel) != 4:
    return None, cls_entry
  grid = tuple(int(s) // p for s, p in zip(size, kernel[2:], strict=True))
  more = positions.shape[1] - math.prod(grid)
  # The config of a model tuned at another size may hold the size before that.
  if more not in (0, 1) or cls_entry not in (None, bool(more)):
    return None, cls_entry
  return grid, bool(more)


def _statistics(mean, std, scale=1.0):
  """Returns mean and std of images in [0, 1] from those of [0, scale]."""
  if mean is None or std is None:
    return None, None
  # The last digits are rounding errors.
  return tuple(
    tuple(float(f"{value / scale:.9g}") for value in np.ravel(values))
    for values in (mean, std)
  )


def check_width(told: int, stored: int, where: str) -> None:
  """Raises ValueError if a config is of a model of another width."""
  if told != stored:
    raise ValueError(
      f"{where} is of another model: its width is {told}, that of the arrays"
      f" {stored}. Put the file into a folder of its own."
    )


def unsupported(where: str, feature: str) -> ValueError:
  """Returns the error for a feature that the models here lack."""
  return ValueError(
    f"{where}: {feature}, which the models here cannot compute, so that these"
    " weights would give other answers."
  )


def parse(text: str, path) -> dict[str, Any]:
  """Returns the object that a JSON text of the file `path` holds.

  Raises:
    ValueError: the text holds no JSON object.
  """
  try:
    value = json.loads(text)
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}.") from error
  if not isinstance(value, dict):
    raise ValueError(f"{path} is damaged: it holds no JSON object.")
  return value
