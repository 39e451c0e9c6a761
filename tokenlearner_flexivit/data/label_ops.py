"""Preprocessing ops on labels and on the keys of an example."""

import numpy as np

from tokenlearner_flexivit.data.preprocess import Example, register_op


def _require(example: Example, *keys: str) -> None:
  """Raises KeyError if the example lacks one of the keys."""
  missing = [key for key in keys if key not in example]
  if missing:
    # A KeyError would show its message in quotes.
    raise ValueError(
      f"the example has no {missing[0]!r}; it has {sorted(example)}"
    )


@register_op
def onehot(
  example: Example,
  num_classes: int,
  key: str = "label",
  on: float = 1.0,
  off: float = 0.0,
) -> Example:
  """Turns a class index, or several, into a vector.

  Args:
    example: has under `key` an integer or an integer vector in
      [0, num_classes).
    num_classes: length of the vector.
    key: what to replace.
    on: value at the class or classes.
    off: value elsewhere.

  Returns:
    The example with a float32 [num_classes] under `key`.

  Raises:
    ValueError: a class lies outside.
  """
  _require(example, key)
  label = np.asarray(example[key])
  if ((label < 0) | (label >= num_classes)).any():
    raise ValueError(f"label {label} is not in [0, {num_classes})")
  vector = np.full(num_classes, off, np.float32)
  vector[label] = on
  return {**example, key: vector}


@register_op
def copy(example: Example, inkey: str, outkey: str) -> Example:
  """Returns the example with the value of `inkey` under `outkey` too."""
  _require(example, inkey)
  return {**example, outkey: example[inkey]}


@register_op
def keep(example: Example, *keys: str) -> Example:
  """Returns the example with nothing but `keys`, all of which it must have."""
  _require(example, *keys)
  return {key: example[key] for key in keys}


@register_op
def drop(example: Example, *keys: str) -> Example:
  """Returns the example without `keys`, all of which it must have."""
  _require(example, *keys)
  return {key: value for key, value in example.items() if key not in keys}
