"""Tiny models, their parameters, and the vectors of the published code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests import tiny
from tests import vectors as vectors_lib
from tokenlearner_flexivit import models


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision("highest"):
    yield


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
  """Downloads go to a folder of the test, and nowhere without a patch."""
  monkeypatch.setenv("TLFV_CACHE", str(tmp_path / "cache"))
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def vectors():
  """Returns a function that reads a file of reference vectors."""
  return vectors_lib.Vectors


@pytest.fixture
def make_model():
  """Returns a function that builds a tiny ViT: 12 px, patches of 4."""

  def make(**overrides):
    arguments = dict(
      num_classes=5,
      width=16,
      depth=2,
      mlp_dim=24,
      num_heads=2,
      patch_size=(4, 4),
      posemb_grid=(3, 3),
    )
    return models.ViT(**(arguments | overrides))

  return make


@functools.cache
def _shapes(model, shape):
  images = jnp.zeros((1, *shape, 3))
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  return traverse_util.flatten_dict(shapes, sep="/")


@pytest.fixture
def make_params():
  """Returns a function that makes random parameters, none of them zero."""

  def make(model, seed=0, shape=(12, 12)):
    rng = np.random.default_rng(seed)
    return traverse_util.unflatten_dict(
      {
        k: 0.2 * rng.standard_normal(v.shape, np.float32)
        for k, v in _shapes(model, shape).items()
      },
      sep="/",
    )

  return make


@pytest.fixture
def logits():
  """Returns a function that applies a model."""

  def apply(model, params, images, **settings):
    return np.asarray(tiny.apply(model, params, images, **settings)[0])

  return apply


@pytest.fixture
def assert_same():
  """Returns a function that compares trees bit by bit, types included."""

  def check(actual, expected):
    actual = traverse_util.flatten_dict(actual, sep="/")
    expected = traverse_util.flatten_dict(expected, sep="/")
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
      assert actual[name].dtype == array.dtype, name
      np.testing.assert_array_equal(actual[name], array, err_msg=name)

  return check
