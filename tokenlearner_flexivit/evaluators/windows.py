"""Sliding windows: logits of an image from overlapping parts of it.

Letters: B batch, H W image, C classes.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32


def anchors(size: int, window: int, stride: int) -> list[int]:
  """Returns where windows begin along an axis, as in Segmenter's evaluation.

  The last one moves back to end at the border.
  """
  last = max(size - window, 0)
  return [*range(0, last, stride), last]


def _most(size: int, window: int, stride: int) -> int:
  """Returns how many windows an axis of this length has at most."""
  return math.ceil(max(size - window, 0) / stride) + 1


def cells(
  size: int,
  seen: Int32[Array, " B"],
  window: int,
  stride: int,
  patch_size: int,
) -> tuple[Int32[Array, "B size"], int]:
  """Returns the numbers of the cells of pixels along an axis.

  No patch of any window begins or ends within a cell. With a single window,
  cells are its patches.

  Args:
    size: of the images, perhaps padded.
    seen: size of each image without padding.
    window: its size.
    stride: between windows.
    patch_size: in pixels.

  Returns:
    The numbers from 0 on, and a limit that they do not reach.
  """
  starts = jnp.arange(_most(size, window, stride)) * stride
  starts = jnp.minimum(starts[None], jnp.maximum(seen - window, 0)[:, None])
  edges = np.asarray([*range(0, window, patch_size), window])
  edges = (starts[..., None] + edges[None, None]).reshape(len(seen), -1)
  begins = jax.vmap(
    lambda edges: jnp.zeros(size, jnp.int32).at[edges].set(1, mode="drop")
  )(edges)
  return jnp.cumsum(begins, axis=1) - 1, min(size, edges.shape[1])


def slide(
  answer: Callable[[Float[Array, "B window_h window_w channels"]], jax.Array],
  images: Float[Array, "B H W channels"],
  seen: Int32[Array, "B 2"],
  window: Sequence[int],
  stride: Sequence[int],
) -> Float[Array, "B H W C"]:
  """Returns the mean logits of all windows that cover a pixel.

  Each image has the windows that it would have without padding. One window of
  every image follows the other, so that memory for one suffices.

  Args:
    answer: from windows to their logits [B, window_h, window_w, C].
    images: perhaps padded at the bottom and on the right.
    seen: height and width of each image without padding.
    window: height and width.
    stride: in both directions.
  """
  b, *size, _ = images.shape
  # Windows are no larger than what they are cut from.
  after = [(0, max(w - s, 0)) for s, w in zip(size, window, strict=True)]
  images = jnp.pad(images, [(0, 0), *after, (0, 0)])
  last = jnp.maximum(seen - jnp.asarray(window)[None], 0)
  most = list(map(_most, size, window, stride))
  steps = jnp.stack(
    jnp.meshgrid(*map(jnp.arange, most), indexing="ij"), axis=-1
  ).reshape(-1, 2)

  def cut(image, start):
    return jax.lax.dynamic_slice(image, (*start, 0), (*window, image.shape[-1]))

  def add(total, new, start):
    return jax.lax.dynamic_update_slice(
      total, cut(total, start) + new, (*start, 0)
    )

  def add_window(total, step):
    begin = step * jnp.asarray(stride)
    # A step beyond the one that reached the border would repeat it.
    before = begin - jnp.asarray(stride)
    needed = (step == 0)[None] | (before[None] < last)
    start = jnp.minimum(begin[None], last)
    logits = answer(jax.vmap(cut)(images, start))
    ones = jnp.ones((*logits.shape[:-1], 1), logits.dtype)
    new = jnp.concatenate([logits, ones], axis=-1)
    new = jnp.where(needed.all(axis=1)[:, None, None, None], new, 0)
    return jax.vmap(add)(total, new, start), None

  window_shape = (b, *window, images.shape[-1])
  shape = jax.eval_shape(
    answer, jax.ShapeDtypeStruct(window_shape, images.dtype)
  )
  zeros = jnp.zeros((*images.shape[:3], shape.shape[-1] + 1), shape.dtype)
  total, _ = jax.lax.scan(add_window, zeros, steps)
  total = total[:, : size[0], : size[1]]
  return total[..., :-1] / jnp.maximum(total[..., -1:], 1)
