"""Attention whose weights are vectors, and the block around it.

Letters: B batch, N tokens, D width, G groups of channels, R features of a
relation.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokenlearner_flexivit.models import blocks

# Features of a relation are D / 16, as in Zhao et al.'s code.
_REDUCTION = 16


class VectorAttention(nn.Module):
  """Pairwise self-attention (Zhao et al., arXiv 2004.13621, Section 3.1).

  y_n = sum_m softmax_m(dense(relu(q_n - k_m))) * v_m: the weight of token m
  for token n is a number for each group of channels that all features of both
  decide upon, not one product per head.

  Attributes:
    num_heads: G, how many groups of D / G channels share a weight.
    dtype: of the computation; softmax and parameters are float32.
  """

  num_heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Lets the tokens [B, N, D] attend to one another.

    Args:
      x: [B, N, D].
      mask: None or bool [N]; False for tokens to ignore.

    Returns:
      [B, N, D].
    """
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
    weights = nn.softmax(logits, axis=2).astype(self.dtype)
    value = value.reshape(b, n, self.num_heads, -1)
    y = jnp.einsum("bnmg,bmgc->bngc", weights, value).reshape(b, n, d)
    return blocks.Dense(d, dtype=self.dtype, name="out")(y)


class VectorBlock(nn.Module):
  """A transformer block as `blocks.Encoder1DBlock`, with vector attention.

  Attributes:
    num_heads: groups of channels that share a weight.
    mlp_dim: hidden features of the MLP.
    dropout: rate, on both branches and inside the MLP.
    drop_path: probability that an example skips a branch; may be traced.
    dtype: of the computation.
  """

  num_heads: int
  mlp_dim: int
  dropout: float = 0.0
  drop_path: float | jax.Array = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, mask: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Applies the block; arguments and results are those of Encoder1DBlock."""

    def drop_path(y):
      never = isinstance(self.drop_path, float) and self.drop_path == 0
      if never or not train:
        return y
      keep = 1.0 - self.drop_path
      shape = (y.shape[0], 1, 1)
      kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
      return jnp.where(kept, y / jnp.asarray(keep, y.dtype), 0)

    out = {}
    y = blocks.layer_norm(self.dtype, "LayerNorm_0")(x)
    y = VectorAttention(self.num_heads, dtype=self.dtype)(y, mask)
    y = out["sa"] = nn.Dropout(self.dropout)(y, deterministic=not train)
    x = out["+sa"] = x + drop_path(y)
    y = blocks.layer_norm(self.dtype, "LayerNorm_1")(x)
    y = out["mlp"] = blocks.MlpBlock(
      self.mlp_dim, dropout=self.dropout, dtype=self.dtype
    )(y, train)
    x = out["+mlp"] = x + drop_path(y)
    return x, out
