"""Names of parameters of OWL-ViT in Hugging Face and in Scenic.

Both hold a CLIP, and heads for boxes and classes. Files of Hugging Face are
those of OWL-ViT or of OWLv2.
"""

import math
import re
from typing import Any

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.interop import (
  config_files,
  jax_names,
  torch_layouts,
  tower_names,
)
from tokenlearner_flexivit.interop.leaves import Leaves

# Before the names of the towers in a model with heads.
_ROOTS = ("", "owlvit.", "owlv2.")
# Spelled otherwise in CLIP.
_PRE_NORM = "vision_model.pre_layernorm."
_CLIP_PRE_NORM = "vision_model.pre_layrnorm."
_HEADS = torch_layouts.Table(
  (
    ("merged_class_token", "layer_norm", "norm"),
    *((f"box_head/Dense_{i}", f"box_head.dense{i}", "dense") for i in range(3)),
    ("class_head/Dense_0", "class_head.dense0", "dense"),
    ("class_head/logit_shift", "class_head.logit_shift", "dense"),
    ("class_head/logit_scale", "class_head.logit_scale", "dense"),
  )
)
_HEAD_ROOTS = ("layer_norm.", "box_head.", "class_head.")
# Beginnings of names that the models here have no use for, and what they are.
_OF_PAIRS = "which compares whole images with texts"
_NO_USE = {
  "visual_projection.": _OF_PAIRS,
  "logit_scale": _OF_PAIRS,
  "objectness_head.": "which tells whether a box of OWLv2 holds anything",
  # Of Scenic.
  "backbone/clip/visual/proj/": _OF_PAIRS,
  "backbone/clip/logit_scale": _OF_PAIRS,
  "objectness_head/": "which tells whether a box of OWLv2 holds anything",
}

_CLIP = "backbone/clip/"
_SCENIC_KERNEL = f"{_CLIP}visual/conv1/kernel"
_SCENIC_POSEMB = f"{_CLIP}visual/positional_embedding"
_SCENIC_PRE_NORM = f"{_CLIP}visual/ln_pre/"
_SCENIC = (
  (rf"^{_SCENIC_PRE_NORM}", "pre_norm/"),
  (rf"^{_CLIP}visual/conv1/", "embedding/"),
  (rf"^{_CLIP}visual/class_embedding$", "cls"),
  (rf"^{_SCENIC_POSEMB}$", "pos_embedding"),
  (rf"^{_CLIP}visual/ln_post/", "Transformer/encoder_norm/"),
  (
    rf"^{_CLIP}visual/transformer/resblocks_(\d+)/",
    r"Transformer/encoderblock_\1/",
  ),
  (rf"^{_CLIP}text/token_embedding/", "txt/Embed_0/"),
  (rf"^{_CLIP}text/positional_embedding$", "txt/pos_embedding"),
  (rf"^{_CLIP}text/ln_final/", "txt/Encoder_0/encoder_norm/"),
  (rf"^{_CLIP}text/text_projection/", "txt/head/"),
  (rf"^{_CLIP}text/transformer/resblocks_(\d+)/", r"txt/Encoder_0/block_\1/"),
  (r"^backbone/merged_class_token/", "merged_class_token/"),
  (r"^obj_box_head/", "box_head/"),
  (r"(block_\d+)/ln_([01])/", r"\1/LayerNorm_\2/"),
  (r"(block_\d+)/attn/", r"\1/MultiHeadDotProductAttention_0/"),
  (r"(block_\d+)/mlp/c_fc/", r"\1/MlpBlock_0/Dense_0/"),
  (r"(block_\d+)/mlp/c_proj/", r"\1/MlpBlock_0/Dense_1/"),
)
# Of CLIP, for images in [0, 1]; the published models subtract it themselves.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def is_hugging_face(names: set[str]) -> bool:
  """Tells whether names are those of Hugging Face's OWL-ViT or OWLv2."""
  return any(f"{root}{_PRE_NORM}weight" in names for root in _ROOTS)


def as_clip(leaves: Leaves) -> Leaves:
  """Returns arrays of Hugging Face's with its CLIP's names for the towers."""
  renamed = {}
  for name, leaf in leaves.items():
    name = re.sub(r"^owlv(it|2)\.", "", name)
    renamed[name.replace(_PRE_NORM, _CLIP_PRE_NORM)] = leaf
  return renamed


