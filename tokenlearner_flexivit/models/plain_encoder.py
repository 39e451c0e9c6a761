"""Blocks in a row and a norm after them, without TokenLearner.

Letters: B batch, L tokens, D width.
"""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from tokenlearner_flexivit.models import blocks


class PlainEncoder(nn.Module):
  """Blocks and a norm after them.

  Attributes:
    depth: number of blocks.
    block: the attributes of one.
  """

  depth: int
  block: dict[str, Any]

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"]
  ) -> tuple[Float[Array, "B L D"], dict[str, Any]]:
    """Returns the tokens after the norm, and the intermediates by block."""
    out = {}
    for i in range(self.depth):
      block = blocks.Encoder1DBlock(**self.block, name=f"block_{i}")
      x, out[f"block{i:02d}"] = block(x)
    norm = blocks.layer_norm(
      self.block["dtype"],
      "encoder_norm",
      self.block.get("norm_eps", blocks.LAYER_NORM_EPS),
    )
    return norm(x), out
