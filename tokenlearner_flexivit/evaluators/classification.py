"""Accuracy, top-5, loss and calibration of every setting in one pass.

If an example has several classes, as in ImageNet-ReaL, each is a right answer.
The loss is that of the task. Its softmax cross-entropy is the sum over the
example's classes, as in big_vision: it grows with their number, so it cannot be
compared with the loss on single labels.

Each batch is read, decoded and sent to the devices once; then every setting's
program runs on it.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float32, Num

from tokenlearner_flexivit.evaluators import base
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import labels as labels_lib

METRICS = {
  "accuracy": Metric("accuracy", "%", is_share=True),
  "top5": Metric("top-5", "%", is_share=True),
  "loss": Metric("loss"),
  "ece": Metric("ECE"),
}
NUM_BINS = 15
# With so many classes or fewer, the right one is always among the first.
TOP = 5


def batch_sums(
  logits: Float[Array, "B C"],
  probabilities: Float[Array, "B C"],
  labels: Float[Array, "B C"],
  losses: Float[Array, " B"],
  mask: Num[Array, " B"],
) -> dict[str, Float32[Array, "..."]]:
  """Sums over the real examples of a batch.

  The expected calibration error (Guo et al., arXiv 1706.04599, equation 3)
  bins examples by the confidence in the predicted class.

  Args:
    logits: of the model.
    probabilities: in [0, 1].
    labels: weights; `labels.right_classes` tells which classes are right. An
      example without any (as some of ImageNet-ReaL) is left out.
    losses: of the examples.
    mask: 1 for a real example, 0 for padding.

  Returns:
    The sums `count`, `correct`, `loss`, with more than five classes `top5`, and
    per confidence bin [15] `bin_confidence` and `bin_correct`.
  """
  right = labels_lib.right_classes(labels)
  mask = mask * right.any(axis=-1)
  _, best = jax.lax.top_k(logits, min(TOP, logits.shape[-1]))
  hits = jnp.take_along_axis(right, best, axis=-1)
  # NaN is no answer.
  hits &= ~jnp.isnan(logits).any(axis=-1, keepdims=True)
  correct = hits[:, 0] * mask
  confidence = probabilities.max(axis=-1)
  bins = jnp.ceil(confidence * NUM_BINS).astype(jnp.int32) - 1
  in_bin = jax.nn.one_hot(jnp.clip(bins, 0, NUM_BINS - 1), NUM_BINS)
  top5 = {"top5": (hits.any(axis=-1) * mask).sum()}
  return {
    **(top5 if logits.shape[-1] > TOP else {}),
    "count": mask.sum(),
    "correct": correct.sum(),
    "loss": jnp.where(mask > 0, losses, 0).sum(),
    # Not a matrix product, whose factors TPUs and newer GPUs would round.
    "bin_confidence": ((confidence * mask)[:, None] * in_bin).sum(axis=0),
    "bin_correct": (correct[:, None] * in_bin).sum(axis=0),
  }


def zero_sums(num_classes: int) -> dict[str, Float32[ArrayLike, "..."]]:
  """Returns the sums over no examples."""
  bins = np.zeros(NUM_BINS, np.float32)
  top5 = ("top5",) if num_classes > TOP else ()
  scalars = dict.fromkeys(("count", "correct", *top5, "loss"), np.float32(0))
  return {**scalars, "bin_confidence": bins, "bin_correct": bins}


def add_sums(
  task: Any, parallel: Parallel, sums: Any, batch: dict[str, jax.Array]
) -> Any:
  """Adds the `batch_sums` of one batch; runs on each device.

  Args:
    task: has `one_hot`, `probabilities` and `example_loss`.
    parallel: adds over the devices.
    sums: those of earlier batches.
    batch: has `logits` [b, C], `label` and `mask`.
  """
  logits, labels = batch["logits"], task.one_hot(batch["label"])
  new = batch_sums(
    logits,
    task.probabilities(logits),
    labels,
    task.example_loss(logits, labels),
    batch["mask"],
  )
  return jax.tree.map(jnp.add, sums, parallel.sum(new))


def metrics_from_sums(
  sums: dict[str, Float32[ArrayLike, "..."]], where: str
) -> dict[str, float]:
  """Returns accuracy, top5, loss (nats), ece and the number of examples.

  The first two are in [0, 1]; `top5` is included if the sums have it.

  Args:
    sums: over all examples.
    where: name of the config section for errors.

  Raises:
    ValueError: no example had a label.
  """
  count = float(sums["count"])
  if not count:
    raise ValueError(
      f"No example of {where}.data has a label, so there is no accuracy. Use "
      "a split with labels."
    )
  gap = np.abs(sums["bin_confidence"] - sums["bin_correct"]).sum()
  top5 = {"top5": float(sums["top5"]) / count} if "top5" in sums else {}
  return {
    "accuracy": float(sums["correct"]) / count,
    **top5,
    "loss": float(sums["loss"]) / count,
    "ece": float(gap) / count,
    "examples": count,
  }


class Evaluator(base.Evaluator):
  """An evaluator of a classification task.

  Attributes:
    settings: the settings that are evaluated.
    image_shape: (H, W, C), of videos (T, H, W, C).
    headline: the metric that settings are compared by.
  """

  metrics = METRICS
  headline = "accuracy"
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
      ValueError: no examples, or a setting that does not fit the images.
    """
    super().__init__(context)
    self._open_labelled(data)
    self._logits = self._answer_programs()
    self._add = self._program(
      "classification", functools.partial(add_sums, self._task, self._parallel)
    )

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields `{setting.name}/{accuracy,top5,loss,ece,examples}`.

    `top5` is left out for five classes or fewer.

    Raises:
      ValueError: a label is invalid, or no example has one.
    """
    zeros = self._parallel.place(zero_sums(self._task.num_classes))
    sums = dict.fromkeys(self.settings, zeros)
    for batch in self._images:
      inputs, labels = self._inputs(batch), self._labels(batch)
      for setting, logits in self._logits.items():
        answers = {**labels, "logits": logits(params, inputs)}
        sums[setting] = self._add(sums[setting], answers)
    for setting, setting_sums in sums.items():
      metrics = metrics_from_sums(jax.device_get(setting_sums), self._where)
      for name, value in metrics.items():
        yield f"{setting.name}/{name}", value

  def _timed(self, params):
    return self._logits, (params, self._inputs(next(iter(self._images))))
