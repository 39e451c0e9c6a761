"""Registers, poolings of several tokens, and where the last norm stands."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.analysis import attention
from tokenlearner_flexivit.models import cost

POOLS = ("gap", "tok", "map", "tok_gap", "tok_dist")


def make(**overrides):
  sizes = dict(width=16, depth=2, mlp_dim=24, num_heads=2)
  arguments = dict(num_classes=5, patch_size=4, posemb_grid=3)
  return models.ViT(**sizes | arguments | overrides)


@pytest.mark.parametrize(
  ("pool", "registers"), itertools.product(POOLS, (1, 4))
)
def test_parameters_and_tokens_are_counted(pool, registers):
  model = make(pool=pool, registers=registers)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.ones((1, 12, 12, 3))
  )
  leaves = jax.tree.leaves(shapes["params"])
  assert sum(leaf.size for leaf in leaves) == cost.num_params(model)
  assert shapes["params"]["registers"].shape == (1, registers, 16)
  prefix = registers + (pool.startswith("tok"))
  assert model.num_prefix == prefix
  assert model.seq_lens((12, 12)) == (9 + prefix,) * 2


def test_a_norm_of_what_is_pooled():
  model = make(norm="after_pool", num_classes=None)
  params = tiny.init(model, jnp.zeros((1, 12, 12, 3)))
  assert "encoder_norm" not in params["Transformer"]
  x = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3)).astype("f")
  pooled, out = tiny.apply(model, params, x)
  mean = np.asarray(out["encoded"]).mean(axis=1)
  centred = mean - mean.mean(axis=1, keepdims=True)
  normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
  scale, bias = params["fc_norm"]["scale"], params["fc_norm"]["bias"]
  expected = normed * np.asarray(scale) + np.asarray(bias)
  np.testing.assert_allclose(pooled, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (dict(pool="tok_dist"), "registers=0. Set registers=1"),
    (dict(pool="tok_gap", rep_size=4), "has no rep_size=4"),
    (dict(pool="tok_gap", norm="after_pool"), "has no norm='after_pool'"),
    (dict(registers=-1), "registers must be at least 0"),
    (dict(norm="none"), "Unknown norm 'none'. Known: before_pool, after_pool"),
  ],
)
def test_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    make(**arguments)


def test_rollout_goes_through_registers():
  model = make(registers=3)
  x = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3)).astype("f")
  params = tiny.init(model, jnp.zeros((1, 12, 12, 3)))
  maps = attention.rollout(model, params, x, dials.Setting())
  assert maps.shape == (2, 3, 3) and (maps >= 0).all()
  # What is missing to 1 goes to the registers.
  assert (maps.sum(axis=(1, 2)) < 1).all()
  other = make(pool="tok_gap")
  with pytest.raises(ValueError, match="defined for pool='tok_gap'"):
    attention.rollout(other, params, x, dials.Setting())
