"""Attention on TPUs that keeps the weights [M, N] on the chip.

A kernel sees all keys and values of an image at once: at some thousands of
tokens they fit into the on-chip memory, so that a row of weights needs no
second pass. It reads tokens in the layout of the layers around it, [B, N, D],
without a transposition to heads. The backward pass computes the weights again
and needs nothing but query, key and value.

Letters: B batch, M tokens that attend to N, h heads, d width of a head.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

# The last axis of a block is a multiple of this, or the array's own.
_LANES = 128
# Rows of queries times keys of one block, which has a few such arrays.
_MAX_WEIGHTS = 1 << 18
# Keys of one block that has several images, so that few tokens fill it, too.
_MAX_SHARED_KEYS = 512
_MAX_IMAGES = 8
MAX_KEYS = 8192
# For blocks of so many keys times lanes, the on-chip memory that the compiler
# gives unasked, 16 MiB, is enough. More would drive the program's own arrays
# out of it. All TPUs have the other amount.
_SMALL_BLOCK = 1 << 18
_VMEM_BYTES = 60 << 20


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(
  query: Float[Array, "B M h d"],
  key: Float[Array, "B N h d"],
  value: Float[Array, "B N h d"],
  mask: Bool[Array, " N"] | None = None,
  interpret: bool = False,
) -> Float[Array, "B M h d"]:
  """Returns attention, with the softmax in float32.

  Args:
    query: the tokens that attend.
    key: at most `MAX_KEYS`.
    value: as many as keys.
    mask: False for keys that are not attended to.
    interpret: whether to run on any platform, slowly, for tests.
  """
  return _forward(query, key, value, mask, interpret)[0]


def _forward(query, key, value, mask, interpret):
  call = _Call(query, key, interpret)
  (out,) = call(
    _forward_kernel,
    [query, key, value],
    outputs=[query],
    mask=mask,
    products=2,
  )
  return out, (query, key, value, mask)


def _backward(interpret, residuals, out_grad):
  query, key, value, mask = residuals
  call = _Call(query, key, interpret)
  gradients = call(
    functools.partial(_backward_kernel, num_queries=query.shape[1]),
    [query, key, value, out_grad],
    outputs=[query, key, value],
    mask=mask,
    products=5,
    scratch=[pltpu.VMEM(call.key_block, jnp.float32)] * 2,
  )
  return *gradients, None


attention.defvjp(_forward, _backward)


class _Call:
  """Calls a kernel for each image, group of heads and block of queries."""

  def __init__(self, query: jax.Array, key: jax.Array, interpret: bool):
    self._batch, self._queries, self._heads, self._head_dim = query.shape
    self._keys = key.shape[1]
    self._width = self._heads * self._head_dim
    self._interpret = interpret
    # Heads that together fill the lanes; all of them if none do.
    self.lanes = math.lcm(self._head_dim, _LANES)
    if self._width % self.lanes:
      self.lanes = self._width
    self._rows = min(256, max(8, _MAX_WEIGHTS // self._keys // 8 * 8))
    self._images = 1
    if self._queries <= self._rows:
      self._rows = self._queries
      most = min(_MAX_IMAGES, max(1, _MAX_SHARED_KEYS // self._keys))
      self._images = max(n for n in range(1, most + 1) if self._batch % n == 0)

    self.key_block = self._images, self._keys, self.lanes

  def __call__(self, kernel, inputs, *, outputs, mask, products, scratch=()):
    """Returns the outputs of a kernel.

    Args:
      kernel: function of references to the mask (if there is one), the inputs,
        the outputs and the scratch memory.
      inputs: [B, M or N, h, d]; the first and any fourth have M tokens.
      outputs: arrays whose shapes and dtypes those of the outputs are.
      mask: of the keys, or None.
      products: how many matrix products of M x N x d there are.
      scratch: memory that blocks of queries share.
    """
    grid = (
      self._batch // self._images,
      self._width // self.lanes,
      -(-self._queries // self._rows),
    )
    rows = pl.BlockSpec(
      (self._images, self._rows, self.lanes), lambda b, h, i: (b, i, h)
    )
    whole = pl.BlockSpec(self.key_block, lambda b, h, i: (b, 0, h))
    specs = [rows, whole, whole, rows]
    masks, mask_specs = [], []
    if mask is not None:
      masks = [mask.astype(jnp.int32)[None]]
      mask_specs = [pl.BlockSpec((1, self._keys), lambda b, h, i: (0, 0))]
    merged = [x.reshape(*x.shape[:2], self._width) for x in inputs]
    shapes = [
      jax.ShapeDtypeStruct((*x.shape[:2], self._width), x.dtype)
      for x in outputs
    ]
    weights = self._batch * self._heads * self._queries * self._keys
    results = pl.pallas_call(
      functools.partial(
        kernel, head_dim=self._head_dim, masked=mask is not None
      ),
      grid=grid,
      in_specs=[*mask_specs, *specs[: len(inputs)]],
      out_specs=specs[: len(outputs)],
      out_shape=shapes,
      scratch_shapes=list(scratch),
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary"),
        vmem_limit_bytes=(
          None if math.prod(self.key_block) <= _SMALL_BLOCK else _VMEM_BYTES
        ),
      ),
      cost_estimate=pl.CostEstimate(
        flops=2 * products * weights * self._head_dim,
        transcendentals=weights,
        bytes_accessed=sum(
          x.size * x.dtype.itemsize for x in (*merged, *shapes)
        ),
      ),
      interpret=self._interpret,
    )(*masks, *merged)
    return [
      y.reshape(*y.shape[:2], self._heads, self._head_dim) for y in results
    ]


def _product(x, y, contract_x, contract_y):
  """Returns a product of two matrices in float32."""
  return jax.lax.dot_general(
    x,
    y,
    (((contract_x,), (contract_y,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def _weights(query, key, mask_ref):
  """Returns the weights of one head, float32 [M, N]."""
  logits = _product(query, key, 1, 1) * query.shape[-1] ** -0.5
  if mask_ref is not None:
    logits = jnp.where(mask_ref[:] != 0, logits, -1e30)
  weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
  return weights / jnp.sum(weights, axis=1, keepdims=True)


def _heads(ref, head_dim):
  """Yields the parts of a block, as indices: one head of one image each."""
  images, _, width = ref.shape
  for image in range(images):
    for start in range(0, width, head_dim):
      yield image, slice(None), slice(start, start + head_dim)


def _forward_kernel(*refs, head_dim, masked):
  mask_ref = refs[0] if masked else None
  query_ref, key_ref, value_ref, out_ref = refs[masked:]
  for head in _heads(query_ref, head_dim):
    weights = _weights(query_ref[head], key_ref[head], mask_ref)
    out = _product(weights.astype(value_ref.dtype), value_ref[head], 1, 0)
    out_ref[head] = out.astype(out_ref.dtype)


def _backward_kernel(*refs, head_dim, masked, num_queries):
  mask_ref = refs[0] if masked else None
  query_ref, key_ref, value_ref, grad_ref = refs[masked:][:4]
  query_grad_ref, key_grad_ref, value_grad_ref = refs[masked:][4:7]
  key_sum_ref, value_sum_ref = refs[-2:]
  block, rows = pl.program_id(2), query_ref.shape[1]

  @pl.when(block == 0)
  def _():
    key_sum_ref[...] = jnp.zeros_like(key_sum_ref)
    value_sum_ref[...] = jnp.zeros_like(value_sum_ref)

  for head in _heads(query_ref, head_dim):
    query, key, grad = query_ref[head], key_ref[head], grad_ref[head]
    if num_queries % rows:
      # The last block has rows of no query, of any content.
      row = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0)
      real = row < num_queries - block * rows
      query, grad = (
        jnp.where(real, x, jnp.zeros_like(x)) for x in (query, grad)
      )
    weights = _weights(query, key, mask_ref)
    value_sum_ref[head] += _product(weights.astype(grad.dtype), grad, 0, 0)
    weights_grad = _product(grad, value_ref[head], 1, 1)
    mean = jnp.sum(weights * weights_grad, axis=1, keepdims=True)
    logits_grad = weights * (weights_grad - mean) * head_dim**-0.5
    logits_grad = logits_grad.astype(grad.dtype)
    query_grad = _product(logits_grad, key, 1, 0)
    query_grad_ref[head] = query_grad.astype(query_grad_ref.dtype)
    key_sum_ref[head] += _product(logits_grad, query, 0, 0)

  @pl.when(block == pl.num_programs(2) - 1)
  def _():
    key_grad_ref[...] = key_sum_ref[...].astype(key_grad_ref.dtype)
    value_grad_ref[...] = value_sum_ref[...].astype(value_grad_ref.dtype)
