"""Resizes kernels and position embeddings.

Letters: p q patch, t frames of a tubelet, C channels, D width.
"""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from tokenlearner_flexivit.models import patch_embed, posemb

POSEMB_METHODS = ("linear", "zoom", "bicubic", "bicubic_aliased")
INFLATE_METHODS = ("central_frame", "average")


def resize_kernel(
  kernel: Float[np.ndarray, "*size C D"], new_size: tuple[int, ...]
) -> Float[np.ndarray, "*resized C D"]:
  """PI-resizes a patch embedding kernel by `patch_embed.resize_kernel`."""
  return np.asarray(patch_embed.resize_kernel(jnp.asarray(kernel), new_size))


def resize_posemb(
  embedding: Float[np.ndarray, "1 cells D"],
  old_grid: tuple[int, ...],
  new_grid: tuple[int, ...],
  method: str = "linear",
) -> Float[np.ndarray, "1 new_cells D"]:
  """Resizes a stored position embedding once, not in each forward pass.

  Args:
    embedding: the entries of the cells of `old_grid`, without cls.
    old_grid: (h, w), or (T, h, w) for a video.
    new_grid: (h, w) or (T, h, w). From an image's grid to a video's, the
      embedding is repeated in every frame (ViViT, Section 3.4).
    method: "linear" does what the model does in each forward pass, so that its
      answers at the new grid do not change. "zoom" does what big_vision does
      when it loads weights: the outermost cells stay where they are. "bicubic"
      does what timm does, antialiased where the grid shrinks, and
      "bicubic_aliased" what transformers does: not antialiased, and with
      another cubic kernel.

  Raises:
    ValueError: an unknown method.
  """
  check_posemb_method(method)
  if len(old_grid) < len(new_grid):
    num_frames, *new_grid = new_grid
    frame = resize_posemb(embedding, old_grid, tuple(new_grid), method)
    return np.tile(frame, (1, num_frames, 1))
  if method == "linear":
    resized = posemb.resize_posemb(jnp.asarray(embedding), old_grid, new_grid)
    return np.asarray(resized)
  if method == "bicubic":
    grid = jnp.asarray(embedding).reshape(*old_grid, -1)
    resized = jax.image.resize(grid, (*new_grid, grid.shape[-1]), "cubic")
    return np.asarray(resized).reshape(1, -1, embedding.shape[-1])
  grid = embedding.reshape(*old_grid, -1).astype(np.float64)
  matrices = {"zoom": _zoom_matrix, "bicubic_aliased": _aliased_matrix}
  for axis in range(len(old_grid)):
    matrix = matrices[method](old_grid[axis], new_grid[axis])
    grid = np.moveaxis(np.tensordot(matrix, grid, (1, axis)), 0, axis)
  return grid.reshape(1, -1, embedding.shape[-1]).astype(embedding.dtype)


def check_posemb_method(method: str) -> None:
  """Raises ValueError for an unknown method, listing the known ones."""
  if method not in POSEMB_METHODS:
    raise ValueError(
      f"posemb_method={method!r} is unknown. Known:"
      f" {', '.join(POSEMB_METHODS)}."
    )


def check_inflate_method(method: str) -> None:
  """Raises ValueError for an unknown method of `inflate_kernel`."""
  if method not in INFLATE_METHODS:
    raise ValueError(
      f"Unknown method {method!r} to inflate a kernel. Known:"
      f" {', '.join(INFLATE_METHODS)}."
    )


def _zoom_matrix(old: int, new: int) -> np.ndarray:
  """Returns the matrix [new, old] that interpolates linearly, end to end."""
  centers = np.linspace(0, old - 1, new)
  return np.stack(
    [np.interp(centers, np.arange(old), row) for row in np.eye(old)], axis=1
  )


def _aliased_matrix(old: int, new: int) -> np.ndarray:
  """Returns the matrix [new, old] of OpenCV's and PyTorch's cubic kernel."""
  rows = np.eye(old, dtype=np.float32)
  return cv2.resize(rows, (old, new), interpolation=cv2.INTER_CUBIC)


def inflate_kernel(
  kernel: Float[ArrayLike, "p q C D"],
  num_frames: int,
  method: str = "central_frame",
) -> Float[np.ndarray, "t p q C D"]:
  """Inflates a kernel for patches to one for tubelets of a video.

  For a video of equal frames both methods give the tokens of the image (ViViT,
  Section 3.4).

  Args:
    kernel: for images.
    num_frames: t, frames of a tubelet.
    method: "central_frame" puts the kernel on frame t // 2 and zeros on the
      others; "average" puts 1 / t of it on every frame.

  Raises:
    ValueError: an unknown method, another rank, or no frames.
  """
  check_inflate_method(method)
  kernel = np.asarray(kernel)
  if kernel.ndim != 4 or num_frames < 1:
    raise ValueError(
      "Expected a kernel [p, q, C, D] and at least one frame, got"
      f" {list(kernel.shape)} and {num_frames}."
    )
  if method == "average":
    return np.stack([kernel / num_frames] * num_frames).astype(kernel.dtype)
  inflated = np.zeros((num_frames, *kernel.shape), kernel.dtype)
  inflated[num_frames // 2] = kernel
  return inflated
