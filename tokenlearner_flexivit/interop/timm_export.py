"""Describes a ViT to timm, which then computes the same."""

from typing import Any

from tokenlearner_flexivit.interop import config_files
from tokenlearner_flexivit.interop.leaves import Leaves

_ACTIVATIONS = {"erf": "gelu", "quick": "quick_gelu", "tanh": "gelu_tanh"}
_POOLS = {"gap": "avg", "map": "map", "tok": "token", "tok_dist": "token"}
# The architectures whose norms have an epsilon; arguments replace all else.
_BY_EPS = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
_DISTILLED = "deit_base_distilled_patch16_224"


def config(
  model: Any,
  leaves: Leaves,
  images: config_files.Images,
  no_embed_class: bool,
) -> dict[str, Any]:
  """Returns the content of config.json, for `timm.create_model("local-dir:")`.

  Args:
    model: a `models.ViT`.
    leaves: its arrays, by our names.
    images: that the weights expect; mean and std may be unknown.
    no_embed_class: as `timm_names.to_theirs` takes it.

  Raises:
    ValueError: timm has no architecture with this epsilon.
  """
  # An epsilon below timm's changes the largest output by less than 1e-5.
  eps = 1e-6 if model.norm_eps < 1e-6 else model.norm_eps
  if eps not in _BY_EPS:
    known = " and ".join(map(str, _BY_EPS))
    raise ValueError(
      f"timm has architectures with norm_eps {known}, but that of the model is"
      f" {model.norm_eps}. Use format='native'."
    )
  size = [
    p * side
    for p, side in zip(model.patch_size, model.posemb_grid, strict=True)
  ]
  channels = leaves["embedding/kernel"].shape[-2]
  p, q = model.patch_size
  arguments = dict(
    embed_dim=model.width,
    depth=model.depth,
    num_heads=model.num_heads,
    mlp_ratio=_ratio(model.mlp_dim, model.width),
    patch_size=p if p == q else [p, q],
    img_size=size,
    in_chans=channels,
    num_classes=model.num_classes or 0,
    act_layer=_ACTIVATIONS[model.gelu],
  )
  name = _BY_EPS[eps]
  if model.pool == "tok_dist":
    name = _DISTILLED
  else:
    arguments |= dict(
      global_pool=_POOLS[model.pool],
      class_token=model.has_cls,
      reg_tokens=model.registers,
      no_embed_class=no_embed_class,
      pre_norm=model.pre_norm,
      fc_norm=model.norm == "after_pool",
    )
  cfg = dict(
    input_size=[channels, *size],
    interpolation=images.interpolation or "bilinear",
    crop_pct=images.crop or 1.0,
    crop_mode="center" if images.keeps_shape else "squash",
    num_classes=model.num_classes or 0,
    first_conv="patch_embed.proj",
    classifier=["head", "head_dist"] if name == _DISTILLED else "head",
  )
  if images.mean is not None:
    cfg |= dict(
      mean=list(images.mean) * (channels if len(images.mean) == 1 else 1),
      std=list(images.std) * (channels if len(images.std) == 1 else 1),
    )
  return dict(
    architecture=name,
    num_classes=model.num_classes or 0,
    num_features=model.width,
    global_pool=_POOLS[model.pool],
    model_args=arguments,
    pretrained_cfg=cfg,
  )


def _ratio(hidden: int, width: int) -> float:
  """Returns a number of which timm's int(width * ratio) is `hidden`."""
  ratio = hidden / width
  return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
