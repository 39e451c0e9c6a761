"""Few-shot accuracy: a linear classifier on k frozen examples of each class.

A linear map from the representation to -1 and 1 for each class is solved for in
closed form (ViT, arXiv 2010.11929, section 4.1). The method is that of the
published evaluators, big_vision's `evaluators/fewshot_lsr.py` and Scenic's
`train_lib/transfer/fewshot_utils.py`: standardised features with a large
constant beside them (`ridge`), L2 penalties 2^-10 to 2^19, examples drawn per
class with the seeds 0, 1, 2, of which every number of shots uses the first. It
yields two accuracies:

* `5shot` at one fixed penalty, by default big_vision's 2^10.
* `5shot_tuned` at the penalty that is best, on average over the seeds, for the
  drawn examples that are not among the five of the seed. The test images do not
  affect the choice. In Scenic they do: it takes the penalty that is best on the
  test images of several datasets together.

The fixed penalty suits wide models; narrow ones may need a smaller one.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.evaluators import base, representations, ridge
from tokenlearner_flexivit.evaluators import images as images_lib
from tokenlearner_flexivit.evaluators import shots as shots_lib
from tokenlearner_flexivit.figures.metric import Metric

# The number of examples that choose a penalty; it suffices for powers of two.
_MAX_HELD_OUT = 4096

_classify = jax.jit(ridge.classify)


class Evaluator(representations.Evaluator):
  """An evaluator of a representation by few-shot classification.

  The constructor reads the labels of both splits if that takes seconds: folders
  hold them, large TFDS datasets need every record to be read. Otherwise they
  are read in the first evaluation after a start. An evaluation then reads and
  decodes each image of the test split once, and those of the training split
  that some seed draws. It keeps, per setting, the representations of the drawn
  images on every host and the solutions on every device: for 1,000 classes, 25
  shots, 3 seeds and width 768 at most 230 MB and 65 MB.

  Attributes:
    settings: the settings that are evaluated.
    sources: the train split and the test split.
    image_shape: (H, W, C), of videos (T, H, W, C).
    headline: the metric that settings are compared by, that of most shots.
  """

  def __init__(
    self,
    context: base.Context,
    data: dict[str, Any],
    train_split: str = "train",
    test_split: str = "test",
    label_key: str = "label",
    representation: str = "pre_logits",
    shots: Sequence[int] = (1, 5, 10, 25),
    num_seeds: int = 3,
    log2_l2: float = 10,
    log2_l2_sweep: Sequence[float] = tuple(range(-10, 20)),
  ):
    """Opens the data, draws the examples and checks that everything fits.

    Args:
      context: with a task that has `representation`.
      data: the data section of the config, without `split`.
      train_split: the few examples are drawn from it.
      test_split: all its examples are classified.
      label_key: the entry of the dataset's examples that is to be predicted
        from the image. A negative value means that the example has no label.
      representation: an entry of the model's `out`, such as "encoded" or
        "encoder/block05/+mlp". Tokens are averaged.
      shots: how many examples of each class.
      num_seeds: how often they are drawn; accuracies are means.
      log2_l2: of the fixed penalty.
      log2_l2_sweep: of the penalties that `tuned` chooses from; the fixed one
        is always among them.

    Raises:
      ValueError: a split is empty, a label or a representation unknown, classes
        of the splits that differ, a setting that does not fit the images, a
        number out of its range; or, if the labels are read here, more shots
        than examples of some class.
    """
    _check_numbers(shots, num_seeds, log2_l2, log2_l2_sweep, context.where)
    super().__init__(
      context, data, train_split, test_split, label_key, representation
    )
    self._shots = sorted(shots)
    self.headline = f"{self._shots[-1]}shot"
    names = [f"{k}shot{end}" for k in self._shots for end in ("", "_tuned")]
    self.metrics = {name: Metric(name, "%", is_share=True) for name in names}
    self._log2_l2 = float(log2_l2)
    self._sweep = sorted({self._log2_l2, *map(float, log2_l2_sweep)})
    self._l2 = np.exp2(self._sweep).astype(np.float32)

    self._num_seeds = num_seeds
    self._read_labels_early()
    self._gather = self._program(
      "few-shot examples", functools.partial(_gather, self._parallel)
    )
    self._count = self._program(
      ("few-shot", *self._sweep),
      functools.partial(_add, self._l2, self._parallel),
      num_constants=1,
    )

  @functools.cached_property
  def _drawn(self) -> shots_lib.Drawn:
    """Returns the drawn examples, and the labels of those to classify."""
    return shots_lib.draw(
      *self.sources,
      self._label_key,
      shots=self._shots[-1],
      num_seeds=self._num_seeds,
      where=self._where,
    )

  @property
  def _test_labels(self) -> np.ndarray:
    return self._drawn.test_labels

  @functools.cached_property
  def _train(self) -> images_lib.Images:
    """Returns the images that any seed draws, labelled by their positions."""
    return self._open(
      self._train_data,
      self._drawn.train,
      entries=(),
      labels=lambda: np.arange(len(self._drawn.train), dtype=np.int32),
    )

  def _tables(self, params: Any) -> dict[dials.Setting, np.ndarray]:
    """Returns the representations of all drawn examples, [rows, D].

    Raises:
      ValueError: a representation is not finite, so that no map can be solved
        for.
    """
    tables = {}
    nothing = self._nothing()
    for batch in self._train:
      for setting, features in self._features(params, batch):
        features, rows = jax.device_get(self._gather(nothing, features))
        if setting not in tables:
          shape = (self._train.num_examples, features.shape[-1])
          tables[setting] = np.empty(shape, np.float32)
        tables[setting][rows[rows >= 0]] = features[rows >= 0]
    for setting, table in tables.items():
      if not np.isfinite(table).all():
        raise self._not_finite(setting)
    return tables

  def _solve(self, table: np.ndarray) -> list[ridge.Solution]:
    """Returns for each number of shots the solutions of all seeds, stacked."""
    num_classes = self._drawn.rows.shape[1]
    solutions = []
    for shots in self._shots:
      targets = 2 * np.repeat(np.eye(num_classes), shots, axis=0) - 1
      seed_solutions = [
        ridge.solve(table[rows[:, :shots].ravel()], targets)
        for rows in self._drawn.rows
      ]
      solutions.append(
        jax.tree.map(lambda *x: np.stack(x).astype(np.float32), *seed_solutions)
      )
    # Different processors may decompose differently; all hosts use the first's.
    return multihost_utils.broadcast_one_to_all(solutions)

  def _tune(
    self, table: np.ndarray, solutions: Sequence[ridge.Solution]
  ) -> list[int | None]:
    """Returns the index of the best penalty for each number of shots.

    It is None if no example is drawn by one seed and not by another.
    """
    sample = np.arange(0, len(table), -(-len(table) // _MAX_HELD_OUT))
    labels = self._drawn.train_labels[sample]
    chosen = []
    for shots, seed_solutions in zip(self._shots, solutions, strict=True):
      right = []
      for seed, rows in enumerate(self._drawn.rows):
        solution = jax.tree.map(lambda x, seed=seed: x[seed], seed_solutions)
        answers = _classify(solution, table[sample], self._l2)
        held_out = ~np.isin(sample, rows[:, :shots])
        if held_out.any():
          right.append((answers == labels[None])[:, held_out].mean(axis=1))
      chosen.append(int(np.argmax(np.mean(right, axis=0))) if right else None)
    return chosen

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields for every setting and number of shots k the accuracies.

    These are `{setting.name}/{k}shot` and `{setting.name}/{k}shot_tuned`, in
    [0, 1], means over the seeds; for several seeds, their standard deviations,
    with the suffix `_std`; and `{k}shot_tuned_log2_l2`, the penalty. Tuned
    values are left out if there are no examples to tune on, as for the most
    shots of a single seed. `{setting.name}/examples` is the number of test
    examples that have a label.

    Raises:
      ValueError: a representation is not finite.
    """
    shape = len(self._shots), len(self._drawn.rows), len(self._sweep)
    zeros = {"right": np.zeros(shape, np.int32), "broken": np.int32(0)}
    solutions, counts, tuned = {}, {}, {}
    for setting, table in self._tables(params).items():
      solution = self._solve(table)
      tuned[setting] = self._tune(table, solution)
      solutions[setting] = self._parallel.place(solution)
      counts[setting] = self._parallel.place(zeros)
    for batch in self._test:
      for setting, features in self._features(params, batch):
        counts[setting] = self._count(
          counts[setting], features, solutions[setting]
        )
    fixed = self._sweep.index(self._log2_l2)
    examples = int((self._drawn.test_labels >= 0).sum())
    for setting in self.settings:
      counted = jax.device_get(counts[setting])
      if counted["broken"]:
        raise self._not_finite(setting)
      yield f"{setting.name}/examples", examples
      accuracies = counted["right"] / examples
      for shots, seed_accuracies, best in zip(
        self._shots, accuracies, tuned[setting], strict=True
      ):
        name = f"{setting.name}/{shots}shot"
        yield from _mean_and_spread(name, seed_accuracies[:, fixed])
        if best is not None:
          yield from _mean_and_spread(f"{name}_tuned", seed_accuracies[:, best])
          yield f"{name}_tuned_log2_l2", self._sweep[best]


