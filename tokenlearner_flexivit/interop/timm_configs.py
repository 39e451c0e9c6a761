"""Reads the config.json of timm beside a weight file."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit.interop import config_files, foreign, timm_names
from tokenlearner_flexivit.interop.leaves import Leaves

# Parts of names of timm's architectures that no array shows.
_UNSUPPORTED = {
  "rope|dinov3|eva02|vit_pe|lingbot": "rotary positions",
  "relpos": "relative positions",
  "test_vit3": "an attention pooling that sees registers",
  "_rpn": "norms after the residual branches",
  "_xp|_pwee": "parallel branches",
  "_d(p?wee|little)": "differential attention",
  "naflex": "NaFlex's patches",
}
# What timm's code gives architectures by their names: those with the tanh form
# of GELU, those with an epsilon of 1e-5 in their norms, and the heads, by the
# first pattern that a name has.
_TANH_SIGLIP = re.compile(
  r"vit_(so400m|giantopt)_patch16_siglip|vit_base_patch32_siglip"
  r"|vit_large_patch16_siglip(_gap)?_512"
)
_CLIP_EPS = re.compile(r"_clip_|^beit3_")
_HEADS = (
  (r"^vit_base_patch16_gap", 16),
  (r"^vit_giant_patch1\d_(reg\d_|)(dinov2|radio|tipsv2)", 24),
  (r"so150m2", 13),
  (r"so150m|_plus_", 14),
  (r"betwixt", 10),
  (r"little", 5),
  (r"wee|xsmall", 4),
  (r"^test_vit[34]", 3),
  (r"^test_vit", 2),
  (r"tiny", 3),
  (r"small", 6),
  (r"medium", 8),
  (r"base", 12),
  (r"so400m|large|huge|giant|gigantic", 16),
)
# Arguments of timm's VisionTransformer that make it a model here.
_ARGUMENTS = {
  "attn_layer": (None, "", "attn"),
  "embed_norm_layer": (None,),
  "mlp_layer": (None, "mlp"),
  "norm_layer": (None, "layernorm"),
  "pool_include_prefix": (None, False),
  "qk_norm": (None, False),
  "scale_attn_norm": (None, False),
  "scale_mlp_norm": (None, False),
}
# Other arguments, which arrays show or which do not affect the answers.
_HARMLESS = (
  "img_size|patch_size|in_chans|num_classes|global_pool|embed_dim|depth"
  "|num_heads|mlp_ratio|qkv_bias|proj_bias|init_values|class_token|pos_embed"
  "|no_embed_class|dynamic_img_(size|pad)|weight_init|fix_init|device|dtype"
  "|act_layer|reg_tokens|pre_norm|fc_norm|final_norm"
  r"|strict_img_size|\w*drop\w*"
)
_POOLS = {"token": "tok", "avg": "gap", "map": "map"}


def read(path: pathlib.Path, leaves: Leaves) -> dict[str, Any]:
  """Returns the fields of `about.About` for a file in timm's names.

  Args:
    path: of the weights.
    leaves: the arrays, by their names in the file.

  Raises:
    ValueError: the config is damaged, is of another model, or is of one that
      the models here cannot compute; names the feature.
  """
  config = config_files.read(path)
  if "architecture" not in config:
    return _without_config(leaves)
  where = str(path.parent / "config.json")
  name = str(config["architecture"])
  arguments = config.get("model_args") or {}
  for part, feature in _UNSUPPORTED.items():
    if re.search(part, name):
      raise config_files.unsupported(where, f"{name} has {feature}")
  for key, allowed in _ARGUMENTS.items():
    if arguments.get(key) not in allowed:
      raise config_files.unsupported(where, f"it has {key}={arguments[key]!r}")
  kernel = leaves[timm_names.KERNEL].shape
  width = arguments.get("embed_dim", config.get("num_features", kernel[0]))
  foreign.check(leaves, str(path))  # Before its width is found to differ.
  config_files.check_width(width, kernel[0], where)
  registers = timm_names.num_registers(leaves)
  distilled = "dist_token" in leaves
  if arguments.get("reg_tokens") not in (None, registers - distilled):
    raise ValueError(
      f"{where} is of another model: it has reg_tokens="
      f"{arguments['reg_tokens']!r}, the arrays {registers - distilled}. Put"
      " the file into a folder of its own."
    )
  cfg = config.get("pretrained_cfg") or config
  unknown = [
    f"{key}={value!r} of {where}, whose meaning is unknown here"
    for key, value in arguments.items()
    if key not in _ARGUMENTS and not re.fullmatch(_HARMLESS, key)
  ]
  images = _images(cfg)
  size = arguments.get("img_size") or images.size
  mode = cfg.get("crop_mode") or "center"
  if mode not in ("center", "squash"):  # "border" pads whole images.
    unknown.append(
      f"crop_mode={mode!r} of {where}, so that images are resized and cropped"
      " otherwise here"
    )
    images = dataclasses.replace(
      images, size=None, interpolation=None, crop=None
    )
  cls = timm_names.CLS in leaves
  entries = (0, cls + registers)
  # DINOv2's own files have a position for the cls token alone.
  if "register_tokens" in leaves:
    entries = (1,)
  if arguments.get("no_embed_class"):
    entries = (0,)
  posemb = leaves.get(timm_names.POSEMB)
  grid, entries = config_files.grid(
    size, kernel[2:], posemb.shape if posemb else (), entries
  )
  return dict(
    where=where,
    num_heads=arguments.get("num_heads", _by_name(_HEADS, name)),
    posemb_grid=grid,
    prefix_entries=entries,
    images=images,
    flexible=name.startswith("flexivit"),
    class_names=config_files.class_names(
      config.get("label_names"), _num_classes(leaves)
    ),
    differences=_differences(name),
    unknown=tuple(unknown),
    untold_images="" if images.mean else f"{where} does not tell them",
    computes=_computes(name, arguments, leaves, where)
    | _pool(config.get("global_pool", arguments.get("global_pool")), leaves),
  )


def _without_config(leaves: Leaves) -> dict[str, Any]:
  """Returns what the arrays alone tell, and what they leave open."""
  clip = "norm_pre.weight" in leaves
  beside = "there is no config.json beside the file"
  return dict(
    unknown=(f"the pooling, which is that of its arrays: {beside}",),
    untold_images=config_files.untold_images(None, "config.json"),
    guessed=dict(norm_eps=1e-5 if clip else 1e-6)
    # CLIPs differ in it, and so do SigLIPs.
    | ({} if clip or "attn_pool.latent" in leaves else dict(gelu="erf")),
    computes=dict(pool="tok_dist") if "dist_token" in leaves else {},
  )


def _computes(
  name: str, arguments: Mapping[str, Any], leaves: Leaves, where: str
) -> dict[str, Any]:
  """Returns the arguments of a model that no array shows, but its pooling."""
  told = arguments.get("act_layer")
  if told is not None:
    gelu = config_files.gelu(told, "act_layer", where)
  elif "quickgelu" in name:
    gelu = "quick"
  else:
    gelu = "tanh" if _TANH_SIGLIP.search(name) else "erf"
  eps = 1e-5 if _CLIP_EPS.search(name) else 1e-6
  if arguments.get("norm_layer"):
    eps = 1e-6  # What timm's norms have unless an architecture tells another.
  return dict(gelu=gelu, norm_eps=eps)


def _pool(pool: str | None, leaves: Leaves) -> dict[str, Any]:
  """Returns the pooling that a config tells, in the terms of `models.ViT`."""
  if pool is None:
    return {}
  if pool not in _POOLS:
    raise config_files.unsupported(
      "config.json", f"it has global_pool={pool!r}"
    )
  has = {
    "token": timm_names.CLS in leaves,
    "avg": True,
    "map": "attn_pool.latent" in leaves,
  }
  if not has[pool]:
    raise config_files.unsupported(
      "config.json", f"it has global_pool={pool!r} without its arrays"
    )
  distilled = pool == "token" and "dist_token" in leaves
  return dict(pool="tok_dist" if distilled else _POOLS[pool])


def _images(cfg: Mapping[str, Any]) -> config_files.Images:
  mean, std = config_files.statistics(cfg.get("mean"), cfg.get("std"))
  size = tuple((cfg.get("input_size") or ())[1:])
  return config_files.Images(
    mean,
    std,
    size if len(size) == 2 else None,
    # What timm takes where a config is silent.
    cfg.get("interpolation") or "bicubic",
    cfg.get("crop_pct") or 0.875,
    keeps_shape=cfg.get("crop_mode") != "squash",
  )


def _differences(name: str) -> tuple[str, ...]:
  if not name.startswith("flexivit"):
    return ()
  return (
    "timm stores a 16x16 kernel that is a resized one of 32x32: patches"
    " smaller than 16 are embedded otherwise than by the original (0.1 to 0.3"
    " of the largest), which big_vision's .npz holds",
  )


def _num_classes(leaves: Leaves) -> int | None:
  head = leaves.get("head.weight")
  return head.shape[0] if head and head.shape else None


def _by_name(table: Any, name: str) -> Any:
  """Returns the value of the first pattern that a name has; None without."""
  values = (value for pattern, value in table if re.search(pattern, name))
  return next(values, None)
