"""Arrays of a file that are read only when they are needed.

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
  """An array that is read only when it is needed.

  Attributes:
    shape: of the array.
    dtype: of the array.
    read: returns the array, as a view of the stored one where possible.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @classmethod
  def from_array(cls, array: np.ndarray) -> "Leaf":
    """Returns a leaf for an array that is in memory already."""
    array = np.asarray(array)
    return cls(array.shape, array.dtype, lambda: array)

  @property
  def size(self) -> int:
    """Returns the number of elements."""
    return math.prod(self.shape)

  def reshape(self, *shape: int) -> "Leaf":
    """Reshapes like NumPy's method, but without -1."""
    return Leaf(shape, self.dtype, lambda: self.read().reshape(shape))

  def transpose(self, *axes: int) -> "Leaf":
    """Transposes like NumPy's method; without axes, reverses all."""
    axes = axes or tuple(reversed(range(len(self.shape))))
    shape = tuple(self.shape[axis] for axis in axes)
    return Leaf(shape, self.dtype, lambda: self.read().transpose(axes))

  def rows(self, start: int, stop: int) -> "Leaf":
    """Returns the rows from `start` to before `stop`."""
    shape = (stop - start, *self.shape[1:])
    return Leaf(shape, self.dtype, lambda: self.read()[start:stop])

  def row(self, index: int) -> "Leaf":
    """Returns one row, with one axis less."""
    return Leaf(self.shape[1:], self.dtype, lambda: self.read()[index])

  def map(
    self,
    function: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...] | None = None,
  ) -> "Leaf":
    """Applies `function` to the array; `shape` is a changed result's."""
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
    """Applies arithmetic like `map`, converting half precision to float32."""
    dtype = self.dtype
    if dtype.itemsize < 4:
      dtype = np.dtype(np.float32)

    def read():
      return np.asarray(function(self.read().astype(dtype)), dtype)

    return Leaf(self.shape if shape is None else shape, dtype, read)


Leaves = dict[str, Leaf]


class LastRead:
  """A cache of the last array read, whose parts are needed in succession."""

  def __init__(self):
    self._name = self._array = None

  def __call__(self, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the cached array if `name` is the same, else that of `read`."""
    if name != self._name:
      # The old one is freed first, so that memory never holds two.
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
  """Returns a list of names as text; of more than `most`, only the first."""
  more = len(names) - most
  shown = ", ".join(names[:most])
  return f"{shown} and {more} more" if more > 0 else shown
