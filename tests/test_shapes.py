"""Tests that the shapes that functions declare are checked in tests."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from tokenlearner_flexivit import models, parallel
from tokenlearner_flexivit.models import attention


def test_functions_check_their_arguments():
  query, key = jnp.zeros((2, 4, 3, 5)), jnp.zeros((2, 6, 3, 5))
  y = attention.dot_product_attention(query, key, key, jnp.ones(6, bool))
  assert y.shape == query.shape
  with pytest.raises(jaxtyping.TypeCheckError, match="'mask'"):
    attention.dot_product_attention(query, key, key, jnp.ones(4, bool))


def test_modules_check_their_arguments_when_traced():
  module = models.TokenLearner(2)
  key, x = jax.random.key(0), jnp.zeros((1, 6, 8))
  (tokens, _), _ = jax.eval_shape(module.init_with_output, key, x)
  assert tokens.shape == (1, 2, 8)
  for wrong in (x[0, :, 0], x.astype(int)):
    with pytest.raises(jaxtyping.TypeCheckError, match="'x'"):
      jax.eval_shape(module.init, key, wrong)


def test_trees_check_their_leaves():
  devices = parallel.create()
  with pytest.raises(jaxtyping.TypeCheckError, match="'tree'"):
    devices.gather({"labels": jnp.zeros(3), "loss": jnp.float32(0)})
  with pytest.raises(jaxtyping.TypeCheckError, match="'batch'"):
    devices.place_batch({"seed": np.int32(0)})


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_test_can_do_without():
  with pytest.raises(ValueError, match="Expected float images"):
    models.create(variant="mu").init(jax.random.key(0), jnp.zeros((8, 8, 3)))
