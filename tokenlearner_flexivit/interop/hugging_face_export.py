"""Writes a ViT as that model of Hugging Face's that computes the same."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit.interop import (
  config_files,
  hugging_face_names,
  torch_layouts,
  tower_names,
)
from tokenlearner_flexivit.interop.leaves import Leaf, Leaves

_ACTIVATIONS = {
  "erf": "gelu",
  "quick": "quick_gelu",
  "tanh": "gelu_pytorch_tanh",
}


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of model of transformers.

  Attributes:
    name: its model_type.
    with_head: the class with a head; None if no such class computes the same.
    without: the class without a head.
  """

  name: str
  with_head: str | None
  without: str


_VIT = Kind("vit", "ViTForImageClassification", "ViTModel")
_DEIT = Kind("deit", "DeiTForImageClassificationWithTeacher", "DeiTModel")
_DINOV2 = Kind("dinov2", "Dinov2ForImageClassification", "Dinov2Model")
_REGISTERS = Kind(
  "dinov2_with_registers",
  "Dinov2WithRegistersForImageClassification",
  "Dinov2WithRegistersModel",
)
_CLIP = Kind(
  "clip_vision_model", "CLIPVisionModelWithProjection", "CLIPVisionModel"
)
_SIGLIP = Kind("siglip_vision_model", None, "SiglipVisionModel")


def kind_for(leaves: Leaves) -> Kind:
  """Returns the kind of model that computes what arrays of ours do.

  Raises:
    ValueError: no kind does; names the reason.
  """
  names = set(leaves)
  if "MAPHead_0/probe" in names:
    kind = _SIGLIP
  elif not {"cls", "pos_embedding"} <= names:
    raise ValueError(
      "Hugging Face's ViT has a cls token and a learned position embedding;"
      " without both, weights cannot be saved in its format."
    )
  elif "pre_norm/scale" in names:
    kind = _CLIP
  elif "head_dist/kernel" in names:
    kind = _DEIT
  elif "registers" in names:
    kind = _REGISTERS
  elif "head/kernel" in names and _reads_mean(leaves):
    kind = _DINOV2
  else:
    kind = _VIT
  if kind.with_head is None and "head/kernel" in names:
    raise ValueError(
      f"Hugging Face's {kind.without} has no head, and its classifiers pool"
      " otherwise. Save the weights without the head."
    )
  if {"pre_logits/kernel", "head/kernel"} <= names or (
    "pre_logits/kernel" in names and kind is not _VIT
  ):
    raise ValueError(
      f"Hugging Face's {kind.with_head or kind.without} has no layer between"
      " the cls token and the classifier, but these weights have pre_logits."
      " Save them without the head, as a ViTModel, or use format='native'."
    )
  return kind


def to_theirs(leaves: Leaves) -> Leaves:
  """Converts our arrays to those of the kind that `kind_for` returns.

  A cls token gets a zero position, and so does a distillation token.

  Raises:
    ValueError: no kind of model computes the same.
  """
  kind = kind_for(leaves)
  if kind in (_CLIP, _SIGLIP):
    return _to_tower(leaves, kind)
  entries = 1
  if kind is _DEIT:
    if leaves["registers"].shape[1] != 1:
      raise ValueError(
        "Hugging Face's DeiT has a distillation token and no registers beside"
        " it. Use format='timm' or 'native'."
      )
    entries = 2
  if kind is _REGISTERS and "head/kernel" in leaves:
    leaves = _with_mean(leaves)
  leaves = torch_layouts.with_prefix_positions(leaves, entries)
  written = hugging_face_names.to_theirs(leaves, kind.name)
  if kind in (_DINOV2, _REGISTERS):
    written |= _layer_scales(leaves, kind)
  return written


