"""Bilinear resizing of maps of features or logits."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tokenlearner_flexivit.models import patch_embed


def resize(
  maps: Float[Array, "B h w C"], size: Sequence[int]
) -> Float[Array, "B H W C"]:
  """Resizes maps, with pixel centres at halves and without antialiasing.

  This is PyTorch's `interpolate(mode="bilinear", align_corners=False)`, which
  published models for dense tasks use. Each axis is a product with a small
  matrix, which has a cheap gradient on accelerators.

  Args:
    maps: the maps.
    size: (H, W).
  """
  for axis, new in zip((1, 2), size, strict=True):
    old = maps.shape[axis]
    if old != new:
      matrix = jnp.asarray(patch_embed.bilinear_matrix(old, new), maps.dtype)
      product = "Hh,bhwc->bHwc" if axis == 1 else "Ww,bhwc->bhWc"
      # The default of TPUs would round what is interpolated.
      maps = jnp.einsum(
        product, matrix, maps, precision=jax.lax.Precision.HIGHEST
      )
  return maps
