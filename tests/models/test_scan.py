"""Blocks as one loop compute what blocks one after the other compute."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import stacking

IMAGES = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))


def make_model(**kwargs):
  kwargs = dict(depth=4) | kwargs
  return models.ViT.from_variant(
    "mu",
    num_classes=5,
    patch_size=4,
    posemb_grid=3,
    head_zeroinit=False,
    **kwargs,
  )


def make_params(model):
  return tiny.init(model, IMAGES)


@functools.partial(jax.jit, static_argnums=0)
def initial_values(model, key):
  """Returns those of a layer in the last of three blocks."""
  params = model.init(key, IMAGES)["params"]
  return params["Transformer"]["encoderblock_2"]["MlpBlock_0"]["Dense_0"]


@pytest.mark.parametrize(
  "kwargs",
  [
    dict(
      depth=3,
      pool="tok",
      token_learner=dict(layer=1, num_tokens=3),
    ),
    pytest.param(
      dict(token_learner=dict(layer=3, num_tokens=3, fuser=True)),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_scan_is_no_other_model(kwargs):
  plain = make_model(**kwargs)
  scanned = plain.clone(scan=True, remat="blocks")
  params = make_params(plain)
  chex.assert_trees_all_equal(params, make_params(scanned))
  key = jax.random.key(1)
  chex.assert_trees_all_equal(
    initial_values(plain, key), initial_values(scanned, key)
  )

  def loss(params, model):
    logits, out = model.apply({"params": params}, IMAGES)
    return jnp.sum(logits**2), out

  results = [
    jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(params, m)
    for m in (plain, scanned)
  ]
  # Intermediates of every block included.
  chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-5)

  stacks = stacking.stack(params, scanned.scanned_runs)
  assert len(jax.tree.leaves(stacks)) < len(jax.tree.leaves(params))
  chex.assert_trees_all_equal(stacking.unstack(stacks), params)
  (_, out), grads = jax.jit(
    jax.value_and_grad(loss, has_aux=True), static_argnums=1
  )(stacks, scanned)
  chex.assert_trees_all_close(out, results[1][0][1], rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(
    stacking.unstack(grads), results[1][1], rtol=1e-4, atol=1e-5
  )


def test_scan_with_a_number_of_tokens_that_is_traced():
  plain = make_model(depth=3, token_learner=dict(layer=1, num_tokens=3))
  params = make_params(plain)
  logits = [
    jax.jit(
      lambda s, m=m: m.apply({"params": params}, IMAGES, num_tokens=s)[0]
    )(jnp.int32(2))
    for m in (plain, plain.clone(scan=True))
  ]
  np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


def test_every_block_of_a_scan_drops_on_its_own():
  """The first skips no branch; the last does so for half of the examples."""
  model = make_model(scan=True, stochastic_depth=0.5)
  params = make_params(model)
  images = jnp.tile(IMAGES[:1], (256, 1, 1, 1))

  @jax.jit
  def encoder(key):
    _, out = model.apply(
      {"params": params}, images, train=True, rngs={"dropout": key}
    )
    x = [out["with_posemb"]] + [b["+mlp"] for b in out["encoder"].values()]
    skipped = [
      jnp.isclose(block["+sa"], before, atol=1e-6).all((1, 2)).mean()
      for block, before in zip(out["encoder"].values(), x[:-1], strict=True)
    ]
    return jnp.stack(skipped)

  skipped = encoder(jax.random.key(0))
  np.testing.assert_allclose(skipped, np.arange(4) / 6, atol=0.1)
  assert not np.allclose(skipped, encoder(jax.random.key(1)))


def test_scan_compiles_a_block_once():
  """A model of twice the depth has no more products in its program."""

  def products(depth, scan):
    model = make_model(scan=scan, depth=depth)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    program = jax.jit(lambda p: model.apply(p, IMAGES)[0]).lower(params)
    return program.as_text().count("dot_general")

  assert products(4, scan=True) == products(2, scan=True)
  assert products(4, scan=False) > products(2, scan=False)


def test_runs_end_where_token_learner_stands():
  def runs(**kwargs):
    return make_model(scan=True, **kwargs).scanned_runs

  assert runs() == (range(4),)
  for layer, expected in (
    (0, (range(4),)),
    (1, (range(1, 4),)),
    (2, (range(2), range(2, 4))),
  ):
    assert runs(token_learner=dict(layer=layer, num_tokens=3)) == expected
  assert runs(token_learner=dict(layer=2, num_tokens=3, fuser=True)) == (
    range(2),
  )
  assert make_model().scanned_runs == ()


def test_stacks_wherever_parameters_are():
  """Such as in an optimizer's state; what is no block stays."""
  model = make_model(scan=True, token_learner=dict(layer=2, num_tokens=3))
  params = make_params(model)
  optimizer = optax.adamw(1e-3)
  stacks = stacking.stack(params, model.scanned_runs)
  assert set(stacks["Transformer"]) == {
    *("encoderblocks_0-1", "encoderblocks_2-3"),
    *("TokenLearner_0", "encoder_norm"),
  }
  chex.assert_trees_all_equal(
    stacking.unstack(optimizer.init(stacks)), optimizer.init(params)
  )
  assert stacking.stack(params, ()) == params
  assert stacking.unstack(params) == params
