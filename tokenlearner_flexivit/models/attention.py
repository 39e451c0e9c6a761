"""Attention, in the form that suits the platform.

All forms compute the softmax in float32. On accelerators none writes weights
[M, N] in float32 to memory, and where they would be larger than the tokens
themselves, a fused kernel does not write them at all.

Letters: B batch, M tokens that attend to N, h heads, d width of a head.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# From as many tokens on, a TPU runs the kernel. With fewer, most of a block
# would be empty.
_MANY = 16
# cuDNN's limits that hold for all cards.
_CUDNN_DTYPES = ("bfloat16", "float16")
_CUDNN_MAX_WIDTH = 128


@jax.jit
def split_heads(
  x: Float[Array, "B N D"],
  kernel: Float[Array, "D h d"],
  bias: Float[Array, "h d"],
) -> Float[Array, "B N h d"]:
  """Returns a projection of tokens, in the layout that attention reads next.

  A kernel reads [B, N, h d]; contractions read heads apart. The other layout
  would cost a copy.
  """
  return jax.lax.platform_dependent(
    x, kernel, bias, cpu=_split_rows, default=_split_tokens
  )


@jax.jit
def merge_heads(
  x: Float[Array, "B N h d"],
  kernel: Float[Array, "h d D"],
  bias: Float[Array, " D"],
) -> Float[Array, "B N D"]:
  """Returns the projection of attended values back to tokens."""
  return jax.lax.platform_dependent(
    x, kernel, bias, cpu=_merge_rows, default=_merge_tokens
  )


def _split_tokens(x, kernel, bias):
  width, *heads = kernel.shape
  if x.shape[1] < _MANY:
    return jnp.einsum("bnd,dhk->bnhk", x, kernel) + bias[None, None]
  y = x @ kernel.reshape(width, -1) + bias.reshape(1, 1, -1)
  return y.reshape(*x.shape[:2], *heads)


def _split_rows(x, kernel, bias):
  """Projects by a product of two matrices, which a CPU's library is best at.

  A training step takes 0.96 of its time by `_split_tokens`
  (docs/accelerators.md).
  """
  width, *heads = kernel.shape
  y = x.reshape(-1, width) @ kernel.reshape(width, -1) + bias.reshape(1, -1)
  return y.reshape(*x.shape[:2], *heads)


def _merge_tokens(x, kernel, bias):
  if x.shape[1] < _MANY:
    return jnp.einsum("bnhk,hkd->bnd", x, kernel) + bias[None, None]
  b, n, h, d = x.shape
  return x.reshape(b, n, h * d) @ kernel.reshape(h * d, -1) + bias[None, None]


def _merge_rows(x, kernel, bias):
  b, n, h, d = x.shape
  y = x.reshape(-1, h * d) @ kernel.reshape(h * d, -1) + bias[None]
  return y.reshape(b, n, -1)


@jax.jit
def dot_product_attention(
  query: Float[Array, "B M h d"],
  key: Float[Array, "B N h d"],
  value: Float[Array, "B N h d"],
  mask: Bool[Array, " N"] | None = None,
) -> Float[Array, "B M h d"]:
  """Returns attention in the dtype of `value`.

  Args:
    query: the tokens that attend.
    key: the tokens that are attended to.
    value: as many.
    mask: False for keys that are not attended to.
  """
  return jax.lax.platform_dependent(
    query, key, value, mask, default=_contracted, **_forms(query, key)
  )


@jax.jit
def causal_attention(
  query: Float[Array, "B M h d"],
  key: Float[Array, "B N h d"],
  value: Float[Array, "B N h d"],
  start: int | Int[Array, ""] = 0,
) -> Float[Array, "B M h d"]:
  """Returns attention of each token to itself and to those before it.

  One form serves all platforms: texts and codes, which need it, are short.

  Args:
    query: the tokens that attend.
    key: all tokens; what those behind a query hold has no effect.
    value: as many.
    start: the position of the first query among all tokens.
  """
  places = start + jnp.arange(query.shape[1])
  seen = jnp.arange(key.shape[1])[None, :] <= places[:, None]
  return _contracted(query, key, value, seen)


def _forms(query: jax.Array, key: jax.Array) -> dict[str, Callable[..., Any]]:
  """Returns the forms of platforms that have one of their own.

  Every form is traced, so those that cannot be compiled here are left out.
  """
  forms = {"cpu": _head_major}
  if not isinstance(query.shape[0], int):
    return forms  # Kernels are built for a number; an export leaves it open.
  m, n, d = query.shape[1], key.shape[1], query.shape[-1]
  if min(m, n) >= _MANY and _has_libtpu():
    # Importing Pallas takes a tenth of a second, which others do without.
    from tokenlearner_flexivit.models import attention_kernel

    if n <= attention_kernel.MAX_KEYS:
      forms["tpu"] = attention_kernel.attention
  if (
    query.dtype.name in _CUDNN_DTYPES
    and d <= _CUDNN_MAX_WIDTH
    and d % 8 == 0
    and _has_cudnn()
  ):
    forms["cuda"] = _cudnn
  return forms


def _head_major(query, key, value, mask):
  """Returns attention by products over [B, h, N, d].

  On CPU, S at 225 tokens is 1.23x as fast by it as by `_contracted`, and a
  training step 1.06x (docs/accelerators.md). Dividing by the sum after the
  product with the values, not before, saves a pass over [M, N].
  """
  query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
  query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
  logits = jnp.einsum(
    "bhmd,bhnd->bhmn", query, key, preferred_element_type=jnp.float32
  )
  weights = _exponentials(logits, mask)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  y = jnp.einsum(
    "bhmn,bhnd->bhmd",
    weights.astype(value.dtype),
    value,
    preferred_element_type=jnp.float32,
  )
  return (y / total).astype(value.dtype).transpose(0, 2, 1, 3)


def _contracted(query, key, value, mask):
  """Returns attention by contractions over [B, N, h, d].

  Only the logits, less their largest, and the weights reach the memory, in the
  dtype of `value`: a TPU's compiler computes a row of weights in one pass then.
  """
  query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
  weights = _exponentials(jnp.einsum("bmhd,bnhd->bhmn", query, key), mask)
  weights /= jnp.sum(weights, axis=-1, keepdims=True)
  return jnp.einsum("bhmn,bnhd->bmhd", weights.astype(value.dtype), value)


def _exponentials(logits, mask):
  """Returns the weights before they are divided by their sum, float32."""
  if mask is not None:
    # [N], or [M, N] for attention that differs from query to query.
    mask = jnp.expand_dims(mask, range(logits.ndim - mask.ndim))
    logits = jnp.where(mask, logits, -1e30)
  logits -= jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  return jnp.exp(logits.astype(jnp.float32))


def _cudnn(query, key, value, mask):
  """Returns attention by cuDNN's fused kernel."""
  num_keys = None
  if mask is not None:
    # The kernel takes the number of keys, so those in use go first.
    order = jnp.argsort(~mask, stable=True)
    key, value = key[:, order], value[:, order]
    num_keys = jnp.sum(mask, dtype=jnp.int32)
  # JAX refuses odd numbers of tokens when it differentiates.
  m, n = query.shape[1], key.shape[1]
  if m % 2:
    query = _append_zero(query)
  if n % 2:
    key, value = _append_zero(key), _append_zero(value)
    num_keys = n if num_keys is None else num_keys
  out = jax.nn.dot_product_attention(
    query,
    key,
    value,
    key_value_seq_lengths=(
      None if num_keys is None else jnp.full(key.shape[:1], num_keys, jnp.int32)
    ),
    implementation="cudnn",
  )
  return out[:, :m]


def _append_zero(x):
  """Appends a token."""
  return jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))


@functools.cache
def _has_libtpu() -> bool:
  """Tells whether JAX's wheel for TPUs is installed."""
  return importlib.util.find_spec("libtpu") is not None


@functools.cache
def _has_cudnn() -> bool:
  """Tells whether JAX's wheels for CUDA are installed."""
  x = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
  try:
    jax.eval_shape(lambda x: _cudnn(x, x, x, None), x)
  except RuntimeError:  # "cuDNN is not detected."
    return False
  return True
