"""Mean average precision for examples that may have several classes.

The definition is that of Charades (`Charades_v1_classify.m`): the examples
are ranked by the score of a class; its average precision (AP) is the mean, over
the examples that have the class, of the precision down to each of them; mAP is
the mean over the classes. Examples without any class come last in all rankings,
whatever their scores, so that they make no class less precise. Ports of that
program to Python (`charades_map`) do the same by setting their scores to -inf.
The loss includes them. Charades leaves these points open:

* Examples of equal score form one step of the ranking, so that their order does
  not matter, as in scikit-learn.
* With a single class, examples without it are the negatives, so all are ranked.
* A class that no example has is left out of the mean. In the program of
  Charades, which has no such class, it would make the mAP NaN.

Each batch is read, decoded and sent to the devices once; then every setting's
program runs on it. All scores are kept, 8 bytes per example and class with the
labels, so that the result does not depend on batches, devices or hosts.
"""

import functools
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.evaluators import base
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.tasks import labels as labels_lib


def average_precision(
  scores: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]
) -> float:
  """Returns the average precision of one class, NaN if no example has it.

  Args:
    scores: higher for examples that more likely have the class.
    positive: which examples have the class.
  """
  if not positive.any():
    return float("nan")
  from sklearn import metrics  # Importing it takes a while.

  return float(metrics.average_precision_score(positive, scores))


class Evaluator(base.Evaluator):
  """An evaluator of a classification task with a sigmoid loss.

  Attributes:
    settings: the settings that are evaluated.
    image_shape: (H, W, C), of videos (T, H, W, C).
    headline: the metric that settings are compared by.
  """

  metrics = MappingProxyType(
    {"mAP": Metric("mAP", "%"), "loss": Metric("loss")}
  )
  headline = "mAP"
  for_several = True
  needs = ("one_hot",)

  def __init__(
    self,
    context: base.Context,
    data: dict[str, Any],
  ):
    """Opens the data and checks that every setting fits it.

    Args:
      context: with a task that has `predict`, `one_hot`, `probabilities`,
        `example_loss` and `check_labels`.
      data: the data section of the config.

    Raises:
      ValueError: the task's classes exclude one another, there are no examples,
        or a setting does not fit the images.
    """
    super().__init__(context)
    task, where = context.task, context.where
    if task.probabilities is not jax.nn.sigmoid:
      raise ValueError(
        f"{where}: average precision needs classes that do not exclude one "
        "another. Set config.task.loss='sigmoid_xent', or "
        f"{where}.type='classification'."
      )
    source = self._open_labelled(data)
    _, names = data_lib.classes(data, source)
    self._names = names or range(task.num_classes)
    self._logits = self._answer_programs()
    self._gather = self._program(
      "multilabel", functools.partial(_everywhere, task, self._parallel)
    )

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields `{setting.name}/mAP`, `/loss`, `/examples`, `/AP/{class}`.

    `examples` counts those with a label, even if it has no class; the loss is
    their mean.

    Raises:
      ValueError: a label is invalid, no example has a class, or answers are not
        finite.
    """
    kept = {setting: [] for setting in self.settings}
    nothing = self._nothing()
    for batch in self._images:
      inputs, labels = self._inputs(batch), self._labels(batch)
      for setting, logits in self._logits.items():
        answers = {**labels, "logits": logits(params, inputs)}
        answers = jax.device_get(self._gather(nothing, answers))
        is_real = answers.pop("is_real")
        kept[setting].append({k: v[is_real] for k, v in answers.items()})
    for setting, batches in kept.items():
      rows = jax.tree.map(lambda *x: np.concatenate(x), *batches)
      if not np.isfinite(rows["scores"]).all():
        raise ValueError(
          f"{self._where}: the answers at {setting.name} are not finite, so "
          "they have no order. The training has diverged."
        )
      # Leaving examples out is equivalent to ranking them last.
      ranked = rows["labels"].any(axis=1) | (rows["labels"].shape[1] == 1)
      scores, labels = rows["scores"][ranked], rows["labels"][ranked]
      precisions = {
        name: average_precision(scores[:, i], labels[:, i])
        for i, name in enumerate(self._names)
      }
      precisions = {k: value for k, value in precisions.items() if value >= 0}
      if not precisions:
        raise ValueError(
          f"No example of {self._where}.data has any of the classes, so there "
          "is no average precision. Use a split with labels."
        )
      yield f"{setting.name}/mAP", float(np.mean(list(precisions.values())))
      yield f"{setting.name}/loss", float(rows["losses"].mean())
      yield f"{setting.name}/examples", len(ranked)
      for name, value in precisions.items():
        yield f"{setting.name}/AP/{name}", value

  def _timed(self, params):
    return self._logits, (params, self._inputs(next(iter(self._images))))


def _everywhere(task, parallel, _, batch):
  """Returns the scores, labels and losses of all devices; runs on each."""
  labels, is_real = batch["label"], batch["mask"] > 0
  if labels_lib.are_numbers(labels):
    is_real &= labels >= 0  # A negative label means that nothing is known.
  labels = task.one_hot(labels)
  kept = {
    # Logits keep the order of the probabilities, and do not saturate at 1.
    "scores": batch["logits"],
    "labels": labels_lib.right_classes(labels),
    "losses": task.example_loss(batch["logits"], labels),
    "is_real": is_real,
  }
  return parallel.gather(kept)
