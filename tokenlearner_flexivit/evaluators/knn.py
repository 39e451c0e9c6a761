"""Accuracy of the nearest neighbours, by which backbones are compared.

Nothing is trained: an image gets the class of the training images whose
representations have the largest cosines with its own. As in DINO (arXiv
2104.14294, section 4.1, by arXiv 1805.01978), the 20 nearest vote, each with
the weight exp(cosine / 0.07).
"""

import functools
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.evaluators import base, representations
from tokenlearner_flexivit.evaluators import images as images_lib
from tokenlearner_flexivit.evaluators import shots as shots_lib
from tokenlearner_flexivit.figures.metric import Metric

_LEAST_LENGTH = 1e-12


def nearest(
  queries: Float[Array, "B D"],
  bank: Float[Array, "N D"],
  labels: Int[Array, " N"],
  count: int,
) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
  """Returns the largest cosines of each query, falling, and their labels.

  Args:
    queries: of length 1.
    bank: of length 1.
    labels: of the bank; a negative one is none, its cosine is -inf.
    count: how many; k is at most N.
  """
  # Quick products of accelerators would change the order.
  cosines = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
  cosines = jnp.where(labels >= 0, cosines, -jnp.inf)
  best, places = jax.lax.top_k(cosines, min(count, len(bank)))
  return best, labels[places]


def vote(
  cosines: Float[Array, "B k"], labels: Int[Array, "B k"], temperature: float
) -> Int[Array, " B"]:
  """Returns the label of the largest sum of exp(cosine / temperature).

  Args:
    cosines: of the neighbours, falling. Equal sums go to the nearest one's.
    labels: of the neighbours.
    temperature: above 0.
  """
  weights = jnp.exp((cosines - cosines[:, :1]) / temperature)
  same = labels[:, :, None] == labels[:, None]
  sums = jnp.where(same, weights[:, None], 0).sum(axis=-1)
  best = jnp.argmax(sums, axis=-1)
  return jnp.take_along_axis(labels, best[:, None], axis=1)[:, 0]


class Evaluator(representations.Evaluator):
  """An evaluator of a representation by its nearest neighbours.

  Each image of both splits is read once. The representations of the train split
  stay on the devices, which share them: 4 bytes times width per image and
  setting, for ImageNet at width 768 on eight devices 490 MB each per setting.

  Attributes:
    settings: the settings that are evaluated.
    sources: the train split and the test split.
    image_shape: (H, W, C), of videos (T, H, W, C).
    headline: the metric that settings are compared by.
  """

  metrics = MappingProxyType({"knn": Metric("k-NN accuracy", "%", True)})
  headline = "knn"

  def __init__(
    self,
    context: base.Context,
    data: dict[str, Any],
    train_split: str = "train",
    test_split: str = "test",
    label_key: str = "label",
    representation: str = "pre_logits",
    num_neighbours: int = 20,
    temperature: float = 0.07,
  ):
    """Opens the data and checks that everything fits.

    Args:
      context: with a task that has `representation`.
      data: the data section of the config, without `split`.
      train_split: its examples vote.
      test_split: all its examples are classified.
      label_key: as in `representations.Evaluator`.
      representation: as in `representations.Evaluator`.
      num_neighbours: how many vote on an image.
      temperature: above 0; the smaller it is, the more the nearest count.

    Raises:
      ValueError: what `representations.Evaluator` refuses, or a number out of
        its range.
    """
    where = context.where
    configuration.check_number(
      num_neighbours, f"{where}.num_neighbours", "[1, inf)", whole=True
    )
    configuration.check_number(temperature, f"{where}.temperature", "(0, inf)")
    super().__init__(
      context, data, train_split, test_split, label_key, representation
    )
    self._read_labels_early()
    self._join = self._program("neighbours' bank", _join, sharded_output=True)
    self._ask = self._program(
      "neighbours' queries", functools.partial(_ask, self._parallel)
    )
    self._count = self._program(
      ("neighbours", num_neighbours, temperature),
      functools.partial(_count, self._parallel, num_neighbours, temperature),
    )

  @functools.cached_property
  def _known_labels(self) -> tuple[Sequence[int], Sequence[int]]:
    return shots_lib.read_labels(*self.sources, self._label_key, self._where)

  @property
  def _test_labels(self) -> Int32[np.ndarray, " N"]:
    return np.asarray(self._known_labels[1], np.int32)

  @functools.cached_property
  def _train(self) -> images_lib.Images:
    labels = np.asarray(self._known_labels[0], np.int32)
    return self._open(
      self._train_data, self.sources[0], entries=(), labels=lambda: labels
    )

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields `{setting.name}/knn`, the share that is right, and `/examples`.

    The latter is the number of test examples that have a label.

    Raises:
      ValueError: a representation is not finite.
    """
    nothing = self._nothing()
    parts = {setting: [] for setting in self.settings}
    for batch in self._train:
      for setting, features in self._features(params, batch):
        parts[setting].append(features)
    banks = {
      setting: self._join(nothing, parts.pop(setting))
      for setting in self.settings
    }
    zeros = {"right": np.int32(0), "broken": np.int32(0)}
    counts = {setting: self._parallel.place(zeros) for setting in self.settings}
    for batch in self._test:
      for setting, features in self._features(params, batch):
        asked = self._ask(nothing, features)
        counts[setting] = self._count((counts[setting], asked), banks[setting])
    examples = int((self._test_labels >= 0).sum())
    for setting in self.settings:
      counted = jax.device_get(counts[setting])
      if counted["broken"]:
        raise self._not_finite(setting)
      yield f"{setting.name}/knn", int(counted["right"]) / examples
      yield f"{setting.name}/examples", examples


def _unit(batch):
  """Returns features of length 1 and labels, -1 for padding."""
  features = batch["features"].astype(jnp.float32)
  length = jnp.linalg.norm(features, axis=-1, keepdims=True)
  features = features / jnp.maximum(length, _LEAST_LENGTH)
  return features, representations.labels(batch)


def _join(_, parts):
  """Returns the parts of a bank as one; runs on each device."""
  return jax.tree.map(lambda *x: jnp.concatenate(x), *map(_unit, parts))


def _ask(parallel, _, batch):
  """Returns features and labels of all devices; runs on each."""
  return parallel.gather(_unit(batch))


def _count(parallel, count, temperature, state, bank):
  """Adds the right answers to one batch; runs on each device.

  Each device finds the nearest of its part of the bank.
  """
  counts, (queries, labels) = state
  cosines, votes = parallel.gather(
    jax.tree.map(jnp.transpose, nearest(queries, *bank, count))
  )
  best, places = jax.lax.top_k(cosines.T, min(count, len(cosines)))
  answers = vote(best, jnp.take_along_axis(votes.T, places, 1), temperature)
  is_known = labels >= 0
  # NaN is near to nothing.
  finite = jnp.isfinite(queries).all(axis=-1)
  broken = parallel.sum((~jnp.isfinite(bank[0]).all(axis=-1)).sum())
  new = {
    "right": ((answers == labels) & is_known).sum(),
    "broken": (~finite & is_known).sum() + broken,
  }
  return jax.tree.map(lambda a, b: a + b.astype(a.dtype), counts, new)
