"""Position embeddings for a grid of any size."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float32

POSEMBS = ("learn", "sincos2d")


def resize_posemb(
  posemb: Float[ArrayLike, "1 N D"],
  old_grid: Sequence[int],
  new_grid: Sequence[int],
) -> Float[ArrayLike, "1 M D"]:
  """Resizes a position embedding bilinearly.

  As in FlexiViT's forward pass, the interpolation is antialiased when the grid
  shrinks, unlike the resize of the patch kernel. Learned embeddings and sines
  are resized in the same way, so that a place in the image keeps its position
  at every patch size.

  Args:
    posemb: for the N cells of `old_grid`.
    old_grid: (h, w), or (T, h, w) for a video.
    new_grid: the grid wanted, with as many numbers; static.
  """
  if tuple(old_grid) == tuple(new_grid):
    return posemb
  d = posemb.shape[-1]
  posemb = jax.image.resize(
    posemb.reshape(*old_grid, d), (*new_grid, d), "linear"
  )
  return posemb.reshape(1, -1, d)


def sincos2d(
  grid: Sequence[int], width: int, temperature: float = 10_000.0
) -> Float32[Array, "1 N {width}"]:
  """Returns fixed sine-cosine position embeddings (MoCo v3, Section 5).

  The features of the cell in row y and column x are [sin(x f), cos(x f),
  sin(y f), cos(y f)] for width/4 frequencies f between 1 and 1/temperature.

  Args:
    grid: (h, w).
    width: D, divisible by 4 and at least 8.
    temperature: the longest wavelength, in units of 2 pi cells.

  Raises:
    ValueError: for an unsuitable width.
  """
  check_sincos_width(width)
  h, w = grid
  freqs = temperature ** -np.linspace(0, 1, width // 4)

  def waves(n):
    angles = np.outer(np.arange(n), freqs)
    return jnp.asarray(
      np.concatenate([np.sin(angles), np.cos(angles)], axis=1), jnp.float32
    )

  # Only the two axes are constants of the program, not their product.
  half = (h, w, width // 2)
  x = jnp.broadcast_to(waves(w)[None, :, :], half)
  y = jnp.broadcast_to(waves(h)[:, None, :], half)
  return jnp.concatenate([x, y], axis=-1).reshape(1, h * w, width)


def check_sincos_width(width: int) -> None:
  """Raises ValueError unless `width` splits into sines and cosines."""
  if width % 4 or width < 8:
    raise ValueError(
      "posemb='sincos2d' needs a width that is divisible by 4 and at least 8,"
      f" got {width}."
    )
