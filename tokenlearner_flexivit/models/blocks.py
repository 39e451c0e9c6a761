"""The parts of a pre-LayerNorm transformer.

Parameters have big_vision's names and shapes, so its released weights fit
without renaming.

Letters: B batch, M tokens that attend to N, D width.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from tokenlearner_flexivit.models import attention

LAYER_NORM_EPS = 1e-6
# Activations of MLPs: the tanh form of GELU, GELU itself, and the approximation
# x sigmoid(1.702 x), which CLIP is trained with.
GELUS = {
  "tanh": nn.gelu,
  "erf": functools.partial(nn.gelu, approximate=False),
  "quick": lambda x: x * nn.sigmoid(1.702 * x),
}
# The name of what attention returns, for policies of `jax.checkpoint`.
ATTENDED = "attended"


def layer_norm(
  dtype: jnp.dtype, name: str | None = None, eps: float = LAYER_NORM_EPS
) -> nn.LayerNorm:
  """Returns a LayerNorm with float32 statistics and output in `dtype`."""
  return nn.LayerNorm(epsilon=eps, dtype=dtype, name=name)


class Dense(nn.Module):
  """A dense layer whose first inputs and outputs can be used alone.

  Attributes:
    features: outputs of the stored kernel.
    in_features: inputs of the stored kernel; None means those of `x`.
    kernel_init: initialiser of the kernel.
    bias_init: initialiser of the bias.
    dtype: of the computation; the parameters are float32.
  """

  features: int
  in_features: int | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "*rows n"], num_out: int | None = None
  ) -> Float[Array, "*rows m"]:
    """Maps n inputs to the outputs, or to the first `num_out` of them.

    If n is less than `in_features`, the first n rows of the kernel are used.
    """
    shape = (self.in_features or x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = self.param("bias", self.bias_init, (self.features,))
    kernel = kernel[: x.shape[-1], :num_out].astype(self.dtype)
    bias = bias[:num_out].astype(self.dtype)
    y = x.astype(self.dtype) @ kernel
    return y + jnp.expand_dims(bias, range(y.ndim - 1))


class MlpBlock(nn.Module):
  """An MLP: Dense, GELU, dropout, Dense, dropout.

  Attributes:
    mlp_dim: hidden features.
    out_dim: outputs; None means as many as inputs.
    dropout: rate.
    dtype: of the computation.
    gelu: a key of `GELUS`.
  """

  mlp_dim: int
  out_dim: int | None = None
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32
  gelu: str = "tanh"

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "*rows n"],
    train: bool = False,
    num_out: int | None = None,
  ) -> Float[Array, "*rows m"]:
    """Maps n inputs to the outputs, or to the first `num_out` of them."""
    small = nn.initializers.normal(1e-6)
    y = Dense(self.mlp_dim, bias_init=small, dtype=self.dtype)(x)
    y = GELUS[self.gelu](y)
    y = nn.Dropout(self.dropout)(y, deterministic=not train)
    y = Dense(self.out_dim or x.shape[-1], bias_init=small, dtype=self.dtype)(
      y, num_out
    )
    return nn.Dropout(self.dropout)(y, deterministic=not train)


class _Affine(nn.Module):
  """A kernel and a bias that the calling module applies."""

  kernel_shape: tuple[int, ...]
  bias_shape: tuple[int, ...]
  in_axis: int | tuple[int, ...]
  out_axis: int | tuple[int, ...]

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    init = nn.initializers.xavier_uniform(self.in_axis, self.out_axis)
    kernel = self.param("kernel", init, self.kernel_shape)
    return kernel, self.param("bias", nn.initializers.zeros, self.bias_shape)


class MultiHeadDotProductAttention(nn.Module):
  """Multi-head attention with the parameters of flax's module of this name.

  Attributes:
    num_heads: must divide the width.
    dtype: of the computation; the parameters are float32.
    causal: whether a token attends to itself and to those before it alone;
      only without context and mask.
  """

  num_heads: int
  dtype: jnp.dtype = jnp.float32
  causal: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B M D"],
    context: Float[Array, "B N D"] | None = None,
    mask: Bool[Array, " tokens"] | None = None,
  ) -> Float[Array, "B M D"]:
    """Lets `x` attend to `context`, or to itself without one.

    The mask covers the tokens that are attended to; it is False for those to
    ignore.
    """
    width = x.shape[-1]
    heads = (self.num_heads, width // self.num_heads)

    def parameters(name, *arguments):
      return (
        jnp.asarray(parameter, self.dtype)
        for parameter in _Affine(*arguments, name=name)()
      )

    def project(name, x):
      kernel, bias = parameters(name, (width, *heads), heads, 0, (1, 2))
      return attention.split_heads(x.astype(self.dtype), kernel, bias)

    context = x if context is None else context
    query = project("query", x)
    key, value = project("key", context), project("value", context)
    if self.causal:
      y = attention.causal_attention(query, key, value)
    else:
      y = attention.dot_product_attention(query, key, value, mask)
    y = checkpoint_name(y, ATTENDED)
    kernel, bias = parameters("out", (*heads, width), (width,), (0, 1), 2)
    return attention.merge_heads(y, kernel, bias)


class Encoder1DBlock(nn.Module):
  """A transformer block: attention, then MLP, each normalised and residual.

  Attributes:
    num_heads: attention heads.
    mlp_dim: hidden features of the MLP.
    dropout: rate, on both branches and inside the MLP.
    drop_path: probability that an example skips a branch (stochastic depth);
      may be traced, as in a loop over blocks.
    dtype: of the computation.
    norm_eps: added to the variance in LayerNorm.
    gelu: a key of `GELUS`.
    causal: whether a token attends to itself and to those before it alone;
      only without mask.
  """

  num_heads: int
  mlp_dim: int
  dropout: float = 0.0
  drop_path: float | jax.Array = 0.0
  dtype: jnp.dtype = jnp.float32
  norm_eps: float = LAYER_NORM_EPS
  gelu: str = "tanh"
  causal: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B N D"],
    mask: Bool[Array, " N"] | None = None,
    train: bool = False,
  ) -> tuple[Float[Array, "B N D"], dict[str, Float[Array, "B N D"]]]:
    """Applies the block.

    Args:
      x: the tokens.
      mask: False for tokens that no token attends to.
      train: whether dropout and stochastic depth are active.

    Returns:
      the tokens, and the intermediates sa, +sa, mlp, +mlp by name.
    """

    def drop_path(y):
      # One draw for all tokens and features of an example. Kept branches are
      # scaled up, so that evaluation needs no change.
      never = isinstance(self.drop_path, float) and self.drop_path == 0
      if never or not train:
        return y
      keep = 1.0 - self.drop_path
      shape = (y.shape[0], 1, 1)
      kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
      return jnp.where(kept, y / jnp.asarray(keep, y.dtype), 0)

    out = {}
    y = layer_norm(self.dtype, "LayerNorm_0", self.norm_eps)(x)
    y = self._attend(y, mask)
    y = out["sa"] = nn.Dropout(self.dropout)(y, deterministic=not train)
    x = out["+sa"] = x + drop_path(y)

    y = layer_norm(self.dtype, "LayerNorm_1", self.norm_eps)(x)
    y = out["mlp"] = MlpBlock(
      self.mlp_dim, dropout=self.dropout, dtype=self.dtype, gelu=self.gelu
    )(y, train)
    x = out["+mlp"] = x + drop_path(y)
    return x, out

  @nn.nowrap
  def _attend(
    self, x: Float[Array, "B N D"], mask: Bool[Array, " N"] | None
  ) -> Float[Array, "B N D"]:
    return MultiHeadDotProductAttention(
      self.num_heads, dtype=self.dtype, causal=self.causal
    )(x, mask=mask)


class MAPHead(nn.Module):
  """Attention pooling from a learned probe (Set Transformer's PMA).

  Attributes:
    num_heads: attention heads.
    mlp_dim: hidden features of the MLP.
    dtype: of the computation.
    norm_eps: added to the variance in LayerNorm.
    gelu: a key of `GELUS`.
  """

  num_heads: int
  mlp_dim: int
  dtype: jnp.dtype = jnp.float32
  norm_eps: float = LAYER_NORM_EPS
  gelu: str = "tanh"

  @nn.compact
  def __call__(
    self, x: Float[Array, "B N D"], mask: Bool[Array, " N"] | None = None
  ) -> Float[Array, "B D"]:
    """Pools the tokens where `mask` is not False."""
    b, _, d = x.shape
    probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, d))
    probe = jnp.broadcast_to(probe.astype(self.dtype), (b, 1, d))
    x = MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype)(
      probe, x, mask
    )
    y = layer_norm(self.dtype, "LayerNorm_0", self.norm_eps)(x)
    y = MlpBlock(self.mlp_dim, dtype=self.dtype, gelu=self.gelu)(y)
    return (x + y)[:, 0]