def _gather(parallel, _, batch):
  """Returns features and labels of all devices; runs on each."""
  # Gathered with their labels, so the order of the devices does not matter.
  return parallel.gather((batch["features"], representations.labels(batch)))


def _add(l2, parallel, counts, batch, solutions):
  """Adds the right answers of one batch; runs on each device.

  Representations that are not finite are counted separately: argmax would
  answer the first class for them.
  """

  def count(solution):
    answers = ridge.classify(solution, batch["features"], l2)
    right = answers == representations.labels(batch)[None]
    return right.sum(axis=-1, dtype=jnp.int32)

  is_broken = ~jnp.isfinite(batch["features"]).all(axis=-1)
  new = {
    "right": jnp.stack([jax.lax.map(count, s) for s in solutions]),
    "broken": (is_broken & (batch["mask"] > 0)).sum(dtype=jnp.int32),
  }
  return jax.tree.map(jnp.add, counts, parallel.sum(new))


def _mean_and_spread(
  name: str, values: np.ndarray
) -> Iterator[tuple[str, float]]:
  yield name, float(values.mean())
  if len(values) > 1:
    yield f"{name}_std", float(values.std(ddof=1))


def _check_numbers(
  shots: Sequence[int],
  num_seeds: int,
  log2_l2: float,
  log2_l2_sweep: Sequence[float],
  where: str,
) -> None:
  """Raises ValueError for numbers of the config that are out of their range."""
  configuration.check_list(shots, f"{where}.shots")
  configuration.check_list(log2_l2_sweep, f"{where}.log2_l2_sweep")
  whole = all(type(k) is int and k > 0 for k in shots)
  if not shots or not whole or len(set(shots)) < len(shots):
    raise ValueError(
      f"{where}.shots={list(shots)} must be different whole numbers from 1 on."
    )
  configuration.check_number(
    num_seeds, f"{where}.num_seeds", "[1, inf)", whole=True
  )
  # The powers of two that float32 can hold.
  for key, values in (
    ("log2_l2", (log2_l2,)),
    ("log2_l2_sweep", log2_l2_sweep),
  ):
    for value in values:
      configuration.check_number(value, f"{where}.{key}", "[-120, 120]")
