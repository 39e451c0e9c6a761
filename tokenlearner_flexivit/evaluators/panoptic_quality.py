"""Panoptic quality (arXiv 1801.00868), as panopticapi computes it.

Letters: H W label map, P numbers of predicted segments, T of true ones, C
classes. Segment 0 is none, neither of the prediction nor of the truth.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float64, Int, Int32, Int64

# Segments that share more match, and predictions of which more is void or a
# crowd do not count.
_HALF = 0.5
NO_CLASS = -1


class Counts(NamedTuple):
  """Holds what the quality of each class is computed from: sums over images.

  Attributes:
    matched: pairs of a predicted and a true segment (true positives).
    predicted: segments without a true one (false positives).
    missed: true segments without a predicted one (false negatives).
    iou: the sum over the pairs.
  """

  matched: Int64[np.ndarray, " C"]
  predicted: Int64[np.ndarray, " C"]
  missed: Int64[np.ndarray, " C"]
  iou: Float64[np.ndarray, " C"]

  @classmethod
  def zeros(cls, num_classes: int) -> "Counts":
    """Returns those of no image."""
    whole = np.zeros((3, num_classes), np.int64)
    return cls(*whole, np.zeros(num_classes))

  def plus(self, other: "Counts") -> "Counts":
    """Returns those of the images of both."""
    return Counts(*map(np.add, self, other))


def areas(
  predicted: Int[Array, "H W"],
  truth: Int[Array, "H W"],
  num_predicted: int,
  num_true: int,
  counted: Bool[Array, "H W"] | None = None,
) -> Int32[Array, "{num_predicted} {num_true}"]:
  """Returns how many pixels each predicted and each true segment share.

  Args:
    predicted: numbers of segments, below P.
    truth: numbers of segments, below T.
    num_predicted: P.
    num_true: T.
    counted: False for pixels to leave out.
  """
  shape = num_predicted, num_true
  size = shape[0] * shape[1]
  cell = predicted * shape[1] + truth
  if counted is not None:
    cell = jnp.where(counted, cell, size)
  counts = jnp.zeros(size, jnp.int32).at[cell].add(1, mode="drop")
  return counts.reshape(shape)


def compare(
  table: Int[np.ndarray, "P T"],
  predicted: Int[np.ndarray, " P"],
  truth: Int[np.ndarray, " T"],
  crowds: Bool[np.ndarray, " T"],
  num_classes: int,
) -> Counts:
  """Returns the counts of an image.

  Segments match if they have one class and an intersection over union above a
  half; pixels of the prediction without a true segment are not in the union.
  Crowds match nothing and are not missed. A prediction that matches nothing
  does not count if more than half of it is without a true segment, or in the
  last crowd of its class: panopticapi looks at no other crowd.

  Args:
    table: a result of `areas`.
    predicted: class of each predicted segment; `NO_CLASS` where there is none.
    truth: class of each true segment; `NO_CLASS` where there is none.
    crowds: whether a true segment is a crowd.
    num_classes: C.
  """
  table = np.asarray(table, np.int64)
  has_class = (predicted > NO_CLASS) & (table.sum(axis=1) > 0)
  has_class[0] = False
  rows = np.flatnonzero(has_class)
  is_true = truth > NO_CLASS
  is_true[0] = False
  columns = np.flatnonzero(is_true & ~crowds)
  own, void = table[rows].sum(axis=1), table[rows, 0]
  shared = table[np.ix_(rows, columns)]
  union = (own - void)[:, None] + table[:, columns].sum(axis=0) - shared
  iou = shared / np.maximum(union, 1)
  is_pair = (iou > _HALF) & (predicted[rows][:, None] == truth[columns])
  crowd_of = {truth[i]: i for i in np.flatnonzero(is_true & crowds).tolist()}
  ignored = void + np.array(
    [
      table[row, crowd_of[cls]] if cls in crowd_of else 0
      for row, cls in zip(rows, predicted[rows].tolist(), strict=True)
    ],
    np.int64,
  )
  is_wrong = ~is_pair.any(axis=1) & (ignored / np.maximum(own, 1) <= _HALF)

  def per_class(classes, weights=None):
    return np.bincount(classes, weights, minlength=num_classes)

  row, at = np.nonzero(is_pair)
  return Counts(
    matched=per_class(truth[columns[at]]),
    predicted=per_class(predicted[rows[is_wrong]]),
    missed=per_class(truth[columns[~is_pair.any(axis=0)]]),
    iou=per_class(truth[columns[at]], iou[row, at]),
  )


def of_classes(counts: Counts) -> Float64[np.ndarray, "C 3"]:
  """Returns PQ, SQ and RQ of each class; NaN for classes that no image has."""
  matched, predicted, missed = (np.asarray(x, float) for x in counts[:3])
  total = matched + predicted / 2 + missed / 2
  known = np.where(total > 0, total, np.nan)
  quality = counts.iou / np.maximum(matched, 1)
  quality = np.where(total > 0, quality, np.nan)
  return np.stack([counts.iou / known, quality, matched / known], axis=-1)


def mean(
  counts: Counts, chosen: Bool[np.ndarray, " C"] | None = None
) -> Float64[np.ndarray, " 3"]:
  """Returns the means of PQ, SQ and RQ over classes.

  Args:
    counts: of the whole set.
    chosen: which classes to average over; None for all. Those that no image has
      do not count; without any the means are NaN.
  """
  values = of_classes(counts)
  known = ~np.isnan(values[:, 0])
  if chosen is not None:
    known &= chosen
  return values[known].mean(axis=0) if known.any() else np.full(3, np.nan)
