"""Boxes: their forms and how much they overlap.

A box is (centre x, centre y, width, height), (xmin, ymin, xmax, ymax) or, as
data have it, (ymin, xmin, ymax, xmax); all in shares of the image's sides.

Letters: B batch, N and M boxes.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from tokenlearner_flexivit.data.steps import BOX_LABEL, BOXES

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


def check(boxes: ArrayLike, labels: ArrayLike, number: int, where: str) -> None:
  """Raises ValueError for boxes or labels that no model can learn.

  Args:
    boxes: of examples, as data have them, [..., M, 4].
    labels: their classes [..., M], -1 for padding.
    number: of classes.
    where: what gives them, for errors.
  """
  boxes, labels = np.asarray(boxes), np.asarray(labels)
  if boxes.shape != (*labels.shape, 4) or labels.dtype.kind not in "iu":
    raise ValueError(
      f"{where} gives {BOXES!r} the shape {list(boxes.shape)} and "
      f"{BOX_LABEL!r} {labels.dtype}{list(labels.shape)}. Make both by "
      "objects(...)."
    )
  if labels.size and labels.max() >= number:
    raise ValueError(
      f"{where} gives a box the label {labels.max()}, but the classes are 0 "
      f"to {number - 1}."
    )
  real = boxes[labels >= 0]
  # A comparison is false for NaN.
  fine = (real >= 0) & (real <= 1)
  fine &= np.concatenate([real[:, :2] < real[:, 2:]] * 2, axis=1)
  if not fine.all():
    wrong = real[~fine.all(axis=1)][0].tolist()
    raise ValueError(
      f"{where} gives the box {wrong}. Boxes are (ymin, xmin, ymax, xmax) in "
      "[0, 1] and have an area."
    )
