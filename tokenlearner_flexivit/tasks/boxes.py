"""Boxes: their forms and how much they overlap.

A box is (centre x, centre y, width, height), (xmin, ymin, xmax, ymax) or, as
data have it, (ymin, xmin, ymax, xmax); all in shares of the image's sides.

Letters: B batch, N and M boxes.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Added to what is divided by, so that a box without area has no NaN.
_EPS = 1e-6


def corners(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
  """Returns (xmin, ymin, xmax, ymax) from centre, width and height."""
  centre, size = boxes[..., :2], boxes[..., 2:]
  return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def centres(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
  """Returns centre, width and height from (ymin, xmin, ymax, xmax)."""
  low, high = boxes[..., 1::-1], boxes[..., 3:1:-1]
  return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def giou(
  a: Float[Array, "... 4"], b: Float[Array, "... 4"]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
  """Returns generalized IoU (arXiv 1902.09630), and IoU, of pairs of boxes.

  Args:
    a: (xmin, ymin, xmax, ymax).
    b: the same, of a shape that broadcasts with that of `a`.

  Returns:
    The former in [-1, 1], the latter in [0, 1]; of equal boxes both are a
    little below 1, as published.
  """

  def area(low, high):
    return jnp.prod(jnp.maximum(high - low, 0), axis=-1)

  overlap = area(
    jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
  )
  union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - overlap
  iou = overlap / (union + _EPS)
  hull = area(
    jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])
  )
  return iou - (hull - union) / (hull + _EPS), iou
