"""Position embeddings on any grid."""

import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit.models import posemb


def test_resize_keeps_linear_ramps_when_growing():
  # Half-pixel bilinear reproduces a ramp away from the borders.
  ramp = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 4, 2))
  resized = posemb.resize_posemb(ramp.reshape(1, 16, 2), (4, 4), (8, 6))
  rows = resized.reshape(8, 6, 2)[1:-1, 2, 0]
  np.testing.assert_allclose(rows, np.arange(0.25, 3, 0.5), atol=1e-6)


def test_resize_averages_when_shrinking():
  # Antialiased: every stored cell counts.
  stored = jnp.asarray(np.random.default_rng(0).normal(size=(1, 36, 2)))
  resized = posemb.resize_posemb(stored, (6, 6), (1, 1))
  assert resized.shape == (1, 1, 2)
  weights = np.asarray(posemb.resize_posemb(jnp.eye(36)[None], (6, 6), (1, 1)))
  assert (weights > 0).all()
  np.testing.assert_allclose(weights.sum(), 1, atol=1e-5)


def test_same_grid_is_untouched():
  stored = jnp.ones((1, 16, 2))
  assert posemb.resize_posemb(stored, (4, 4), [4, 4]) is stored
  # As many cells, but another grid.
  assert posemb.resize_posemb(stored, (4, 4), (2, 8)) is not stored


def test_sincos2d_is_separable():
  table = np.asarray(posemb.sincos2d((3, 5), 16)).reshape(3, 5, 16)
  # The first half tells the column, the second the row.
  np.testing.assert_array_equal(table[0, :, :8], table[2, :, :8])
  np.testing.assert_array_equal(table[:, 0, 8:], table[:, 4, 8:])
  np.testing.assert_allclose(table[0, :, 0], np.sin(np.arange(5)), atol=1e-6)
  np.testing.assert_allclose(table[:, 0, 12], np.cos(np.arange(3)), atol=1e-6)


@pytest.mark.parametrize("width", [4, 30])
def test_sincos2d_width(width):
  with pytest.raises(ValueError, match=f"divisible by 4.*{width}"):
    posemb.sincos2d((3, 3), width)
