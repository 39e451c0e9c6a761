"""Names of parameters of UViM in big_vision: a file for each of its stages."""

import math
import re
from typing import Any

from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.models import label_coder, uvim

# A parameter of each stage by their names, that tells the stage.
_CODER, _MODEL = label_coder.KERNEL, "EmbedPatches/kernel"
_EMBEDDING = "decoder/EmbedTargets/embedding"
# The codebook, which they keep beside the parameters.
_STATE = "state/"
# Theirs and ours.
_MODEL_RULES = (
  (r"^EmbedPatches/", "embedding/"),
  (r"^pos_embedding_encoder$", "pos_embedding"),
  (r"^pos_embedding_decoder$", "code_decoder/pos_embedding"),
  (r"^encoder/", "Transformer/"),
  (r"^decoder/EncDecBlock(\d+)/", r"code_decoder/block_\1/"),
  (r"^decoder/", "code_decoder/"),
)
# Ours and theirs.
_MODEL_BACK = (
  (r"^code_decoder/pos_embedding$", "pos_embedding_decoder"),
  (r"^code_decoder/block_(\d+)/", r"decoder/EncDecBlock\1/"),
  (r"^code_decoder/", "decoder/"),
  (r"^embedding/", "EmbedPatches/"),
  (r"^pos_embedding$", "pos_embedding_encoder"),
  (r"^Transformer/", "encoder/"),
)


def root(names: set[str], roots: tuple[str, ...]) -> str | None:
  """Returns what stands before the parameters of a file of UViM, or None.

  Args:
    names: of the arrays.
    roots: what may stand there.
  """
  for before in (*roots, ""):
    is_model = {before + _MODEL, before + _EMBEDDING} <= names
    if before + _CODER in names or is_model:
      return before
  return None


def only_parameters(leaves: Leaves, before: str) -> Leaves:
  """Returns the parameters of a file, and the codebook of stage I."""
  params = {
    name.removeprefix(before): leaf
    for name, leaf in leaves.items()
    if name.startswith(before) and not name.startswith(_STATE)
  }
  if _CODER in params:
    params |= {
      f"{label_coder.CODEBOOK}/{name.removeprefix(_STATE)}": leaf
      for name, leaf in leaves.items()
      if name.startswith(_STATE)
    }
  return params


def to_ours(leaves: Leaves) -> Leaves:
  """Renames arrays of either stage; ours, and those of others, stay."""
  if _CODER in leaves:
    rules = ((r"^(encoder|decoder)/encoderblock_", r"\1/block_"),)
  elif _MODEL in leaves:
    rules = _MODEL_RULES
  else:
    return leaves
  return {_renamed(name, rules): leaf for name, leaf in leaves.items()}


def is_ours(leaves: Leaves) -> bool:
  """Tells whether arrays by our names are those of either stage."""
  return label_coder.KERNEL in leaves or uvim.EMBEDDING in leaves


def to_theirs(leaves: Leaves) -> Leaves:
  """Renames our arrays of either stage to those of big_vision's files.

  Raises:
    ValueError: parameters that big_vision lacks, or both stages in one.
  """
  theirs = {}
  if label_coder.KERNEL in leaves:
    rules = ((r"^(encoder|decoder)/block_", r"\1/encoderblock_"),)
    if f"{label_coder.CODEBOOK}/counts" not in leaves:
      raise ValueError(
        "big_vision's stage I has a codebook (quantizer='vq'), and this one "
        "has none. Use format='native'."
      )
  else:
    rules = _MODEL_BACK
  for name, leaf in leaves.items():
    if name.startswith(f"{uvim.CODER}/"):
      raise ValueError(
        "big_vision keeps the stages of UViM in files of their own. Save "
        f"params[{uvim.CODER!r}], and the others without it; the command "
        f"convert leaves it out: --unused {uvim.CODER}."
      )
    codebook = f"{label_coder.CODEBOOK}/"
    if name.startswith(codebook):
      theirs[_STATE + name.removeprefix(codebook)] = leaf
    else:
      theirs[f"params/{_renamed(name, rules)}"] = leaf
  return theirs


def coder_arguments(
  leaves: Leaves, guesses: list[str]
) -> dict[str, Any] | None:
  """Returns the arguments of `models.create` for stage I; None for others.

  Args:
    leaves: by our names.
    guesses: gets in words what no array shows.
  """
  if label_coder.KERNEL not in leaves:
    return None
  labels, pixels, width = leaves[label_coder.KERNEL].shape
  (n, _) = leaves["pos_embedding_encoder"].shape[1:]
  attention = "encoder/block_0/MultiHeadDotProductAttention_0/query/kernel"
  side, patch = math.isqrt(n), math.isqrt(pixels)
  model = dict(
    name="label_coder",
    num_labels=labels,
    num_instances=leaves["embedding_instances/kernel"].shape[0],
    width=width,
    encoder_depth=_depth(leaves, "encoder"),
    decoder_depth=_depth(leaves, "decoder"),
    mlp_dim=leaves["encoder/block_0/MlpBlock_0/Dense_0/kernel"].shape[-1],
    num_heads=leaves[attention].shape[1],
    patch_size=(patch, patch),
    posemb_grid=(side, side),
    encoder_context="ctx_enc_embedding/kernel" in leaves,
    decoder_context="ctx_dec_embedding/kernel" in leaves,
  )
  guesses.append(f"posemb_grid={side}x{side}, a square of {n} positions")
  words = leaves.get(f"{label_coder.CODEBOOK}/dictionary")
  if words is not None:
    model |= dict(
      quantizer="vq", num_words=words.shape[0], word_dim=words.shape[1]
    )
  if "bottleneck_downsample" in leaves:
    return model | dict(code_len=leaves["bottleneck_downsample"].shape[1])
  guesses.append("code_grid, half of the grid, which no array shows")
  return model | dict(code_grid=(max(1, side // 2), max(1, side // 2)))


def decoder_arguments(leaves: Leaves) -> dict[str, Any]:
  """Returns what stage II has beside `models.ViT`; nothing for others."""
  if uvim.EMBEDDING not in leaves:
    return {}
  model = dict(
    name="uvim",
    num_classes=None,
    num_codes=leaves[uvim.EMBEDDING].shape[0] - 1,
    decoder_depth=_depth(leaves, "code_decoder"),
  )
  positions = leaves.get("code_decoder/pos_embedding")
  if positions is not None:
    model["code_len"] = positions.shape[1]
  return model


def _depth(leaves: Leaves, part: str) -> int:
  """Returns the number of blocks of a part."""
  blocks = {n.split("/")[1] for n in leaves if n.startswith(f"{part}/block_")}
  return len(blocks)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
  """Returns a name after the first rule that matches it."""
  for pattern, replacement in rules:
    if re.search(pattern, name):
      return re.sub(pattern, replacement, name)
  return name
