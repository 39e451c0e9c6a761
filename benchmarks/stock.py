"""The stock ViT: what flax gives, in the structure that big_vision has.

A convolution cuts the patches, attention is `nn.MultiHeadDotProductAttention`,
every default is flax's. It knows one patch size and no dial; it is what the
models of this library are compared with.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class MlpBlock(nn.Module):
  """Dense, GELU, Dense."""

  mlp_dim: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, N, D] to the same shape."""
    width = x.shape[-1]
    init = dict(
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.normal(1e-6),
    )
    x = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype, **init)(x))
    return nn.Dense(width, dtype=self.dtype, **init)(x)


class Block(nn.Module):
  """A pre-norm transformer block."""

  num_heads: int
  mlp_dim: int
  dtype: Any
  norm_dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, N, D] to the same shape."""
    y = nn.LayerNorm(dtype=self.norm_dtype)(x)
    x += nn.MultiHeadDotProductAttention(
      self.num_heads,
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=self.dtype,
    )(y, y)
    y = nn.LayerNorm(dtype=self.norm_dtype)(x)
    return x + MlpBlock(self.mlp_dim, self.dtype)(y)


class StockViT(nn.Module):
  """A plain ViT of one patch size, with average pooling.

  Attributes are those of `models.ViT` that it has. With `float32_stream`, sums
  of residuals and LayerNorm's outputs are float32 beside products in `dtype`,
  as in big_vision.
  """

  num_classes: int
  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  patch_size: tuple[int, int]
  dtype: Any = jnp.float32
  float32_stream: bool = False

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps images [B, H, W, C] to logits [B, classes]."""
    x = nn.Conv(
      self.width,
      self.patch_size,
      strides=self.patch_size,
      padding="VALID",
      dtype=self.dtype,
      name="embedding",
    )(images.astype(self.dtype))
    b, h, w, d = x.shape
    x = x.reshape(b, h * w, d)
    init = nn.initializers.normal(d**-0.5)
    posemb = self.param("pos_embedding", init, (1, h * w, d))
    stream = jnp.float32 if self.float32_stream else self.dtype
    x = x.astype(stream) + posemb.astype(stream)
    for _ in range(self.depth):
      x = Block(self.num_heads, self.mlp_dim, self.dtype, stream)(x)
    x = nn.LayerNorm(dtype=stream)(x).mean(axis=1)
    return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))
