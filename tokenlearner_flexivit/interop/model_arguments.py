"""Finds the arguments of the model that the arrays of a file are for."""

import re
from typing import Any

from tokenlearner_flexivit.interop import (
  formats,
  grids,
  surgery,
  weights,
)
from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.models import tiling, variants

_BLOCK = "Transformer/encoderblock_0/"
# Attention heads of the published models of a width, those of `variants`. Width
# 1536 has models with 16 and models with 24.
PUBLISHED_HEADS = {
  size["width"]: size["num_heads"]
  for size in map(variants.decode_variant, variants.VARIANTS)
}


def find(
  opened: weights.Weights, leaves: Leaves, guesses: list[str]
) -> dict[str, Any]:
  """Returns constructor arguments, all but those of the positions.

  Args:
    opened: the file.
    leaves: its arrays, by our names.
    guesses: to which sentences about what is guessed are added.

  Raises:
    ValueError: arrays are missing that every model here has, or the model is
      one for videos whose settings no file records.
  """
  path, format, known = opened.path, opened.format, opened.known
  kernel = leaves.get(surgery.KERNEL)
  for_videos = kernel is not None and len(kernel.shape) == 5
  if for_videos and format not in formats.TORCH:
    raise ValueError(
      f"{path} holds a model for videos, whose settings no file records. Build"
      " a models.ViViT and load these weights with load_params."
    )
  hidden = f"{_BLOCK}MlpBlock_0/Dense_0/kernel"
  query = f"{_BLOCK}MultiHeadDotProductAttention_0/query/kernel"
  rank_of_kernel = 5 if for_videos else 4
  for key, rank in ((surgery.KERNEL, rank_of_kernel), (hidden, 2), (query, 3)):
    if key not in leaves or len(leaves[key].shape) != rank:
      theirs = opened.their_name(key)
      raise ValueError(
        f"{path} has no array {theirs!r} with {rank} axes, which every model"
        f" here has as {key!r}."
      )
  *patch_size, _, width = kernel.shape
  blocks = {m[1] for k in leaves if (m := re.match(_BLOCK[:-2] + r"(\d+)/", k))}
  model = dict(
    num_classes=_outputs(leaves, "head"),
    width=width,
    depth=len(blocks),
    mlp_dim=leaves[hidden].shape[1],
    num_heads=leaves[query].shape[1],
    patch_size=tuple(patch_size),
  )
  if for_videos:
    model["name"] = "vivit"
  model |= _pooling(leaves) | known.guessed | known.computes
  registers = leaves.get("registers")
  registers = registers.shape[1] if registers else 0
  if "cls" in leaves and not model["pool"].startswith("tok"):
    registers += 1  # A cls token that is not pooled is one.
  if registers:
    model["registers"] = registers
  if format == "scenic":
    guesses.append(
      "pool='gap': Scenic's files do not record the classifier, which may take"
      " the maximum or the sum"
    )
  if "pre_norm/scale" in leaves:
    model["pre_norm"] = True
  rep_size = _outputs(leaves, "pre_logits")
  if rep_size:
    model["rep_size"] = rep_size
  learner = _token_learner(leaves, model["depth"], guesses)
  if learner:
    model["token_learner"] = learner
  return model


def _pooling(leaves: Leaves) -> dict[str, Any]:
  """Returns the pooling, and the norm around it, that arrays tell."""
  if "MAPHead_0/probe" in leaves:
    pool = "map"
  elif "cls" not in leaves:
    pool = "gap"
  else:
    pool = "tok_dist" if "head_dist/kernel" in leaves else "tok"
  if "fc_norm/scale" not in leaves:
    return dict(pool=pool)
  # timm's models with this norm average the patches, unless they say otherwise.
  pool = "gap" if pool == "tok" else pool
  return dict(pool=pool, norm="after_pool")


def _outputs(leaves, layer):
  kernel = leaves.get(f"{layer}/kernel")
  return kernel.shape[-1] if kernel else None


def guess_pool(model: dict[str, Any], guesses: list[str]) -> None:
  """Adds a sentence where big_vision's arrays do not show the pooling."""
  if model["pool"] == "gap":
    guesses.append(
      "pool='gap': big_vision's models may also take the first patch ('0') or"
      " every token ('none'), which no array shows"
    )


