"""Arrays that use the memory of earlier ones that nobody needs any more.

The operating system clears the memory it hands out, which takes longer for a
batch of images than filling it, and memory of such size goes back to it as soon
as it is freed.
"""

import math
from typing import Any

import numpy as np

# JAX shares memory that begins at a multiple of this, where it runs on the CPU,
# rather than copy it.
_ALIGNMENT = 64
# What is smaller is used again by the allocator anyhow.
_MIN_BYTES = 1 << 20
# One is freed about when the next is needed. More than that would be kept for
# nothing between two passes of an evaluation.
_MAX_FREE = 2


class Memory:
  """Makes arrays, like `np.empty`; threads may share one.

  A pickled one is empty.
  """

  def __init__(self):
    # Blocks nobody uses, by their sizes. Threads may append to and pop from
    # the lists at any time.
    self._free: dict[int, list[np.ndarray]] = {}

  def __reduce__(self) -> tuple[Any, ...]:
    return Memory, ()

  def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array of undefined content.

    Its memory is used again when it and all that refer to it are gone: views,
    and JAX arrays that share the memory or are still being copied from it.

    Args:
      shape: of the array.
      dtype: of the array.
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
  """What all arrays over a block refer to, as long as there are any."""

  def __init__(self, block: np.ndarray, free: list[np.ndarray]):
    self._block, self._free = block, free
    self.__array_interface__ = block.__array_interface__

  def __del__(self):
    if len(self._free) < _MAX_FREE:
      self._free.append(self._block)
