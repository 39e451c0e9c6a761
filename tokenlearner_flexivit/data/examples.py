"""Examples, read and preprocessed one by one; corrupt ones are named."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from tokenlearner_flexivit.data import preprocess
from tokenlearner_flexivit.data.sources.base import Source

# Positions of corrupt examples in the source, with words about each.
Corrupt = tuple[tuple[int, str], ...]


class ExampleError(ValueError):
  """An example could not be read or preprocessed; the message names it."""


@dataclasses.dataclass(frozen=True)
class MakeExample:
  """Reads and preprocesses the example at a position of the source.

  A corrupt example is one that cannot be preprocessed, or whose record cannot
  be understood. In its place comes the next good one of the source. Which one
  that is depends on the data alone, so it is the same after a restart and in
  every process.

  An error of reading (OSError) is none of the data's and may be gone in the
  next run, which would not be the same run then: it is always raised.

  Attributes:
    source: where examples come from.
    preprocess: what is done to each.
    max_corrupt: how many corrupt ones in a row are replaced.
  """

  source: Source
  preprocess: preprocess.Preprocess
  max_corrupt: int = 0

  def __call__(
    self,
    index: int,
    rng: np.random.Generator,
    watch: Callable[..., None] | None = None,
  ) -> tuple[dict[str, Any], Corrupt]:
    """Returns an example, and the corrupt ones in whose place it is.

    Args:
      index: the position wanted, in [0, len(source)).
      rng: generator for random ops.
      watch: see `Preprocess.__call__`.

    Raises:
      ExampleError: it cannot be read; or it is corrupt, and so are too many
        after it.
    """
    corrupt = []
    tries = min(self.max_corrupt + 1, len(self.source))
    while True:
      position = (int(index) + len(corrupt)) % len(self.source)
      try:
        example = self.preprocess(self.source[position], rng, watch)
        return example, tuple(corrupt)
      except (OSError, MemoryError) as error:
        raise ExampleError(self._name(position, error)) from error
      except Exception as error:
        corrupt.append((position, self._name(position, error)))
        if len(corrupt) == tries:
          # One argument, because exceptions come pickled from processes.
          raise ExampleError(
            too_many([words for _, words in corrupt], self.max_corrupt)
          ) from error

  def _name(self, index: int, error: Exception) -> str:
    """Returns which example it is and what is wrong with it."""
    try:
      where = self.source.describe(index)
    except Exception:  # What cannot be read may not be describable either.
      where = f"example {index}"
    return f"{where} of {self.source.name}: {error}"


@dataclasses.dataclass(frozen=True)
class MakeMaskedExample:
  """Makes an example with `mask` 1, or filling with 0 after the last."""

  make_example: MakeExample
  filling: dict[str, np.ndarray]

  def __call__(
    self, index: int, rng: np.random.Generator
  ) -> tuple[dict[str, Any], Corrupt]:
    """Returns what `MakeExample` does."""
    if index >= len(self.make_example.source):
      return {**self.filling, "mask": np.float32(0)}, ()
    example, corrupt = self.make_example(index, rng)
    return {**example, "mask": np.float32(1)}, corrupt


def too_many(corrupt: Collection[str], max_corrupt: int) -> str:
  """Returns the message of the error that lists corrupt examples."""
  listed = "".join(f"\n  {words}" for words in corrupt)
  return (
    f"Corrupt examples, {len(corrupt)} where data.max_corrupt={max_corrupt} "
    f"are allowed:{listed}\nMend or replace what is corrupt. Training, not "
    "evaluation, can skip such examples: data.max_corrupt says how many."
  )
