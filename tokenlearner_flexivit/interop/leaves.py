"""Arrays of a file that are read when they are needed.

All renaming, splitting and checking happens on names and shapes, so that a
file that does not fit is refused before its weights are read, and so that no
more than the parameters themselves and one array are ever in memory.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

MAX_NAMES = 8


@dataclasses.dataclass(frozen=True)
class Leaf:
  """An array to be.

  Attributes:
    shape: of the array.
    dtype: of the array.
    read: returns it, as a view of what is stored where that is possible.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @classmethod
  def of(cls, array: np.ndarray) -> "Leaf":
    """A leaf that is in memory already."""
    array = np.asarray(array)
    return cls(array.shape, array.dtype, lambda: array)

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  def reshape(self, *shape: int) -> "Leaf":
    """As NumPy's, without -1."""
    return Leaf(shape, self.dtype, lambda: self.read().reshape(shape))

  def transpose(self, *axes: int) -> "Leaf":
    """As NumPy's; without axes, reversed."""
    axes = axes or tuple(reversed(range(len(self.shape))))
    shape = tuple(self.shape[axis] for axis in axes)
    return Leaf(shape, self.dtype, lambda: self.read().transpose(axes))

  def rows(self, start: int, stop: int) -> "Leaf":
    """The rows from `start` to before `stop`."""
    shape = (stop - start, *self.shape[1:])
    return Leaf(shape, self.dtype, lambda: self.read()[start:stop])

  def row(self, index: int) -> "Leaf":
    """One row, with one axis less."""
    return Leaf(self.shape[1:], self.dtype, lambda: self.read()[index])

  def map(
    self,
    function: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...] | None = None,
  ) -> "Leaf":
    """What `function` makes of the array; `shape` is the result's, if new."""
    return Leaf(
      self.shape if shape is None else shape,
      self.dtype,
      lambda: function(self.read()),
    )

  def compute(
    self,
    function: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...] | None = None,
  ) -> "Leaf":
    """As `map`, for arithmetic: half precision becomes float32 before it."""
    dtype = self.dtype
    if dtype.itemsize < 4:
      dtype = np.dtype(np.float32)

    def read():
      return np.asarray(function(self.read().astype(dtype)), dtype)

    return Leaf(self.shape if shape is None else shape, dtype, read)


Leaves = dict[str, Leaf]


class LastRead:
  """Keeps the array read last: its parts are asked for one after another."""

  def __init__(self):
    self._name = self._array = None

  def __call__(self, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns what `read` gives, or gave if `name` is the same again."""
    if name != self._name:
      # The old one goes first, so that there are never two.
      self._name = self._array = None
      self._array = read()
      self._name = name
    return self._array


def concatenate(leaves: list[Leaf]) -> Leaf:
  """Joins leaves along the first axis."""
  shape = (sum(leaf.shape[0] for leaf in leaves), *leaves[0].shape[1:])
  return Leaf(
    shape,
    leaves[0].dtype,
    lambda: np.concatenate([leaf.read() for leaf in leaves]),
  )


def shorten(names: list[str], most: int = MAX_NAMES) -> str:
  """Lists names; of more than `most` only the first few."""
  more = len(names) - most
  shown = ", ".join(names[:most])
  return f"{shown} and {more} more" if more > 0 else shown
