"""The answers of tasks, for people and files: named leaves, rows, arrays."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from tokenlearner_flexivit import paths

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
