"""Functions that read and preprocess one example, and name corrupt ones."""

import copy
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from tokenlearner_flexivit.data import preprocess
from tokenlearner_flexivit.data.sources.base import Source

# Positions of corrupt examples in the source, with a description of each.
Corrupt = tuple[tuple[int, str], ...]


class ExampleError(ValueError):
  """An error about an example that cannot be read or preprocessed."""


@dataclasses.dataclass(frozen=True)
class MakeExample:
  """A function that reads and preprocesses the example at a position.

  A corrupt example is one that cannot be preprocessed, or whose record cannot
  be parsed. The next good example of the source replaces it. This choice
  depends on the data alone, so it is the same after a restart and in every
  process.

  An error of reading (OSError) is always raised: it does not depend on the data
  and may be gone in the next run, whose examples would then differ.

  Attributes:
    source: the source of the examples.
    preprocess: the preprocessing of each example.
    max_corrupt: how many corrupt examples in a row are replaced.
  """

  source: Source
  preprocess: "preprocess.Preprocess | Several"
  max_corrupt: int = 0

  def __call__(
    self,
    index: int,
    rng: np.random.Generator,
    watch: Callable[..., None] | None = None,
  ) -> tuple[dict[str, Any], Corrupt]:
    """Returns an example, and the corrupt examples that it replaces.

    Args:
      index: the position wanted, in [0, len(source)).
      rng: generator for random ops.
      watch: is called after each op, see `Preprocess.__call__`.

    Raises:
      ExampleError: the example cannot be read; or it is corrupt, and so are too
        many after it.
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
          # One argument, because processes pickle their exceptions.
          raise ExampleError(
            too_many([words for _, words in corrupt], self.max_corrupt)
          ) from error

  def _name(self, index: int, error: Exception) -> str:
    """Returns in words which example it is and what is wrong with it."""
    try:
      where = self.source.describe(index)
    except Exception:  # An unreadable example may have no description.
      where = f"example {index}"
    return f"{where} of {self.source.name}: {error}"


@dataclasses.dataclass(frozen=True)
class Several:
  """Several preprocessings of an example, which is read once.

  Attributes:
    parts: the preprocessings by what is put in front of their entries' names.
  """

  parts: Mapping[str, preprocess.Preprocess]

  def __call__(
    self,
    example: preprocess.Example,
    rng: np.random.Generator,
    watch: Callable[..., None] | None = None,
  ) -> preprocess.Example:
    """Returns the entries of all; random ops draw the same numbers in each."""
    return {
      f"{prefix}{key}": value
      for prefix, part in self.parts.items()
      for key, value in part(example, copy.deepcopy(rng), watch).items()
    }


@dataclasses.dataclass(frozen=True)
class MakeMaskedExample:
  """A function that returns examples with `mask` 1, then padding with 0."""

  make_example: MakeExample
  padding: dict[str, np.ndarray]

  def __call__(
    self, index: int, rng: np.random.Generator
  ) -> tuple[dict[str, Any], Corrupt]:
    """Returns the result of `MakeExample`; padding after the last example."""
    if index >= len(self.make_example.source):
      return {**self.padding, "mask": np.float32(0)}, ()
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
