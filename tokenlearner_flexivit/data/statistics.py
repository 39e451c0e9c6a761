"""Mean and standard deviation by which a preprocessing standardises images."""

import contextlib

import numpy as np

from tokenlearner_flexivit.data import preprocess
from tokenlearner_flexivit.data.ops import label as label_ops


def mean_and_std(
  pp: str, key: str | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
  """Returns the mean and standard deviation that a preprocessing assumes.

  Args:
    pp: the preprocessing string.
    key: the entry of the result; None for "video" if an op names it, otherwise
      "image".

  Returns:
    What is subtracted from images in [0, 1] and what they are divided by, each
    [1] or [C]: 0.5 and 0.5 if the results are in [-1, 1]. None if the results
    are not of this form.

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
  """Returns in words how two preprocessings standardise images differently.

  Args:
    pp: a preprocessing string.
    other: another preprocessing string.
    key: the entry of the other's result, see `mean_and_std`.

  Returns:
    Words about each; None if both do the same, or if this is unknown.

  Raises:
    ValueError: a string cannot be parsed.
  """
  known = mean_and_std(pp)
  return known and differ_from(known, other, key)


def differ_from(
  known: tuple[np.ndarray, np.ndarray], pp: str, key: str | None = None
) -> tuple[str, str] | None:
  """Returns in words how a preprocessing standardises otherwise than known.

  Args:
    known: a mean and a standard deviation, as `mean_and_std` returns them.
    pp: a preprocessing string.
    key: the entry of its result, see `mean_and_std`.

  Returns:
    Words about each; None if both are the same, or if this is unknown.

  Raises:
    ValueError: the string cannot be parsed.
  """
  both = known, mean_and_std(pp, key)
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
