"""The draw of the few examples that a few-shot classifier learns from."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.data import class_names as class_names_lib


class Drawn(NamedTuple):
  """The examples to learn from, and the labels of those to classify.

  Attributes:
    train: the examples that any seed draws.
    train_labels: their classes.
    rows: positions in `train`, [seeds, classes, shots].
    test_labels: the classes of the examples to classify, -1 for no label.
  """

  train: data_lib.Source
  train_labels: Int32[np.ndarray, " M"]
  rows: Int[np.ndarray, "seeds classes shots"]
  test_labels: Int32[np.ndarray, " N"]


def check(
  train: data_lib.Source, test: data_lib.Source, label_key: str, where: str
) -> None:
  """Raises ValueError for faults that can be seen without the labels.

  Args:
    train: the split to draw from.
    test: the split to classify.
    label_key: the entry of an example that is its class.
    where: name of the config section for errors.
  """
  for source in (train, test):
    try:
      source.check_label(label_key)
    except ValueError as error:
      raise ValueError(f"{where}.label_key={label_key!r}: {error}") from error
  classes = (source.classes(label_key) for source in (test, train))
  if both := class_names_lib.comparable(*classes):
    class_names_lib.check_same(*both, f"{where}.test_split", "the train_split")


def draw(
  train: data_lib.Source,
  test: data_lib.Source,
  label_key: str,
  *,
  shots: int,
  num_seeds: int,
  where: str,
) -> Drawn:
  """Draws examples of each class, with the seeds 0, 1, ....

  The draw depends on the arguments alone, not on hosts. The first k examples of
  each class do not depend on how many more are drawn.

  Args:
    train: the split to draw from.
    test: the split to classify.
    label_key: the entry of an example that is its class; if negative, the
      example has none.
    shots: how many examples of each class.
    num_seeds: how often examples are drawn.
    where: name of the config section for errors.

  Raises:
    ValueError: an unknown label, a class with fewer examples than `shots`, or
      one in `test` that `train` lacks.
  """
  check(train, test, label_key, where)
  labels, test_labels = read_labels(train, test, label_key, where)
  classes, names = _classes(train, labels, label_key)
  # Sorted by class; within a class, examples keep their order.
  order = np.argsort(labels, kind="stable")
  starts, stops = (
    np.searchsorted(labels[order], classes, side) for side in ("left", "right")
  )
  _check_counts(train, stops - starts, classes, names, shots, where)
  positions = []
  for seed in range(num_seeds):
    rng = np.random.default_rng(seed)
    positions.append(
      [
        rng.permutation(order[start:stop])[:shots]
        for start, stop in zip(starts, stops, strict=True)
      ]
    )
  union, rows = np.unique(positions, return_inverse=True)

  def class_indices(labels):
    indices = np.where(labels < 0, -1, np.searchsorted(classes, labels))
    return indices.astype(np.int32)

  return Drawn(
    Part(train, union),
    class_indices(labels[union]),
    rows.reshape(np.shape(positions)),
    class_indices(test_labels),
  )


def read_labels(
  train: data_lib.Source, test: data_lib.Source, label_key: str, where: str
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " N"]]:
  """Returns the labels of all examples of two splits; negative ones are none.

  Args:
    train: the split to learn from.
    test: the split to classify.
    label_key: the entry of an example that is its class.
    where: name of the config section for errors.

  Raises:
    ValueError: a single class, no labels, or one in `test` that `train` lacks.
  """
  labels, test_labels = train.labels(label_key), test.labels(label_key)
  classes, _ = _classes(train, labels, label_key)
  if len(classes) == 1:
    raise ValueError(
      f"{where}: {train.name} has a single class, so there is nothing to tell "
      "apart. Use a train_split with several, or another label_key."
    )
  _check_known(train, labels, classes, label_key, where)
  _check_known(test, test_labels, classes, label_key, where)
  return labels, test_labels


def _classes(
  train: data_lib.Source, labels: np.ndarray, label_key: str
) -> tuple[np.ndarray, Sequence[str] | None]:
  """Returns the numbers of the classes, and their names if they have any."""
  if label_key == "label" and train.num_classes is not None:
    return np.arange(train.num_classes), train.class_names
  return np.unique(labels[labels >= 0]), None


class Part(data_lib.Source):
  """A source that has some examples of another."""

  def __init__(self, source: data_lib.Source, positions: np.ndarray):
    """Takes the examples at `positions` of the source."""
    self.name = source.name
    self._source = source
    self._positions = positions

  def __len__(self) -> int:
    return len(self._positions)

  def __getitem__(self, index: int) -> dict[str, Any]:
    position = int(self._positions[index])
    return {**self._source[position], "id": np.int32(index)}

  def describe(self, index: int) -> str:
    """Returns the source's description of the example."""
    return self._source.describe(int(self._positions[index]))


def _check_counts(
  source: data_lib.Source,
  counts: np.ndarray,
  classes: np.ndarray,
  names: Sequence[str] | None,
  shots: int,
  where: str,
) -> None:
  """Raises ValueError if a class has too few examples."""
  smallest = int(np.argmin(counts))
  if counts[smallest] < shots:
    name = classes[smallest] if names is None else repr(names[smallest])
    raise ValueError(
      f"{where}.shots: {shots} examples of each class are more than class "
      f"{name} has in {source.name}: {counts[smallest]}. Use fewer shots or a "
      "larger train_split."
    )


def _check_known(
  source: data_lib.Source,
  labels: np.ndarray,
  classes: np.ndarray,
  key: str,
  where: str,
) -> None:
  """Raises ValueError if there are no labels, or some are of no class."""
  labels = np.unique(labels[labels >= 0])
  if not len(labels):
    raise ValueError(f"{where}: no example of {source.name} has a label.")
  strange = np.setdiff1d(labels, classes)
  if len(strange):
    raise ValueError(
      f"{where}: {source.name} has {key}={strange[0]}, which is none of the "
      f"{len(classes)} classes of the train_split, so that no classifier can "
      "know it. Use a larger train_split, or mend the labels."
    )
