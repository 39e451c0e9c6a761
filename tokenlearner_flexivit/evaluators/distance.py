"""The distance of a student from its teachers, for every setting in one pass.

Each batch is read, decoded and sent to the devices once, and the teachers
answer it once, at their own resolution and patch size. The measures are those
of big_vision's `evaluators/proj/distill/distance.py`, means over the examples:

* `kl`: KL(teacher || student) in nats; or `binary_kl`, summed over the classes,
  if these do not exclude one another.
* `agree1`, `agree5`: the share of examples for which the teacher's most likely
  class is the first, or among the first five, of the student. `agree5` is left
  out for five classes or fewer, where it is always 1.
* `logsoftmax_euclidean`: the L2 norm of the difference of the logarithms of the
  softmax. It weighs the unlikely classes as much as the likely.

They compare the models' answers at temperature 1, whatever that of training.
The probabilities of several teachers are averaged.
"""

import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.evaluators import base, classification, mixture
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.tasks import distillation
from tokenlearner_flexivit.tasks import teachers as teachers_lib


def distances(
  logits: Float32[Array, "B C"],
  teacher_logits: Float32[Array, "B C"],
  name: str,
) -> dict[str, Float32[Array, " B"]]:
  """Returns the `measures` of each example.

  Args:
    logits: the student's.
    teacher_logits: the mean of the teachers'.
    name: a key of `distillation.DISTANCES`.
  """
  divergence, link = distillation.DISTANCES[name]
  num_classes = logits.shape[-1]
  _, best = jax.lax.top_k(logits, min(classification.TOP, num_classes))
  agree = best == jnp.argmax(teacher_logits, axis=-1, keepdims=True)
  # NaN is no answer.
  for answer in (logits, teacher_logits):
    agree &= ~jnp.isnan(answer).any(axis=-1, keepdims=True)
  difference = jax.nn.log_softmax(logits) - jax.nn.log_softmax(teacher_logits)
  values = {
    name: divergence(link(teacher_logits), logits),
    "agree1": agree[:, 0].astype(jnp.float32),
    "agree5": agree.any(axis=-1).astype(jnp.float32),
    "logsoftmax_euclidean": jnp.linalg.norm(difference, axis=-1),
  }
  return {key: values[key] for key in measures(name, num_classes)}


def measures(name: str, num_classes: int) -> tuple[str, ...]:
  """Returns the names of the `distances`, with `agree5` above five classes."""
  agree5 = ("agree5",) if num_classes > classification.TOP else ()
  return (name, "agree1", *agree5, "logsoftmax_euclidean")


def default_distance(task: Any) -> str:
  """Returns the name of the distance that suits a task.

  A distillation names its own; for other tasks the link to probabilities
  decides.
  """
  if isinstance(task, distillation.Distillation):
    return task.distance
  return next(
    name
    for name, (_, link) in distillation.DISTANCES.items()
    if link is task.probabilities
  )


