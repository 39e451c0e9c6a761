"""The answers that predictors return."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from tokenlearner_flexivit import dials


class Label(NamedTuple):
  """A class that an image may belong to.

  Attributes:
    index: of the class.
    name: None if the data has no names.
    probability: in [0, 1]; with a sigmoid loss, independent of other classes.
  """

  index: int
  name: str | None
  probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The answer to one image.

  Attributes:
    setting: of the dials, at which the model answered.
    labels: the most probable classes, the best first; empty if there is an
      error, or the task is none of classification.
    answer: of another task: a pytree of NumPy arrays, the answer to this image,
      such as the label map of a segmentation, of the size of the image.
    error: why the image could not be read, or None.
  """

  setting: dials.Setting
  labels: tuple[Label, ...] = ()
  error: str | None = None
  answer: Any = None


@dataclasses.dataclass(frozen=True)
class Embeddings:
  """The representations of images.

  Attributes:
    setting: of the dials, at which they were computed.
    vectors: `pre_logits` of the model. NaN for an image that could not be
      read.
    errors: why images could not be read, by the number of the image.
  """

  setting: dials.Setting
  vectors: Float32[np.ndarray, "n D"]
  errors: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Similarity:
  """Measures of how well texts describe images; NaN for unreadable images.

  Attributes:
    setting: of the dials, at which images were embedded.
    cosines: of the embeddings of each image and each text.
    logits: cosines as the loss of the training reads them, with its temperature
      and bias.
    probabilities: by these logits. A `softmax` loss makes them those of each
      text among these texts, a `sigmoid` loss those that a text is right.
    errors: why images could not be read, by the number of the image.
  """

  setting: dials.Setting
  cosines: Float32[np.ndarray, "n M"]
  logits: Float32[np.ndarray, "n M"]
  probabilities: Float32[np.ndarray, "n M"]
  errors: dict[int, str]


def error_in_words(error: Exception) -> str:
  """Returns an error as text, with its type if that tells more."""
  known = isinstance(error, (ValueError, OSError))
  return f"{'' if known else f'{type(error).__name__}: '}{error}"


def best_labels(
  probabilities: Float[np.ndarray, " C"],
  names: Sequence[str] | None,
  number: int,
) -> tuple[Label, ...]:
  """Returns the most probable classes, the best first.

  Args:
    probabilities: of the classes.
    names: of the classes, in order, or None.
    number: how many to return, at most.
  """
  best = np.argsort(-probabilities, kind="stable")[:number].tolist()
  names = names or ()
  return tuple(
    Label(i, names[i] if i < len(names) else None, float(probabilities[i]))
    for i in best
  )
