"""Multiply-adds against XLA's own count and the papers' figures."""

import jax
import numpy as np
import pytest

from tokenlearner_flexivit import models
from tokenlearner_flexivit.analysis import flops


@pytest.mark.parametrize(
  "kwargs",
  [
    dict(),
    dict(pool="map"),
    dict(pool="tok", rep_size=True),
    dict(token_learner=dict(layer=1, num_tokens=8)),
    dict(token_learner=dict(layer=1, num_tokens=8, version="1.0")),
    dict(token_learner=dict(layer=0, num_tokens=8, fuser=True)),
  ],
)
def test_the_closed_form_is_what_xla_counts(kwargs):
  model = models.create(
    width=192,
    depth=2,
    mlp_dim=768,
    num_heads=3,
    patch_size=(12, 12),
    posemb_grid=(8, 8),
    num_classes=100,
    **kwargs,
  )
  image = jax.ShapeDtypeStruct((1, 96, 96, 3), np.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)
  cost = jax.jit(model.apply).lower(params, image).cost_analysis()
  ours = 2 * flops.macs(model, (96, 96, 3))  # XLA counts both operations.
  # XLA also counts norms, softmax and activations, in small operations.
  assert ours < cost["flops"] < 1.06 * ours


@pytest.mark.parametrize(
  "variant, patch_size, gmacs",
  # FlexiViT at 240 px with a cls token: the public S/16 and B/16 are given
  # as 5.35 and 20.29; large patches are 25 tokens.
  [("S", 16, 5.35), ("B", 16, 20.29), ("L", 16, 70.99), ("B", 48, 2.35)],
)
def test_flexivit_at_240_pixels(variant, patch_size, gmacs):
  model = models.ViT.from_variant(variant, num_classes=1000, pool="tok")
  ours = flops.macs(model, (240, 240, 3), (patch_size, patch_size)) / 1e9
  assert ours == pytest.approx(gmacs, rel=0.01)


def test_token_learner_halves_the_published_model():
  """B/16 at 384 px: 55.6 and, with 8 tokens at mid-depth, 28.7 GFLOPS."""
  image = (384, 384, 3)
  plain = models.ViT.from_variant("B/16", num_classes=1000)
  learned = models.ViT.from_variant(
    "B/16", num_classes=1000, token_learner=dict(layer=6, num_tokens=8)
  )
  assert flops.macs(plain, image) / 1e9 == pytest.approx(55.6, rel=0.01)
  assert flops.macs(learned, image) / 1e9 == pytest.approx(28.7, rel=0.02)


def test_fewer_tokens_and_larger_patches_cost_less():
  model = models.create(
    variant="Ti", num_classes=10, token_learner=dict(layer=6, num_tokens=16)
  )
  image = (96, 96, 3)
  costs = [
    flops.macs(model, image, (p, p), s)
    for p, s in ((32, 4), (32, 16), (16, 4), (16, 16), (8, 16))
  ]
  assert costs == sorted(costs)