class Evaluator(base.Evaluator):
  """An evaluator that compares a classification model with teachers.

  For the task's teachers it uses the weights that the training holds on the
  devices. Those of its own teachers are on the devices only while it runs.

  Attributes:
    settings: the settings that are evaluated.
    image_shape: (H, W, C) or (T, H, W, C) of what the student sees.
    headline: the metric that settings are compared by.
  """

  # The metrics of classification are shown for the teachers.
  metrics = MappingProxyType(
    {
      "agree1": Metric("agree@1", "%", is_share=True),
      "agree5": Metric("agree@5", "%", is_share=True),
      "kl": Metric("KL"),
      "binary_kl": Metric("binary KL"),
      "logsoftmax_euclidean": Metric("log-softmax L2"),
      **classification.METRICS,
    }
  )
  headline = "agree1"
  needs = ("one_hot",)

  def __init__(
    self,
    context: base.Context,
    data: dict[str, Any],
    teachers: Mapping[str, Mapping[str, Any]] | None = None,
  ):
    """Opens the data and checks that it fits the student and the teachers.

    Args:
      context: with a task that is a classification, or a distillation.
      data: the data section of the config. Examples need no label; if they
        have one, the teachers' accuracy is measured too.
      teachers: as in `config.task.teachers` of a distillation; None for those
        of the task. Their weights are read here, to check that they fit.

    Raises:
      ValueError: no teacher, one that does not fit the student or the data, no
        examples, a model of one class, or a setting that does not fit the
        images.
    """
    super().__init__(context)
    task, where = context.task, context.where
    self._check_several_classes()
    self._distance = default_distance(task)
    if teachers is not None:
      self._teachers = teachers_lib.create_teachers(
        teachers, task.num_classes, f"{where}.teachers", context.class_names
      )
    elif isinstance(task, distillation.Distillation):
      self._teachers = task.teachers
    else:
      raise ValueError(
        f"{where} needs teachers, in the form of config.task.teachers of a "
        "distillation: this run trains without."
      )
    source = data_lib.open_source(data, f"{where}.data")
    self.sources = (source,)
    self._images = self._open(
      data,
      source,
      entries=[teacher.image for teacher in self._teachers],
      optional=("label",),
      check_labels=task.check_labels,
    )
    for teacher in self._teachers:
      try:
        teacher.check(self._images.example)
      except ValueError as error:
        raise ValueError(f"{where}.data.pp: {error}") from error
      teacher.warn_of_other_values(data["pp"], f"{where}.data.pp")
    self._has_labels = "label" in self._images.example
    if self._has_labels:
      self._check_classes(data, source)
    self.image_shape = self._images.shape
    self._own_weights = None
    if teachers is not None:
      self._own_weights = tuple(teacher.load() for teacher in self._teachers)
    for teacher, weights in zip(self._teachers, self._weights(), strict=True):
      seen = self._images.example[teacher.image][None]
      jax.eval_shape(teacher.logits, weights, seen)  # Checks that it fits.
    self._logits = self._answer_programs()
    # The function keeps the teachers alive, so that no others get their ids.
    self._ask = self._program(
      ("teachers", *map(id, self._teachers)),
      functools.partial(_answers, self._teachers),
      sharded_output=True,
    )
    self._add = self._program(
      ("distance", self._distance),
      functools.partial(_add, self._distance, self._parallel),
    )
    self._add_teacher = self._program(
      "teachers' accuracy",
      functools.partial(_add_teacher, task, self._parallel),
    )

  def _weights(self) -> tuple[Any, ...]:
    """Returns the weights of the teachers, those of the task on the devices."""
    if self._own_weights is None:
      return self._task.constants(self._parallel)
    return self._own_weights

  def _zeros(self):
    names = measures(self._distance, self._task.num_classes)
    zeros = dict.fromkeys(names, np.float32(0))
    return self._parallel.place(zeros)

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields the distances of each setting, and metrics of the teachers.

    These are `{setting.name}/{kl,agree1,agree5,logsoftmax_euclidean,examples}`
    (or `binary_kl`) and, if any example has a label,
    `teacher/{accuracy,top5,loss,ece,examples}` over those with one.

    Raises:
      ValueError: a label is invalid.
    """
    weights = self._weights()
    if self._own_weights is not None:
      weights = self._parallel.place(weights)
    sums = dict.fromkeys(self.settings, self._zeros())
    teacher_sums = self._parallel.place(
      classification.zero_sums(self._task.num_classes)
    )
    for batch in self._images:
      seen = {teacher.image: batch[teacher.image] for teacher in self._teachers}
      known = {**self._labels(batch), "answers": self._ask(weights, seen)}
      if self._has_labels:
        teacher_sums = self._add_teacher(teacher_sums, known)
      known.pop("label", None)
      for setting, logits in self._logits.items():
        answers = {**known, "logits": logits(params, self._inputs(batch))}
        sums[setting] = self._add(sums[setting], answers)
    examples = self._images.num_examples
    for setting in self.settings:
      for name, value in jax.device_get(sums[setting]).items():
        yield f"{setting.name}/{name}", float(value) / examples
      yield f"{setting.name}/examples", examples
    teacher_sums = jax.device_get(teacher_sums)
    if teacher_sums["count"]:
      metrics = classification.metrics_from_sums(teacher_sums, self._where)
      for name, value in metrics.items():
        yield f"teacher/{name}", value

  def _timed(self, params):
    return self._logits, (params, self._inputs(next(iter(self._images))))


def _answers(teachers, weights, batch):
  """Returns the logits of all teachers [b, N, C]; runs on each device."""
  answers = [
    teacher.logits(params, batch[teacher.image])
    for teacher, params in zip(teachers, weights, strict=True)
  ]
  return jnp.stack(answers, axis=1)


def _add(distance, parallel, sums, batch):
  """Adds the distances of one batch; runs on each device."""
  _, link = distillation.DISTANCES[distance]
  teacher_logits = mixture.mean_logits(batch["answers"], link)
  new = distances(batch["logits"], teacher_logits, distance)
  return base.add_real(parallel, sums, new, batch["mask"])


def _add_teacher(task, parallel, sums, batch):
  """Adds the teachers' right answers of one batch; runs on each device."""
  # The task's own link: the loss on labels may need another than the distance.
  logits = mixture.mean_logits(batch["answers"], task.probabilities)
  return classification.add_sums(
    task, parallel, sums, {**batch, "logits": logits}
  )
