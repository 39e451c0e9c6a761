"""Tells the range of values that a preprocessing gives to images."""

import contextlib

import numpy as np

from tokenlearner_flexivit.data import preprocess
from tokenlearner_flexivit.data.ops import label as label_ops


def of_preprocessing(
  pp: str, key: str | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
  """Returns what a preprocessing subtracts from images and divides them by.

  Args:
    pp: the preprocessing string.
    key: of the entry of the result; None for "video" where there is one, and
      else "image".

  Returns:
    Mean and standard deviation, each [1] or [C], of images in [0, 1]: 0.5 and
    0.5 for images in [-1, 1]. None where the values do not depend on those of
    the file in this way.

  Raises:
    ValueError: the string cannot be parsed.
  """
  parsed = preprocess.parse(pp)
  if key is None:
    is_video = any("video" in (step.entries or ()) for step in parsed.steps)
    key = "video" if is_video else "image"
  steps = [
    step
    for step in parsed.only(key).steps
    if step.on_device or step.fn is label_ops.copy
  ]
  entries = {key, *(entry for step in steps for entry in step.entries)}
  for channels in (1, 3):
    # Statistics of three channels do not fit one.
    with contextlib.suppress(ValueError):
      low, high = (
        _apply(steps, dict.fromkeys(entries, np.full((1, 1, channels), value)))
        for value in (0.0, 255.0)
      )
      std = 1 / (high[key] - low[key]).astype(np.float64).ravel()
      return 0 - low[key].astype(np.float64).ravel() * std, std
  return None


def differ(
  pp: str, other: str, key: str | None = None
) -> tuple[str, str] | None:
  """Returns in words what two preprocessings subtract from images, divide by.

  None where both do the same, or where that is not known.

  Args:
    pp: a preprocessing string.
    other: another one.
    key: of the entry of its result, see `of_preprocessing`.

  Raises:
    ValueError: a string cannot be parsed.
  """
  both = of_preprocessing(pp), of_preprocessing(other, key)
  if None in both or all(
    np.allclose(*values, atol=1e-3) for values in zip(*both, strict=True)
  ):
    return None
  first, second = (
    "in [0, 1] minus {}, divided by {}".format(
      *(x.round(4).tolist() for x in pair)
    )
    for pair in both
  )
  return first, second


def _apply(
  steps: list[preprocess.Step], example: preprocess.Example
) -> preprocess.Example:
  for step in steps:
    example = step.fn(example, *step.args, **step.kwargs)
  return example
