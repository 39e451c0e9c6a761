"""Names of parameters in big_vision, vision_transformer and Scenic.

Ours are big_vision's current ones, but for TokenLearner.
"""

import re

from tokenlearner_flexivit.interop import uvim_names
from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.models import owl_vit, segmenter, two_towers, uvim

# Prefixes of the parameters in the checkpoint of a whole run, newest first.
ROOTS = ("params/", "opt/target/", "optimizer/target/")
# What only models for images here have.
_OF_VIT = ("fc_norm", "head_dist", "pre_norm", "registers")
# Heads that only the models here have.
_DENSE = tuple(
  name.rstrip("/") for name in (*owl_vit.HEADS, *segmenter.HEADS, *uvim.HEADS)
)
# The image half of a contrastive model, whose text half is "txt/".
_IMAGE = "img/"
_KERNEL = "embedding/kernel"

# Before flax's linen all modules of a block were numbered together; before
# 2022 the position embedding was inside the encoder; the map head was not yet
# a module of its own when the first large models were trained.
_OLD = (
  (r"(/encoderblock_\d+)/LayerNorm_2/", r"\1/LayerNorm_1/"),
  (
    r"(/encoderblock_\d+)/MultiHeadDotProductAttention_1/",
    r"\1/MultiHeadDotProductAttention_0/",
  ),
  (r"(/encoderblock_\d+)/MlpBlock_3/", r"\1/MlpBlock_0/"),
  (r"^Transformer/(posembed_input/)?pos_embedding$", "pos_embedding"),
  (
    r"^(probe$|MlpBlock_0/|MultiHeadDotProductAttention_0/|LayerNorm_0/)",
    r"MAPHead_0/\1",
  ),
)
# Our name of a text tower's block, before its number.
_TEXT_BLOCK = "/Encoder_0/block"
# Blocks from a scan over layers.
_STACK = re.compile(r"(Transformer/encoderblock|txt/Encoder_0/block)/(.*)")
_SCENIC = (
  (r"^output_projection/", "head/"),
  # ViViT's factorised encoder.
  (r"^SpatialTransformer/posembed_input/pos_embedding$", "pos_embedding"),
  (r"^SpatialTransformer/", "Transformer/"),
  (r"^cls_SpatialTransformer$", "cls"),
  (
    r"^TemporalTransformer/posembed_input/pos_embedding$",
    "pos_embedding_TemporalTransformer",
  ),
  (
    r"^Transformer/TokenLearnerModule(V11)?_(\d+)/",
    r"Transformer/TokenLearner_\2/",
  ),
)


def is_big_vision(names: set[str]) -> bool:
  """Tells whether a patch embedding, or one of UViM, has big_vision's name."""
  return uvim_names.root(names, ROOTS) is not None or any(
    root + half + _KERNEL in names
    for root in (*ROOTS, "")
    for half in ("", _IMAGE)
  )


def is_scenic(names: set[str]) -> bool:
  """Tells whether an array has a name that only Scenic uses."""
  return is_big_vision(names) and any(
    "output_projection/" in name or "/TokenLearnerModule" in name
    for name in names
  )


def only_parameters(leaves: Leaves) -> Leaves:
  """Returns the parameters alone from the checkpoint of a whole run.

  Of a contrastive model the image half gets the names that it has alone.
  """
  before = uvim_names.root(set(leaves), ROOTS)
  if before is not None:
    return uvim_names.only_parameters(leaves, before)
  for root in (*ROOTS, ""):
    if root + _IMAGE + _KERNEL in leaves:
      return _halves(leaves, root)
  for root in ROOTS:
    if root + _KERNEL in leaves:
      return {
        name.removeprefix(root): leaf
        for name, leaf in leaves.items()
        if name.startswith(root)
      }
  return leaves


def _halves(leaves: Leaves, root: str) -> Leaves:
  """Returns the parameters of a contrastive model."""
  params = {}
  for name, leaf in leaves.items():
    inside = name.removeprefix(root)
    if not name.startswith(root):
      continue
    if inside.startswith(_IMAGE):
      params[inside.removeprefix(_IMAGE)] = leaf
    elif two_towers.is_beside_images(inside):
      params[inside] = leaf
  return params


