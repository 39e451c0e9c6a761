"""Memory that is used again, and never while somebody looks at it."""

import pickle

import jax
import numpy as np

from tokenlearner_flexivit.data.memory import Memory

SHAPE, DTYPE = (4, 1 << 16), np.dtype(np.float32)


def address(array):
  return array.__array_interface__["data"][0]


def test_is_used_again():
  memory = Memory()
  array = memory.empty(SHAPE, DTYPE)
  assert array.shape == SHAPE and array.dtype == DTYPE
  assert array.flags.c_contiguous and array.flags.writeable
  first = address(array)
  assert first % 64 == 0  # What XLA wants, to share it on the CPU.
  del array
  other = memory.empty((2, 1 << 10), DTYPE)  # Small ones do not take it.
  again = memory.empty(SHAPE[::-1], np.dtype(np.int32))
  assert address(again) == first != address(other)


def test_not_while_anything_refers_to_it():
  memory = Memory()
  array = memory.empty(SHAPE, DTYPE)
  array[:] = 7
  holders = [array[1:2][0], array.T, memoryview(array), jax.device_put(array)]
  del array
  while holders:
    others = [memory.empty(SHAPE, DTYPE) for _ in range(3)]
    for other in others:
      other[:] = 0
    assert (np.asarray(holders.pop()) == 7).all()


def test_keeps_little():
  memory = Memory()
  arrays = [memory.empty(SHAPE, DTYPE) for _ in range(9)]
  del arrays
  assert sum(map(len, memory._free.values())) == 2


def test_is_pickled_empty():
  memory = Memory()
  memory.empty(SHAPE, DTYPE)
  assert not pickle.loads(pickle.dumps(memory))._free
