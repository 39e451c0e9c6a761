"""Position embeddings on any grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import models
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


def published_sines(height, width, features):
  """The formula of big_vision's posemb_sincos_2d, in float64."""
  y, x = np.mgrid[:height, :width]
  omega = np.arange(features // 4) / (features // 4 - 1)
  omega = 1 / 10_000**omega
  y = np.einsum("m,d->md", y.flatten(), omega)
  x = np.einsum("m,d->md", x.flatten(), omega)
  table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
  return table.reshape(height, width, features)


@pytest.mark.parametrize("stored", [(5, 5), (6, 6), (3, 5)])
def test_a_model_resizes_the_sines_of_its_stored_grid(stored):
  arguments = dict(
    num_classes=3, width=16, depth=1, mlp_dim=8, num_heads=1, patch_size=4
  )
  model = models.ViT(**arguments, posemb="sincos2d", posemb_grid=stored)
  images = jnp.asarray(
    np.random.default_rng(0).uniform(-1, 1, (1, 60, 60, 3)), jnp.float32
  )
  params = tiny.init(model, images)
  assert "pos_embedding" not in params
  # Fewer cells than are stored, more, and of one axis fewer, of the other more.
  outs = jax.jit(
    lambda: [
      (out["stem"], out["with_posemb"])
      for _, out in (
        model.apply({"params": params}, images, patch_size=patch_size)
        for patch_size in (20, 6, (30, 6))
      )
    ]
  )()
  for stem, with_posemb in outs:
    _, h, w, d = stem.shape
    expected = jax.image.resize(
      jnp.asarray(published_sines(*stored, d), jnp.float32), (h, w, d), "linear"
    )
    np.testing.assert_allclose(
      with_posemb - stem.reshape(1, h * w, d),
      expected.reshape(1, h * w, d),
      atol=2e-5,
    )
