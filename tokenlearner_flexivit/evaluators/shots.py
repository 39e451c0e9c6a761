"""Draws the few examples that a few-shot classifier learns from."""

import concurrent.futures
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenlearner_flexivit import data as data_lib

_READERS = 8


class Drawn(NamedTuple):
  """What is to be learned from, and what to be classified.

  Attributes:
    train: the examples that any seed draws.
    train_labels: their classes, int32 [len(train)].
    rows: positions in `train`, [seeds, classes, shots].
    test: the examples to classify.
    test_labels: their classes, int32 [len(test)], -1 where there is none.
  """

  train: data_lib.Source
  train_labels: np.ndarray
  rows: np.ndarray
  test: data_lib.Source
  test_labels: np.ndarray


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

  They depend on the arguments alone: not on hosts, nor the first k of each
  class on how many more are drawn.

  Args:
    train: to draw from.
    test: to be classified.
    label_key: the entry of an example that is its class; if negative, the
      example has none.
    shots: how many examples of each class.
    num_seeds: how often.
    where: name of the config section for errors.

  Raises:
    ValueError: an unknown label, a class with fewer examples than `shots`, or
      one in `test` that `train` lacks.
  """
  labels = read_labels(train, label_key, where)
  test_labels = read_labels(test, label_key, where)
  classes, names = np.unique(labels[labels >= 0]), None
  if label_key == "label" and train.num_classes is not None:
    classes, names = np.arange(train.num_classes), train.class_names
  _check_counts(train, labels, classes, names, shots, where)
  _check_test_labels(test, test_labels, classes, label_key, where)
  positions = []
  for seed in range(num_seeds):
    rng = np.random.default_rng(seed)
    positions.append(
      [rng.permutation(np.flatnonzero(labels == c))[:shots] for c in classes]
    )
  union, rows = np.unique(positions, return_inverse=True)

  def number(labels):
    of_class = np.where(labels < 0, -1, np.searchsorted(classes, labels))
    return of_class.astype(np.int32)

  return Drawn(
    Part(train, union),
    number(labels[union]),
    rows.reshape(np.shape(positions)),
    test,
    number(test_labels),
  )


class Part(data_lib.Source):
  """Some examples of a source."""

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
    """Describes the example as the source does."""
    return self._source.describe(int(self._positions[index]))


def read_labels(source: data_lib.Source, key: str, where: str) -> np.ndarray:
  """Reads the labels of a split, without decoding images.

  Args:
    source: the split.
    key: the entry of an example that is its label.
    where: name of the config section for errors.

  Returns:
    int64 [len(source)].

  Raises:
    ValueError: there is no such entry or it is no whole number.
  """
  labels = {
    name: value
    for name, value in source[0].items()
    if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biu"
  }
  if key not in labels:
    known = ", ".join(name for name in labels if name != "id")
    raise ValueError(
      f"{where}.label_key={key!r} is no entry of {source.name} that is one "
      f"whole number per example. Such are: {known}."
    )
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    read = pool.map(lambda i: int(source[i][key]), range(len(source)))
    return np.fromiter(read, np.int64, len(source))


def _check_counts(
  source: data_lib.Source,
  labels: np.ndarray,
  classes: np.ndarray,
  names: Sequence[str] | None,
  shots: int,
  where: str,
) -> None:
  """Raises ValueError if a class has too few examples."""
  if not len(classes):
    raise ValueError(f"{where}: no example of {source.name} has a label.")
  counts = [np.count_nonzero(labels == c) for c in classes]
  smallest = int(np.argmin(counts))
  if counts[smallest] < shots:
    name = classes[smallest] if names is None else repr(names[smallest])
    raise ValueError(
      f"{where}.shots: {shots} examples of each class are more than class "
      f"{name} has in {source.name}: {counts[smallest]}. Use fewer shots or a "
      "larger train_split."
    )


def _check_test_labels(
  source: data_lib.Source,
  labels: np.ndarray,
  classes: np.ndarray,
  key: str,
  where: str,
) -> None:
  """Raises ValueError if the test split cannot be classified."""
  labels = np.unique(labels[labels >= 0])
  if not len(labels):
    raise ValueError(f"{where}: no example of {source.name} has a label.")
  strange = np.setdiff1d(labels, classes)
  if len(strange):
    raise ValueError(
      f"{where}: {source.name} has {key}={strange[0]}, which the train_split "
      "lacks, so that no classifier can know it. Use a larger train_split."
    )
