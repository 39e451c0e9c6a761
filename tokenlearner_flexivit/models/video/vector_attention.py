"""Attention whose weights are vectors, and the block around it.

Letters: B batch, N tokens, D width, G groups of channels, R features of a
relation.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from tokenlearner_flexivit.models import blocks

# Features of a relation are D / 16, as in Zhao et al.'s code.
_REDUCTION = 16


class VectorAttention(nn.Module):
  """Pairwise self-attention (Zhao et al., arXiv 2004.13621, Section 3.1).

  y_n = sum_m softmax_m(dense(relu(q_n - k_m))) * v_m: token m has one weight
  per group of channels for token n, computed from all features of both tokens,
  rather than one product per head.

  Attributes:
    num_heads: G, how many groups of D / G channels share a weight.
    dtype: of the computation; softmax and parameters are float32.
  """

  num_heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "B N D"], mask: Bool[Array, " N"] | None = None
  ) -> Float[Array, "B N D"]:
    """Lets the tokens attend to one another, except where the mask is False."""
    b, n, d = x.shape
    relation = max(1, d // _REDUCTION)
    query = blocks.Dense(relation, dtype=self.dtype, name="query")(x)
    key = blocks.Dense(relation, dtype=self.dtype, name="key")(x)
    value = blocks.Dense(d, dtype=self.dtype, name="value")(x)
    y = nn.relu(query[:, :, None] - key[:, None])
    logits = blocks.Dense(self.num_heads, dtype=self.dtype, name="weights")(y)
    logits = logits.astype(jnp.float32)
    if mask is not None:
      logits = jnp.where(mask[None, None, :, None], logits, -1e30)
    # Divided after the product, as in `blocks`: equal weights of many tokens
    # are rounded alike and would not sum to one.
    logits -= jax.lax.stop_gradient(jnp.max(logits, axis=2, keepdims=True))
    weights = jnp.exp(logits)
    y = jnp.einsum(
      "bnmg,bmgc->bngc",
      weights.astype(self.dtype),
      value.reshape(b, n, self.num_heads, -1),
      preferred_element_type=jnp.float32,
    )
    y /= jnp.sum(weights, axis=2)[..., None]
    y = y.astype(self.dtype).reshape(b, n, d)
    return blocks.Dense(d, dtype=self.dtype, name="out")(y)


class VectorBlock(blocks.Encoder1DBlock):
  """A transformer block with vector attention in place of heads.

  `num_heads` is the number of groups of channels that share a weight.
  """

  @nn.nowrap
  def _attend(
    self, x: Float[Array, "B N D"], mask: Bool[Array, " N"] | None
  ) -> Float[Array, "B N D"]:
    return VectorAttention(self.num_heads, dtype=self.dtype)(x, mask)