def config(
  model: Any,
  leaves: Leaves,
  class_names: Sequence[str] | None = None,
  loss: str | None = None,
) -> dict[str, Any]:
  """Returns the content of config.json.

  Args:
    model: a `models.ViT`.
    leaves: its arrays, by our names.
    class_names: of its classes; None for unknown ones.
    loss: a key of `config_files.PROBLEMS`; None for an unknown one.
  """
  kind = kind_for(leaves)
  p, q = model.patch_size
  if p != q:
    raise ValueError(
      f"Hugging Face's models have square patches, not of {p} x {q} px."
    )
  size = [p * side for side in model.posemb_grid]
  has_head = "head/kernel" in leaves
  values = dict(
    architectures=[kind.with_head if has_head else kind.without],
    model_type=kind.name,
    hidden_size=model.width,
    num_hidden_layers=model.depth,
    num_attention_heads=model.num_heads,
    intermediate_size=model.mlp_dim,
    hidden_act=_ACTIVATIONS[model.gelu],
    layer_norm_eps=model.norm_eps,
    image_size=size[0] if size[0] == size[1] else size,
    patch_size=p,
    num_channels=leaves["embedding/kernel"].shape[-2],
    torch_dtype="float32",
  )
  if kind in (_DINOV2, _REGISTERS):
    del values["intermediate_size"]
    if model.mlp_dim % model.width:
      raise ValueError(
        "Hugging Face's DINOv2 has mlp_dim as a multiple of width, but they"
        f" are {model.mlp_dim} and {model.width}."
      )
    values |= dict(mlp_ratio=model.mlp_dim // model.width, use_mask_token=False)
  if kind is _REGISTERS:
    values["num_register_tokens"] = model.registers
  if kind is _CLIP and has_head:
    values["projection_dim"] = model.num_classes
  elif has_head:
    names = class_names or [f"LABEL_{i}" for i in range(model.num_classes)]
    values["id2label"] = dict(enumerate(names))
    values["label2id"] = {name: i for i, name in enumerate(names)}
    if loss is not None:
      values["problem_type"] = config_files.PROBLEMS[loss]
  if model.rep_size:
    values |= dict(pooler_act="tanh")
    values["pooler_output_size"] = leaves["pre_logits/kernel"].shape[-1]
  return values


def processor(images: config_files.Images, model: Any) -> dict[str, Any]:
  """Returns the content of preprocessor_config.json.

  Args:
    images: that the weights expect; mean and std are known.
    model: a `models.ViT`.
  """
  height, width = (
    p * side
    for p, side in zip(model.patch_size, model.posemb_grid, strict=True)
  )
  mean, std = (
    list(x) * (3 if len(x) == 1 else 1) for x in (images.mean, images.std)
  )
  size, cut, kind = dict(height=height, width=width), {}, "ViT"
  resized = dataclasses.replace(images, size=(height, width)).resized
  if images.crop and images.keeps_shape:
    cut = dict(do_center_crop=True, crop_size=size)
    kind, size = "Bit", dict(shortest_edge=min(resized))
  elif resized != (height, width):
    cut = dict(do_center_crop=True, crop_size=size)
    kind, size = "DeiT", dict(zip(("height", "width"), resized, strict=True))
  return dict(
    # That of ViT does not crop, that of Bit alone keeps the ratio of the sides.
    image_processor_type=f"{kind}ImageProcessor",
    do_resize=True,
    size=size,
    **cut,
    resample=config_files.RESAMPLE.get(images.interpolation, 2),
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=mean,
    image_std=std,
  )


def _to_tower(leaves: Leaves, kind: Kind) -> Leaves:
  """Converts arrays to those of an image tower of CLIP or SigLIP."""
  whose = f"Hugging Face's {kind.without}"
  if kind is _CLIP:
    leaves = torch_layouts.without_biases(
      leaves, ("embedding", "head"), f"{whose}"
    )
    leaves = torch_layouts.with_prefix_positions(leaves, 1)
  if "registers" in leaves:
    raise ValueError(f"{whose} has no registers. Use format='native'.")
  return tower_names.to_theirs(leaves, whose)


def _reads_mean(leaves: Mapping[str, Leaf]) -> bool:
  width = leaves["embedding/kernel"].shape[-1]
  return leaves["head/kernel"].shape[0] == 2 * width


def _with_mean(leaves: Leaves) -> Leaves:
  """Lets a head of the cls token read the mean of the patches, with zeros."""
  if _reads_mean(leaves):
    return leaves
  kernel = leaves["head/kernel"]
  shape = (2 * kernel.shape[0], *kernel.shape[1:])
  padded = kernel.map(
    lambda array: np.concatenate([array, np.zeros_like(array)]), shape
  )
  return {**leaves, "head/kernel": padded}


def _layer_scales(leaves: Leaves, kind: Kind) -> Leaves:
  """Returns what DINOv2 has beside our arrays: LayerScales of ones."""
  ones = leaves["Transformer/encoder_norm/scale"].map(np.ones_like)
  depth = sum(name.endswith("LayerNorm_1/scale") for name in leaves)
  scales = {
    f"{kind.name}.encoder.layer.{i}.layer_scale{branch}.lambda1": ones
    for i in range(depth)
    for branch in (1, 2)
  }
  if kind is _REGISTERS:
    token = leaves["cls"].map(
      lambda x: np.zeros_like(x)[0], leaves["cls"].shape[1:]
    )
    scales[f"{kind.name}.embeddings.mask_token"] = token
  return scales
