"""Preprocessing ops on labels and on the entries of an example."""

import numpy as np

from tokenlearner_flexivit.data.preprocess import Example, register_op


def _require(example: Example, *keys: str) -> None:
  """Raises ValueError if the example lacks one of the keys."""
  missing = [key for key in keys if key not in example]
  if missing:
    # A KeyError would show its message in quotes.
    raise ValueError(
      f"the example has no {missing[0]!r}; it has {sorted(example)}"
    )


def _check_onehot(num_classes: int, on: float, off: float) -> None:
  if num_classes < 1:
    raise ValueError(f"num_classes must be at least 1, not {num_classes}")
  if on <= off:
    raise ValueError(
      f"on={on} must be above off={off}: the right classes are those of the "
      "greatest value"
    )


@register_op(check=_check_onehot)
def onehot(
  example: Example,
  num_classes: int,
  key: str = "label",
  on: float = 1.0,
  off: float = 0.0,
) -> Example:
  """Turns a class index, or several, into a vector.

  Args:
    example: has under `key` a whole number in [0, num_classes), or a vector or
      list of such numbers, empty for no class.
    num_classes: length of the vector.
    key: the entry to replace.
    on: value at the class or classes.
    off: value at all other classes.

  Returns:
    The example with a float32 [num_classes] under `key`.

  Raises:
    ValueError: a class is out of range or not a whole number.
  """
  _check_onehot(num_classes, on, off)
  _require(example, key)
  label = np.asarray(example[key])
  if not label.size:
    label = label.astype(np.int64)  # NumPy makes floats of an empty list.
  # A vector of booleans would be a mask of classes, not a list of them.
  is_class = label.dtype.kind in "iu" or (label.dtype.kind, label.ndim) == (
    "b",
    0,
  )
  if not is_class or label.ndim > 1:
    shown = repr(example[key]) if label.size < 10 else f"of {label.dtype}"
    raise ValueError(
      f"{key!r} is no class or vector of classes, which are whole numbers, but "
      f"{shown}, of shape {label.shape}"
    )
  label = label.astype(np.int64)
  outside = label[(label < 0) | (label >= num_classes)]
  if outside.size:
    raise ValueError(
      f"the class {outside[0]} of {key!r} is not in [0, {num_classes}). Raise "
      "num_classes if there are more classes. If a number below 0 stands for "
      "no label, leave onehot out: evaluations leave such examples out"
    )
  vector = np.full(num_classes, off, np.float32)
  vector[label] = on
  return {**example, key: vector}


def _check_multihot(counts: dict) -> None:
  # In Python True is an int.
  if not counts or any(
    not isinstance(key, str) or type(count) is not int or count < 1
    for key, count in counts.items()
  ):
    raise ValueError(
      "counts must have the number of classes of each entry, as in "
      f"{{'shape': 5, 'colour': 8}}, not {counts}"
    )


@register_op(check=_check_multihot, entries=("counts", "outkey"))
def multihot(example: Example, counts: dict, outkey: str = "label") -> Example:
  """Joins the classes of several entries into one vector.

  The classes of the first entry come first. `sigmoid_xent` learns all of them.

  Args:
    example: has under each key of `counts` what `onehot` takes.
    counts: numbers of classes by entry, such as {'shape': 5, 'colour': 8}.
    outkey: the entry to write.

  Returns:
    The example with a float32 [sum of counts] under `outkey`: 1 at the class or
    classes of each entry, 0 elsewhere.

  Raises:
    ValueError: an entry is missing, or a class is out of range or not a whole
      number.
  """
  _check_multihot(counts)
  parts = [onehot(example, count, key)[key] for key, count in counts.items()]
  return {**example, outkey: np.concatenate(parts)}


@register_op(entries=("inkey", "outkey"))
def copy(example: Example, inkey: str, outkey: str) -> Example:
  """Returns the example with the value of `inkey` under `outkey` too.

  Later random ops change only one of the two entries: a copy for a teacher that
  must see the student's image has to come after them.
  """
  _require(example, inkey)
  return {**example, outkey: example[inkey]}


def _check_keys(keys: tuple[str, ...]) -> None:
  if not keys:
    raise ValueError("name at least one entry of the example")


@register_op(check=_check_keys, entries=())
def keep(example: Example, *keys: str) -> Example:
  """Returns the example with `keys` only, all of which it must have."""
  _require(example, *keys)
  return {key: example[key] for key in keys}


@register_op(check=_check_keys, entries=())
def drop(example: Example, *keys: str) -> Example:
  """Returns the example without `keys`, all of which it must have."""
  _require(example, *keys)
  return {key: value for key, value in example.items() if key not in keys}
