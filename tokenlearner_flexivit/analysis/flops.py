"""Multiply-adds of a forward pass, in closed form.

Counted are matrix products alone; norms, activations and the resizing of
kernel and position embedding (once per batch, not per image) are not. The
TokenLearner paper's "GFLOPS" are multiply-adds in 10^9; FlexiViT's count
multiplications and additions, so they are twice as many.

Letters: N tokens, S learned tokens, D width, C channels or classes.
"""

from typing import Any

from tokenlearner_flexivit.models import patch_embed


def block_macs(tokens: int, width: int, mlp_dim: int) -> int:
  """A transformer block: projections, attention over all pairs, MLP."""
  projections = 4 * tokens * width**2
  attention = 2 * tokens**2 * width
  return projections + attention + 2 * tokens * width * mlp_dim


def token_learner_macs(
  tokens: int, learned: int, width: int, version: str, bottleneck_dim: int
) -> int:
  """TokenLearner: the maps, and the pooling by them."""
  if version == "1.0":  # Four 3x3 convolutions, the last three S to S.
    maps = 9 * tokens * (width * learned + 3 * learned**2)
  else:
    maps = tokens * bottleneck_dim * (width + learned)
  return maps + learned * tokens * width


def token_fuser_macs(
  tokens: int, learned: int, width: int, bottleneck_dim: int
) -> int:
  """TokenFuser: the mix over tokens, the mask, and the way back."""
  mask = tokens * bottleneck_dim * (width + learned)
  return learned**2 * width + mask + tokens * learned * width


def macs(
  model: Any,
  image_shape: tuple[int, int, int],
  patch_size: tuple[int, int] | None = None,
  num_tokens: int | None = None,
) -> int:
  """Multiply-adds of one image's forward pass.

  Args:
    model: a `models.ViT`.
    image_shape: (H, W, C).
    patch_size: None for the model's own.
    num_tokens: None for all learned tokens.

  Returns:
    The number of multiply-adds.
  """
  height, width, channels = image_shape
  patch_size = patch_embed.to_pair(patch_size or model.patch_size)
  size = (height, width)
  d, mlp_dim = model.width, model.mlp_dim
  seq_lens = model.seq_lens(size, patch_size, num_tokens)
  patches = (height // patch_size[0]) * (width // patch_size[1])
  total = patches * patch_size[0] * patch_size[1] * channels * d
  total += sum(block_macs(n, d, mlp_dim) for n in seq_lens)

  out_tokens = seq_lens[-1]
  if model.token_learner is not None:
    config = model.token_learner
    learned = num_tokens or config["num_tokens"]
    bottleneck = config["bottleneck_dim"]
    times = model.depth - config["layer"] if config["fuser"] else 1
    once = token_learner_macs(
      patches, learned, d, config["version"], bottleneck
    )
    if config["fuser"]:
      once += token_fuser_macs(patches, learned, d, bottleneck)
      out_tokens += patches - learned
    total += times * once

  if model.pool == "map":  # One query over all tokens, then an MLP.
    total += 2 * d**2 + 2 * out_tokens * (d**2 + d) + 2 * d * mlp_dim
  rep = d if model.rep_size is True else model.rep_size
  if rep:
    total += d * rep
  return total + (rep or d) * (model.num_classes or 0)
