"""Tasks: what a training step optimises. The loop is the same for all.

To add a task, write a module here with a class that has the members of
`Task`, and name it in `TASKS`. Its constructor is given `model`, `num_classes`
and `class_names`; its other keyword parameters are the keys that `config.task`
may have beside `name`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import classification, distillation

Batch = dict[str, jax.Array]


class Task(Protocol):
  """What the training step needs of a task.

  Attributes:
    model: the Flax module that is trained.
    headline: the metric of an evaluation that says how good the model is at it.
    batch_keys: the entries of a training batch that the task reads.
    programs: an empty dict, in which evaluators keep what they compile for the
      task, so that all share it.
  """

  model: Any
  headline: str
  batch_keys: tuple[str, ...]
  programs: dict[Any, Any]

  def constants(self, parallel: Parallel) -> Any:
    """Returns arrays that every step reads and none changes, on all devices.

    Such as the weights of a teacher. They are read when first asked for, and
    there is one copy on each device.

    Args:
      parallel: places them.
    """

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if a preprocessed training example does not fit."""

  def check_batch(self, batch: dict[str, np.ndarray]) -> None:
    """Raises ValueError if a training batch, on the host, does not fit."""

  def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> Any:
    """Returns fresh parameters for images [H, W, C] or videos [T, H, W, C]."""

  def prepare(
    self,
    batch: Batch,
    key: jax.Array,
    constants: Any,
    parallel: Parallel | None = None,
  ) -> Batch:
    """Does once per step what no patch size changes: labels, mixup, teacher.

    It is not differentiated.
    """

  def loss(
    self,
    params: Any,
    batch: Batch,
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel,
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """Returns the loss of this device's prepared batch, and more.

    The step averages it over the devices. A loss that compares examples with
    those of other devices gathers these by `parallel`.

    Returns:
      The loss; its metrics (scalars) and the model's answer, a pytree of arrays
      [B, ...], such as logits.
    """

  def imitate(self, batch: Batch, answer: Any) -> Batch:
    """Returns a prepared batch whose targets are a model's answer to it."""

  def predict(self, params: Any, batch: Batch, setting: dials.Setting) -> Any:
    """Returns the model's answer in evaluation, such as logits [B, C]."""


TASKS = {
  "classification": classification.Classification,
  "distillation": distillation.Distillation,
}


def _read(section: ml_collections.ConfigDict) -> tuple[Any, dict[str, Any]]:
  """Returns the class that `config.task` names, and its other keys."""
  arguments = dict(section)
  name = arguments.pop("name", None) or "classification"
  return configuration.choose(name, TASKS, "config.task.name"), arguments


def check(section: ml_collections.ConfigDict) -> None:
  """Raises ValueError for keys of `config.task` that are unknown or missing."""
  provided = ("model", "num_classes", "class_names")
  configuration.check_call(*_read(section), "config.task", provided)


def create(
  section: ml_collections.ConfigDict,
  *,
  model: Any,
  num_classes: int,
  class_names: Sequence[str] | None = None,
) -> Task:
  """Builds the task that `config.task` names, with its other keys.

  Args:
    section: of the config.
    model: the Flax module.
    num_classes: of the training data.
    class_names: likewise; None where they are not known.
  """
  return configuration.call(
    *_read(section),
    "config.task",
    model=model,
    num_classes=num_classes,
    class_names=class_names,
  )
