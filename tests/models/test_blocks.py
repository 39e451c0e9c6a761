"""The parts of a transformer, against flax's own."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tokenlearner_flexivit.models import attention, blocks


def normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def init(module, *args):
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
  return jax.tree.map(lambda p: 0.3 * normal(p.size, *p.shape), shapes)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_flax(cross, masked):
  x, context = normal(0, 2, 5, 12), normal(1, 2, 7, 12) if cross else None
  keys = 7 if cross else 5
  mask = jnp.arange(keys) < 3 if masked else None
  ours = blocks.MultiHeadDotProductAttention(3)
  theirs = nn.MultiHeadDotProductAttention(
    3, kernel_init=nn.initializers.xavier_uniform()
  )
  params = init(ours, x, context)
  chex.assert_trees_all_equal_shapes(params, init(theirs, x, context))

  def apply_ours(params):
    return ours.apply({"params": params}, x, context, mask)

  def apply_theirs(params):
    full = None if mask is None else mask[None, None, None, :]
    return theirs.apply({"params": params}, x, context, mask=full)

  @functools.partial(jax.jit, static_argnums=0)
  def value_and_gradients(f, params):
    y, vjp = jax.vjp(f, params)
    return y, vjp(jnp.sin(y))

  chex.assert_trees_all_close(
    value_and_gradients(apply_ours, params),
    value_and_gradients(apply_theirs, params),
    atol=1e-5,
  )


def test_attention_init_has_the_scale_of_flax():
  x = jnp.ones((1, 2, 64))
  ours = blocks.MultiHeadDotProductAttention(4).init(jax.random.key(0), x)
  for name in ("query", "key", "value", "out"):
    kernel = ours["params"][name]["kernel"]
    np.testing.assert_allclose(jnp.std(kernel), (2 / 128) ** 0.5, rtol=0.05)


def test_large_logits_do_not_overflow():
  q = 1e3 * normal(0, 1, 2, 4, 8)
  y = attention.dot_product_attention(q, q, normal(1, 1, 2, 4, 8))
  assert jnp.isfinite(y).all()


def test_dense_slice():
  module = blocks.Dense(6, in_features=5)
  x = normal(0, 2, 3, 5)
  params = init(module, x)
  assert jax.tree.map(jnp.shape, params) == dict(kernel=(5, 6), bias=(6,))
  full = nn.Dense(6).apply({"params": params}, x)
  np.testing.assert_allclose(module.apply({"params": params}, x), full, 1e-5)
  part = module.apply({"params": params}, x[..., :3], 2)
  expected = (
    x[..., :3] @ params["kernel"][:3, :2] + params["bias"][None, None, :2]
  )
  np.testing.assert_allclose(part, expected, atol=1e-6)


def test_mask_hides_tokens():
  block = blocks.Encoder1DBlock(2, 16)
  x = normal(0, 2, 5, 8)
  variables = {"params": init(block, x)}
  apply = jax.jit(block.apply)
  masked, _ = apply(variables, x, jnp.arange(5) < 3)
  sliced, _ = apply(variables, x[:, :3])
  np.testing.assert_allclose(masked[:, :3], sliced, atol=1e-6)


def test_map_head_mask():
  head = blocks.MAPHead(2, 16)
  x = normal(0, 2, 5, 8)
  variables = {"params": init(head, x)}
  apply = jax.jit(head.apply)
  masked = apply(variables, x, jnp.arange(5) < 3)
  assert masked.shape == (2, 8)
  np.testing.assert_allclose(masked, apply(variables, x[:, :3]), atol=1e-6)


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
  block = blocks.Encoder1DBlock(2, 16, drop_path=0.5)
  x = jnp.tile(normal(0, 1, 3, 8), (512, 1, 1))
  variables = {"params": init(block, x)}

  @functools.partial(jax.jit, static_argnums=0)
  def branches(train):
    _, out = block.apply(
      variables, x, train=train, rngs={"dropout": jax.random.key(1)}
    )
    return out["+sa"] - x, out["sa"]

  kept, branch = branches(True)
  doubled = np.isclose(kept, 2 * branch, atol=1e-5).all((1, 2))
  dropped = np.isclose(kept, 0, atol=1e-5).all((1, 2))
  assert (doubled ^ dropped).all()
  np.testing.assert_allclose(doubled.mean(), 0.5, atol=0.1)
  kept, branch = branches(False)
  np.testing.assert_allclose(kept, branch, atol=1e-6)