def has_heads(leaves: Leaves) -> bool:
  """Tells whether a file of Hugging Face holds more than two towers."""
  return any(name.startswith("box_head.") for name in leaves)


def from_hugging_face(
  leaves: Leaves, where: str, num_heads: int, text_heads: int
) -> tuple[Leaves, list[str]]:
  """Converts Hugging Face's arrays to our names and layouts.

  Args:
    leaves: of OwlViTForObjectDetection or Owlv2ForObjectDetection, of both
      towers alone, or of that of images.
    where: the file, for errors.
    num_heads: of the image tower.
    text_heads: of the text tower.

  Returns:
    arrays with our names where they are known, and notes for the user.

  Raises:
    ValueError: a model that ours cannot compute.
  """
  leaves, notes = as_clip(leaves), []
  if has_heads(leaves):
    leaves, notes = _without_needless(leaves)
  heads = {k: v for k, v in leaves.items() if k.startswith(_HEAD_ROOTS)}
  towers = {k: v for k, v in leaves.items() if k not in heads}
  return {
    **tower_names.to_ours(towers, where, num_heads, text_heads),
    **_HEADS.read(heads, where, num_heads=1),
  }, notes


def their_name(ours: str) -> str:
  """Returns the name of an array of ours in Hugging Face's files.

  It lacks the model's name in front, which differs between the two.
  """
  name = _HEADS.their_name(ours)
  if name == ours:
    name = tower_names.their_name(ours)
  return name.replace(_CLIP_PRE_NORM, _PRE_NORM)


def is_scenic(names: set[str]) -> bool:
  """Tells whether names are those of Scenic's OWL-ViT."""
  return any(root + _SCENIC_KERNEL in names for root in jax_names.ROOTS)


def scenic_parameters(leaves: Leaves) -> Leaves:
  """Returns the parameters alone from the checkpoint of a whole run."""
  for root in jax_names.ROOTS:
    if root + _SCENIC_KERNEL in leaves:
      return {
        name.removeprefix(root): leaf
        for name, leaf in leaves.items()
        if name.startswith(root)
      }
  return leaves


def about_scenic(leaves: Leaves) -> dict[str, Any]:
  """Returns the fields of `about.About` that Scenic's code tells."""
  posemb = scenic_parameters(leaves).get(_SCENIC_POSEMB)
  grid = None
  if posemb and len(posemb.shape) == 2:
    # Scenic's code takes square images alone.
    side = math.isqrt(max(0, posemb.shape[0] - 1))
    grid = (side, side) if side**2 == posemb.shape[0] - 1 else None
  return dict(
    where="the code of Scenic's OWL-ViT",
    posemb_grid=grid,
    prefix_entries=1,
    images=config_files.Images(_MEAN, _STD),
    computes=dict(
      gelu="quick",
      norm_eps=1e-5,
      size_bias="width",
      box_gelu="tanh",
      merge_eps=1e-6,
    ),
    text=dict(
      gelu="quick", norm_eps=1e-5, pool="eot", end_id=None, causal=True
    ),
  )


def from_scenic(leaves: Leaves) -> tuple[Leaves, list[str]]:
  """Converts arrays of Scenic's OWL-ViT to our names and layouts.

  Args:
    leaves: the parameters.

  Returns:
    arrays with our names where they are known, and notes for the user.
  """
  leaves, notes = _without_needless(leaves)
  ours = {}
  for name, leaf in leaves.items():
    for pattern, replacement in _SCENIC:
      name = re.sub(pattern, replacement, name)
    if name == "cls" and len(leaf.shape) == 1:
      leaf = leaf.reshape(1, 1, *leaf.shape)
    elif name.endswith("pos_embedding") and len(leaf.shape) == 2:
      leaf = leaf.reshape(1, *leaf.shape)
    ours[name] = leaf
  return ours, notes


def _without_needless(leaves: Leaves) -> tuple[Leaves, list[str]]:
  """Returns what a model with heads for boxes computes with, and notes."""
  kept, notes = dict(leaves), []
  for beginning, meaning in _NO_USE.items():
    names = [name for name in kept if name.startswith(beginning)]
    for name in names:
      del kept[name]
    if names:
      part = re.split(r"[./]", beginning.rstrip("./"))[-1]
      arrays = terminal.counted(len(names), "array")
      notes.append(f"Left out {part}, {meaning}: {arrays}.")
  return kept, notes