def add_posemb(
  model: dict[str, Any],
  opened: weights.Weights,
  leaves: Leaves,
  asked: tuple[int, ...] | None,
  guesses: list[str],
  squares: bool,
) -> None:
  """Adds the grid of the positions to a model's arguments.

  Args:
    model: the arguments.
    opened: the file.
    leaves: its arrays, by our names.
    asked: the grid that the caller names.
    guesses: to which sentences about what is guessed are added.
    squares: whether the grid is known to be a square if it can be one.

  Raises:
    ValueError: the positions form no square, and nothing tells their grid.
  """
  path, known = opened.path, opened.known
  grid = asked and tiling.to_size(asked, "posemb_grid")
  if surgery.POSEMB not in leaves:
    # The grid of the `variants` with this patch size.
    sides = [max(1, 224 // side) for side in model["patch_size"]]
    model["posemb"] = "sincos2d"
    model["posemb_grid"] = grid or tuple(sides)
    guesses.append("posemb: none is stored, so it is computed")
    if not grid:
      guesses.append(
        f"posemb_grid={tuple(sides)} of the computed positions: that of 224"
        " pixels; it may be another (pass posemb_grid)"
      )
    return
  n = leaves[surgery.POSEMB].shape[1]
  told = grid or known.posemb_grid
  has_cls, entries = "cls" in leaves, None if grid else known.prefix_entries
  registers = leaves.get("registers")
  registers = registers.shape[1] if registers else 0
  if model.get("name") == "vivit" and not told:
    raise ValueError(
      f"{path} is of a model for videos with {n} positions. Give their grid:"
      " posemb_grid=(T, h, w), on the command line --posemb_grid=T,h,w."
    )
  grid, _ = grids.posemb_grid(
    n, has_cls, known_grid=told, entries=entries, registers=registers
  )
  if grid is None:
    raise ValueError(
      f"{path} has {n} positions, which form no square. Give their grid:"
      " posemb_grid=(h, w), on the command line --posemb_grid=h,w."
    )
  model["posemb_grid"] = grid
  if told or squares:
    return
  if other := grids.other_reading(n, grid, has_cls, entries):
    guesses.append(other)
  elif grids.possible_grids(n, has_cls, entries, registers) - {grid}:
    guesses.append(
      f"posemb_grid={grid}, the square; other grids have as many cells (pass"
      " posemb_grid)"
    )


def guess_heads(leaves: Leaves, guesses: list[str], path) -> int:
  """Returns the heads that published models of a width have.

  Raises:
    ValueError: no model of this width is published, or they differ in it.
  """
  kernel = leaves.get(surgery.KERNEL)
  width = kernel.shape[-1] if kernel else 0
  heads = PUBLISHED_HEADS.get(width)
  if heads is None:
    raise ValueError(
      f"{path} does not tell how many attention heads its model has, nor does"
      f" its width of {width}. Give num_heads=, on the command line"
      " --num_heads, in a config the section model of what is loaded."
    )
  guesses.append(f"num_heads={heads}, from the width of {width}")
  return heads


def variant(model: dict[str, Any]) -> str | None:
  """Returns the name of the standard size of a model; None for others."""
  for name in variants.VARIANTS:
    size = variants.decode_variant(name)
    keys = ("width", "depth", "mlp_dim", "num_heads")
    if all(size[key] == model.get(key) for key in keys):
      *t, p, q = model["patch_size"]
      return f"{name}/{p}{''.join(f'x{n}' for n in t)}" if p == q else name
  return None


def _token_learner(leaves, depth, guesses) -> dict[str, Any] | None:
  prefix = "Transformer/TokenLearner_"
  count = len({k.split("/")[1] for k in leaves if k.startswith(prefix)})
  if not count:
    return None
  first = f"{prefix}0/"
  v10 = f"{first}Conv_3/kernel" in leaves
  last = "Conv_3/kernel" if v10 else "token_masking/Dense_1/kernel"
  fuser = any(k.startswith("Transformer/TokenFuser_") for k in leaves)
  if first + last not in leaves:
    raise ValueError(
      f"The file is damaged: it has a TokenLearner, but no {first + last!r}."
    )
  learner = dict(
    layer=depth - count if fuser else depth // 2,
    num_tokens=leaves[first + last].shape[-1],
    version="1.0" if v10 else "1.1",
    fuser=fuser,
  )
  if not v10:
    learner["bottleneck_dim"] = leaves[first + last].shape[0]
  if not fuser:
    guesses.append("token_learner.layer, which no file records")
  if v10:
    guesses.append(
      "token_learner.pooling, which no file records; published models use sum"
    )
  return learner
