"""Labels of a classification: which are valid, and which classes are right."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

# Weights of one class add up to 1, but for rounding and smoothing.
_MOST_OF_ONE = 1.5


def are_numbers(labels: jax.Array | np.ndarray) -> bool:
  """Tells whether labels are class numbers [B], one for each example."""
  return labels.ndim == 1 and labels.dtype.kind in "biu"


def check(
  labels: Shaped[np.ndarray, "B ..."],
  num_classes: int,
  where: str,
  *,
  may_lack: bool,
  may_be_zero: bool = True,
) -> None:
  """Raises ValueError for labels that no classification can use.

  Args:
    labels: class numbers [B], or weights of the classes [B, num_classes].
    num_classes: of the model.
    where: the source of the labels, for errors, such as "config.data.pp".
    may_lack: whether a number may be negative, which means no label.
    may_be_zero: whether all weights of an example may be zero.
  """
  if are_numbers(labels):
    numbers = labels.astype(np.int32) if labels.dtype.kind == "b" else labels
    negative, large = numbers < 0, numbers >= num_classes
    if large.any() or (negative.any() and not may_lack):
      advice = "Set config.model.num_classes, or mend the labels."
      if not large.any():
        advice = (
          "A negative one says that an example has no label, and nothing can "
          "be learned from it: take a split, or a part of one, where all do."
        )
      value = numbers[large if large.any() else negative][0]
      raise ValueError(
        f"{where} gives the label {value}, but the classes of the model are 0 "
        f"to {num_classes - 1}. {advice}"
      )
    return
  if labels.shape[1:] != (num_classes,):
    shape = list(labels.shape[1:])
    raise ValueError(
      f"{where} gives an example a label of the shape {shape} and the type "
      f"{labels.dtype}. It must be a whole number, the class, or a vector of "
      f"{num_classes} weights of the classes, as onehot({num_classes}) makes "
      "it of one class or several."
    )
  weights = np.asarray(labels, np.float32)
  least, most = weights.min(axis=1), weights.max(axis=1)
  # Both comparisons are false for NaN.
  if not ((least >= 0) & (most <= 1)).all():
    wrong = ~((weights >= 0) & (weights <= 1))
    raise ValueError(
      f"{where} gives a class of a label the weight {weights[wrong][0]}. "
      "Weights of classes must be in [0, 1]."
    )
  if not may_be_zero and not most.all():
    raise ValueError(
      f"{where} gives a label in which no class has any weight. Nothing can be "
      "learned from it with config.task.loss='softmax_xent': take a split, or "
      "a part of one, where all examples have a class, or 'sigmoid_xent', for "
      "which it says that none of the classes is there."
    )


def is_known(label: np.ndarray) -> bool:
  """Tells whether a label holds information, that is, some class is right.

  Args:
    label: of one example, the number of a class, or weights [num_classes].
  """
  if are_numbers(label[None]):
    return bool(label >= 0)
  # Equivalent to some class being right by `right_classes`.
  return bool(label.max() > min(label.min(), 0.5))


def are_several(weights: Float[np.ndarray, " C"]) -> bool:
  """Tells whether a label names several classes, all of them true at once.

  Several classes whose weights add up to one are a distribution: one of them is
  true.

  Args:
    weights: of the classes, in [0, 1].
  """
  (right,) = np.asarray(right_classes(jnp.asarray(weights)[None]))
  return bool(right.sum() > 1 and weights[right].sum() > _MOST_OF_ONE)


def right_classes(weights: Float[Array, "B C"]) -> Bool[Array, "B C"]:
  """Returns which classes count as right answers.

  These are the classes whose weight is nearer to the largest of the row than to
  the smallest: the hot ones of a one-hot or multi-hot vector, smoothed or not.
  If all weights are equal, all classes are right if the weights are above 1/2,
  and none otherwise.

  Args:
    weights: of the classes, in [0, 1].
  """
  low = weights.min(axis=-1, keepdims=True)
  high = weights.max(axis=-1, keepdims=True)
  return weights > jnp.where(high > low, (low + high) / 2, 0.5)
