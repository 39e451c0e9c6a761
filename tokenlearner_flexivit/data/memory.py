"""Arrays that use the memory of earlier arrays that are no longer in use.

The operating system clears the memory that it hands out, which takes longer for
a batch of images than filling it, and a freed block of such size goes back to
the system at once. benchmarks/README.md has the figures.
"""

import math
from typing import Any

import numpy as np

# On the CPU, JAX shares memory that begins at a multiple of this instead of
# copying it.
_ALIGNMENT = 64
# The allocator itself uses smaller blocks again.
_MIN_BYTES = 1 << 20
# A block is freed about when the next is needed. More free blocks would only
# take memory between two passes of an evaluation.
_MAX_FREE = 2


class Memory:
  """An allocator of arrays, like `np.empty`, which threads may share.

  Pickling leaves its blocks behind.
  """

  def __init__(self):
    # Unused blocks by size. Threads may append to and pop from the lists at any
    # time.
    self._free: dict[int, list[np.ndarray]] = {}

  def __reduce__(self) -> tuple[Any, ...]:
    return Memory, ()

  def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array of undefined content.

    Its memory is used again when the array and all that refer to it are gone:
    views, and JAX arrays that share the memory or are still being copied from
    it.

    Args:
      shape: the array's shape.
      dtype: the array's dtype.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or num_bytes < _MIN_BYTES:
      return np.empty(shape, dtype)
    free = self._free.setdefault(num_bytes, [])
    try:
      block = free.pop()
    except IndexError:
      block = np.empty(num_bytes + _ALIGNMENT, np.uint8)
      start = -block.ctypes.data % _ALIGNMENT
      block = block[start : start + num_bytes]
    return np.asarray(_Loan(block, free)).view(dtype).reshape(shape)


class _Loan:
  """The owner of a block, to which all arrays over the block refer."""

  def __init__(self, block: np.ndarray, free: list[np.ndarray]):
    self._block, self._free = block, free
    self.__array_interface__ = block.__array_interface__

  def __del__(self):
    if len(self._free) < _MAX_FREE:
      self._free.append(self._block)
