"""Names of parameters in Hugging Face's CLIP and SigLIP.

A file holds both towers or that of images alone. Layouts are those of PyTorch,
see `torch_layouts`.
"""

import re

from tokenlearner_flexivit.interop import torch_layouts
from tokenlearner_flexivit.interop.leaves import Leaves, concatenate

KERNEL = "vision_model.embeddings.patch_embedding.weight"
POSEMB = "vision_model.embeddings.position_embedding.weight"
CLS = "vision_model.embeddings.class_embedding"
TOKENS = "text_model.embeddings.token_embedding.weight"
_TEXT_POSEMB = "text_model.embeddings.position_embedding.weight"
_POOL = "vision_model.head."


def _blocks(ours: str, theirs: str) -> tuple[tuple[str, str, str], ...]:
  """Returns the modules of a block, see `torch_layouts.Table`."""
  attention = f"{ours}/MultiHeadDotProductAttention_0/"
  return (
    (f"{ours}/LayerNorm_0", f"{theirs}.layer_norm1", "norm"),
    (f"{attention}query", f"{theirs}.self_attn.q_proj", "heads"),
    (f"{attention}key", f"{theirs}.self_attn.k_proj", "heads"),
    (f"{attention}value", f"{theirs}.self_attn.v_proj", "heads"),
    (f"{attention}out", f"{theirs}.self_attn.out_proj", "out"),
    (f"{ours}/LayerNorm_1", f"{theirs}.layer_norm2", "norm"),
    (f"{ours}/MlpBlock_0/Dense_0", f"{theirs}.mlp.fc1", "dense"),
    (f"{ours}/MlpBlock_0/Dense_1", f"{theirs}.mlp.fc2", "dense"),
  )


_MAP = torch_layouts.MAP
_IMAGE = (
  ("embedding", "vision_model.embeddings.patch_embedding", "conv"),
  ("pre_norm", "vision_model.pre_layrnorm", "norm"),
  *_blocks("Transformer/encoderblock_{}", "vision_model.encoder.layers.{}"),
  ("Transformer/encoder_norm", "vision_model.post_layernorm", "norm"),
  (f"{_MAP}query", f"{_POOL}attention.q", "heads"),
  (f"{_MAP}key", f"{_POOL}attention.k", "heads"),
  (f"{_MAP}value", f"{_POOL}attention.v", "heads"),
  (f"{_MAP}out", f"{_POOL}attention.out_proj", "out"),
  ("MAPHead_0/LayerNorm_0", f"{_POOL}layernorm", "norm"),
  ("MAPHead_0/MlpBlock_0/Dense_0", f"{_POOL}mlp.fc1", "dense"),
  ("MAPHead_0/MlpBlock_0/Dense_1", f"{_POOL}mlp.fc2", "dense"),
  ("head", "visual_projection", "dense"),
)
_IMAGE_ARRAYS = (
  ("cls", CLS),
  ("pos_embedding", POSEMB),
  ("MAPHead_0/probe", f"{_POOL}probe"),
)
_TEXT = (
  *_blocks("txt/Encoder_0/block_{}", "text_model.encoder.layers.{}"),
  ("txt/Encoder_0/encoder_norm", "text_model.final_layer_norm", "norm"),
  ("txt/head", "text_projection", "dense"),  # CLIP
  ("txt/head", "text_model.head", "dense"),  # SigLIP
)
_TEXT_ARRAYS = (
  ("txt/Embed_0/embedding", TOKENS),
  ("txt/pos_embedding", _TEXT_POSEMB),
  ("t", "logit_scale"),
  ("b", "logit_bias"),
)
_IMAGE_TABLE = torch_layouts.Table(_IMAGE, _IMAGE_ARRAYS)
_TEXT_TABLE = torch_layouts.Table(_TEXT, _TEXT_ARRAYS)


def is_towers(names: set[str]) -> bool:
  """Tells whether a patch embedding has the name of CLIP's and SigLIP's."""
  return KERNEL in names


def their_name(ours: str) -> str:
  """Returns the name of an array of ours in their files."""
  theirs = _IMAGE_TABLE.their_name(_TEXT_TABLE.their_name(ours))
  # Joint projections.
  return re.sub(
    r"^(vision_model\.head\.attention\.)[qkv]\.", r"\1in_proj_", theirs
  )


def to_ours(
  leaves: Leaves, where: str, num_heads: int, text_heads: int
) -> Leaves:
  """Converts arrays of CLIP or SigLIP to our names and layouts.

  Args:
    leaves: of CLIPModel, SiglipModel or their models of images alone.
    where: the file, for errors.
    num_heads: of the image tower.
    text_heads: of the text tower.

  Returns:
    arrays with our names where they are known.

  Raises:
    ValueError: a model that ours cannot compute.
  """
  if "classifier.weight" in leaves:
    raise ValueError(
      f"{where} holds a classifier of the mean of all patches, before or after"
      " the last norm, beside CLIP's or SigLIP's own pooling. The models here"
      " have one pooling. Load the model that it was tuned from."
    )
  if POSEMB not in leaves or "vision_model.post_layernorm.weight" not in leaves:
    raise ValueError(
      f"{where} holds no {POSEMB!r} or no 'vision_model.post_layernorm.weight':"
      " the models here have learned positions and a norm after the blocks."
    )
  if len(leaves[KERNEL].shape) != 4:
    raise ValueError(
      f"{where}: {KERNEL} {list(leaves[KERNEL].shape)} is for patches that are"
      " cut beforehand (SigLIP 2's NaFlex), which the models here do not take."
    )
  image, text = {}, {}
  for name, leaf in leaves.items():
    # Buffers of older files.
    if name.endswith(".position_ids"):
      continue
    shape = leaf.shape
    if name in (POSEMB, _TEXT_POSEMB) and len(shape) == 2:
      leaf = leaf.reshape(1, *shape)
    elif name == CLS and len(shape) == 1:
      leaf = leaf.reshape(1, 1, *shape)
    elif name in ("logit_scale", "logit_bias") and not shape:
      leaf = leaf.reshape(1)
    joint = re.fullmatch(r"(.+\.)in_proj_(weight|bias)", name)
    if joint and shape and shape[0] % 3 == 0:
      rows = shape[0] // 3
      for i, part in enumerate("qkv"):
        part = f"{joint[1]}{part}.{joint[2]}"
        image[part] = leaf.rows(i * rows, (i + 1) * rows)
    elif name.startswith(("text_", "logit_")):
      text[name] = leaf
    else:
      image[name] = leaf
  return {
    **_IMAGE_TABLE.read(image, where, num_heads),
    **_TEXT_TABLE.read(text, where, text_heads),
  }


def to_theirs(leaves: Leaves, whose: str) -> Leaves:
  """Converts our arrays of an image tower to their names and layouts.

  Args:
    leaves: by our names, the position of the cls token included.
    whose: the library and model, for errors.

  Raises:
    ValueError: an array that no such tower has.
  """
  written = _IMAGE_TABLE.write(leaves, whose)
  joint: dict[str, dict] = {}
  torch = {}
  for name, leaf in written.items():
    part = re.fullmatch(rf"({_POOL}attention\.)([qkv])\.(weight|bias)", name)
    if part:
      joint.setdefault(f"{part[1]}in_proj_{part[3]}", {})[part[2]] = leaf
    elif name == POSEMB:
      torch[name] = leaf.reshape(*leaf.shape[1:])
    else:
      torch[name] = leaf.reshape(leaf.size) if name == CLS else leaf
  for name, parts in joint.items():
    torch[name] = concatenate([parts[letter] for letter in "qkv"])
  return torch
