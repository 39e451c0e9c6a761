"""The answers of tasks, for people and files: words, rows, JSON, arrays."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import UInt8

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data.ops import geometry

ANSWER = "answer"
_MAX_SHOWN = 16  # Numbers of an array that are printed.


def leaves(answer: Any) -> dict[str, Any]:
  """Returns the leaves of a pytree by name, such as "boxes" or "scores/best".

  A leaf that is the whole answer is called "answer".
  """
  named, _ = jax.tree_util.tree_flatten_with_path(answer)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/") or ANSWER: leaf
    for path, leaf in named
  }


def row(answer: Any) -> dict[str, Any]:
  """Returns an answer of scalars as a row of a table, a column per leaf.

  Raises:
    ValueError: a leaf is no scalar; the error names it and its shape.
  """
  named = {name: np.asarray(leaf) for name, leaf in leaves(answer).items()}
  large = [
    f"{name} {list(leaf.shape)}" for name, leaf in named.items() if leaf.ndim
  ]
  if large:
    raise ValueError(
      "The answer has arrays, which fit in no cell of a table: "
      f"{', '.join(large)}."
    )
  return {name: leaf.item() for name, leaf in named.items()}


def in_words(answer: Any) -> str:
  """Returns an answer as text: small arrays, and the shapes of large ones."""

  def short(array: np.ndarray) -> Any:
    if array.size <= _MAX_SHOWN:
      return array.tolist()
    return f"{array.dtype} {list(array.shape)}"

  return str(jax.tree.map(short, answer))


def write_arrays(answer: Any, path: str | os.PathLike) -> pathlib.Path:
  """Writes an answer as PATH.npz, an array per leaf; returns the file."""
  path = pathlib.Path(path)
  path = path.with_name(f"{path.name}.npz")
  with paths.whole(path) as partial, partial.open("wb") as file:
    np.savez(file, **leaves(answer))
  return path


class Answers:
  """Shows the answers of a task; the defaults serve any structure.

  Attributes:
    answer_text: says of the result of `predict` what its numbers are, for the
      users of exports.
    has_places: whether answers tell places in an image. Then predictions bring
      them back to the original by `restore`, and images that do not have the
      model's size are padded rather than cropped.
    written_ends: what is put behind the name of an input, before the suffix, in
      the names of the files that `write` and `draw` make.
  """

  answer_text: ClassVar[str] = ""
  has_places: ClassVar[bool] = False
  written_ends: ClassVar[Sequence[str]] = ("",)

  def restore(self, answer: Any, place: geometry.Place) -> Any:
    """Returns the answer to a prepared image as that to the original image.

    Called if `has_places`.

    Args:
      answer: of `predict`, NumPy arrays without the axis of the batch.
      place: where the prepared image shows the original.
    """
    del place
    return answer

  def rows(self, answer: Any) -> list[dict[str, Any]]:
    """Returns the answer to one input as rows of a table, as CSV has it.

    Args:
      answer: of `restore`, or of `predict` as NumPy arrays without the axis of
        the batch.

    Returns:
      Numbers and words by column. By default there is one row, with a column
      for each leaf; boxes, for example, would have a row each.

    Raises:
      ValueError: the answer does not suit a table.
    """
    return [row(answer)]

  def in_words(self, answer: Any, most: int) -> str:
    """Returns the answer to one input in a line of text.

    Args:
      answer: as in `rows`.
      most: how many classes or things to name, at most.
    """
    del most
    return in_words(answer)

  def in_json(self, answer: Any) -> Any:
    """Returns the answer to one input, as in `rows`, as JSON values."""
    return jax.tree.map(lambda leaf: leaf.tolist(), answer)

  def draw(
    self, answer: Any, image: UInt8[np.ndarray, "H W C"], path: pathlib.Path
  ) -> None:
    """Draws the answer to one input into its image; by default nothing.

    Args:
      answer: as in `rows`.
      image: the original.
      path: of the picture to write.
    """
    del answer, image, path

  def write(self, answer: Any, path: str | os.PathLike) -> pathlib.Path:
    """Writes the answer to one input as a file; returns its path.

    Args:
      answer: as in `rows`.
      path: of the file without suffix. The default writes PATH.npz, with an
        array for each leaf; a label map, for example, would be PATH.png.
    """
    return write_arrays(answer, path)
