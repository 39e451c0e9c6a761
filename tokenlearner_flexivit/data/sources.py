"""What a source of examples is, and the slices of a split."""

import abc
import re
import types
from collections.abc import Mapping
from typing import Any


class Source(abc.ABC):
  """A split of a dataset with random access.

  An example is a dict with `image` (encoded bytes, or uint8 [H, W, C]) or
  `video` (a vector of encoded frames, or uint8 [T, H, W, C]), `label`
  (np.int32, or where an example may have several classes, float32
  [num_classes] with 1 at each of its own), `id` (np.int32, the position in the
  source) and whatever else the dataset has. Sources are pickled to worker
  processes.

  Attributes:
    name: what errors call it.
    num_classes: number of classes, or None where `label` is not a class, nor
      several.
    class_names: their names in order, or None where there are none.
    has_several: whether an example may have several classes.
    value_names: what the values 0, 1, ... of features mean, of those that tell.
  """

  name: str
  num_classes: int | None = None
  class_names: list[str] | None = None
  has_several: bool = False
  value_names: Mapping[str, list[str]] = types.MappingProxyType({})

  @abc.abstractmethod
  def __len__(self) -> int:
    """Returns the number of examples."""

  @abc.abstractmethod
  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns the example at `index`, an int in [0, len)."""

  def describe(self, index: int) -> str:
    """Returns words that let a person find the example at `index`."""
    return f"example {index}"


_SPLIT = re.compile(
  r"(?P<name>[^\[\]+]+)"
  r"(\[(?P<start>-?\d+(\.\d+)?%?)?:(?P<stop>-?\d+(\.\d+)?%?)?\])?"
)


def parse_split(split: str, length: int | None = None) -> tuple[str, range]:
  """Reads a split such as "train", "train[:90%]" or "train[100:200]".

  This is TFDS's syntax and rounding, for the sources that TFDS does not read.

  Args:
    split: the split.
    length: number of examples in the whole split; without it, only the name in
      the result means anything.

  Returns:
    The name of the whole split and the positions in it.

  Raises:
    ValueError: the syntax is wrong.
  """
  match = _SPLIT.fullmatch(split)
  if not match:
    raise ValueError(
      f"Cannot read the split {split!r}: expected a name, perhaps with a "
      "slice, as in 'train', 'train[:90%]' or 'train[100:200]'."
    )

  def position(bound: str | None) -> int | None:
    if bound is None:
      return None
    if bound.endswith("%"):
      return round(float(bound[:-1]) * (length or 0) / 100)
    return int(float(bound))

  bounds = slice(position(match["start"]), position(match["stop"]))
  return match["name"], range(length or 0)[bounds]