def from_big_vision(leaves: Leaves) -> Leaves:
  """Renames big_vision's arrays to our names.

  Args:
    leaves: current or older names.

  Returns:
    the same with our names where they are known, and a stack of blocks (from
    a scan over layers) taken apart.
  """
  ours = {}
  for name, leaf in uvim_names.to_ours(leaves).items():
    prefix = two_towers.TEXT if name.startswith(two_towers.TEXT) else ""
    name = prefix + _rename(name.removeprefix(prefix), _OLD)
    if prefix:
      name = re.sub(r"/Encoder_0/encoderblock(?=[_/])", _TEXT_BLOCK, name)
    stack = _STACK.fullmatch(name)
    if not stack or not leaf.shape:
      ours[name] = leaf
      continue
    for i in range(leaf.shape[0]):
      ours[f"{stack[1]}_{i}/{stack[2]}"] = leaf.row(i)
  twice = ours.pop(f"{two_towers.TEXT}Encoder_0/pos_embedding", None)
  if twice is not None:
    # Old text towers add two position embeddings.
    name = f"{two_towers.TEXT}pos_embedding"
    ours[name] = ours[name].compute(
      lambda positions: positions + twice.read().astype(positions.dtype)
    )
  return ours


def their_name(ours: str) -> str:
  """Returns the name that an array of ours has in big_vision's files."""
  return ours.replace(_TEXT_BLOCK, "/Encoder_0/encoderblock")


def from_scenic(leaves: Leaves) -> Leaves:
  """Renames arrays of Scenic's ViT, TokenLearner and ViViT to our names."""
  leaves = from_big_vision(leaves)
  ours = {_rename(name, _SCENIC): leaf for name, leaf in leaves.items()}
  cls = ours.get("cls_TemporalTransformer")
  posemb = ours.get("pos_embedding_TemporalTransformer")
  if cls and posemb and len(posemb.shape) == 3:
    # Scenic gives the cls token a position, the first; the models here do not.
    _, n, width = posemb.shape
    ours["cls_TemporalTransformer"] = cls.compute(
      lambda token: token + posemb.read()[:, :1].astype(token.dtype)
    )
    ours["pos_embedding_TemporalTransformer"] = posemb.map(
      lambda positions: positions[:, 1:], (1, n - 1, width)
    )
  return ours


def to_big_vision(leaves: Leaves) -> Leaves:
  """Renames our arrays to big_vision's names, after "params/".

  With a text tower, those of the image tower come after "params/img/". Those of
  UViM have the names of its two stages.

  Raises:
    ValueError: parameters that big_vision lacks.
  """
  if uvim_names.is_ours(leaves):
    return uvim_names.to_theirs(leaves)
  video = ("TemporalTransformer", "pos_embedding_")
  other = ("TokenLearner_", "TokenFuser_", *_OF_VIT, *video, *_DENSE)
  refuse(leaves, "big_vision", *other)
  has_text = any(name.startswith(two_towers.TEXT) for name in leaves)
  theirs = {}
  for name, leaf in leaves.items():
    is_image = has_text and not two_towers.is_beside_images(name)
    root = f"params/{_IMAGE}" if is_image else "params/"
    theirs[root + their_name(name)] = leaf
  return theirs


def to_scenic(leaves: Leaves) -> Leaves:
  """Renames our arrays to those of Scenic's TokenLearnerViT.

  Raises:
    ValueError: parameters that it lacks.
  """
  other = ("cls", "MAPHead_0", "TemporalTransformer", "pos_embedding_")
  other += (*_OF_VIT, two_towers.TEXT.rstrip("/"), *_DENSE)
  refuse(leaves, "Scenic's TokenLearnerViT", *other)
  theirs = {}
  for name, leaf in leaves.items():
    name = re.sub(r"^head/", "output_projection/", name)
    name = re.sub(
      r"^pos_embedding$", "Transformer/posembed_input/pos_embedding", name
    )
    learner = re.match(r"Transformer/TokenLearner_\d+", name)
    if learner:
      v10 = f"{learner[0]}/Conv_0/kernel" in leaves
      version = "" if v10 else "V11"
      name = name.replace("TokenLearner_", f"TokenLearnerModule{version}_")
    theirs[f"params/{name}"] = leaf
  return theirs


def refuse(leaves: Leaves, whose: str, *parts: str) -> None:
  """Raises ValueError for names that contain one of the parts."""
  for name in leaves:
    if any(piece.startswith(parts) for piece in name.split("/")):
      raise ValueError(
        f"{whose} has no parameter like {name!r}, so these cannot be saved in"
        " its format. Use format='native'."
      )


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
  for pattern, replacement in rules:
    name = re.sub(pattern, replacement, name)
  return name
