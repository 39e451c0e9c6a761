"""Maps of pixels cut into patches, and tokens on another grid.

Letters: B batch, H W map, N patches, p pixels of a patch, D width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int


def patches(
  labels: Int[ArrayLike, "B H W"], patch: tuple[int, int]
) -> Int[Array, "B N p"]:
  """Returns maps cut into patches, pixels row by row."""
  labels = jnp.asarray(labels)
  b, height, width = labels.shape
  (p, q), (h, w) = patch, (height // patch[0], width // patch[1])
  x = labels.reshape(b, h, p, w, q).transpose(0, 1, 3, 2, 4)
  return x.reshape(b, h * w, p * q)


def to_maps(
  patches: Int[ArrayLike, "B N p"],
  grid: tuple[int, int],
  patch: tuple[int, int],
) -> Int[Array, "B H W"]:
  """Returns whole maps from those of patches, pixels row by row.

  Args:
    patches: of the maps.
    grid: of the patches.
    patch: (height, width).
  """
  (h, w), (p, q) = grid, patch
  x = jnp.asarray(patches).reshape(-1, h, w, p, q).transpose(0, 1, 3, 2, 4)
  return x.reshape(-1, h * p, w * q)


def resized(
  x: Float[Array, "B n D"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "B m D"]:
  """Returns tokens of a resized grid, antialiased if they get fewer."""
  b, _, d = x.shape
  x = jax.image.resize(x.reshape(b, *old, d), (b, *new, d), "linear")
  return x.reshape(b, -1, d)
