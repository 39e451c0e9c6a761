"""What the rest of the library asks of a task, with defaults for most of it."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.parallel import Parallel

Batch = dict[str, jax.Array]


class Task(abc.ABC):
  """What a training step optimises. The loop is the same for all.

  A task builds its model, with the head that it needs, says what a batch must
  hold and what a run must remember of its data, and computes a loss. The
  parameters of its constructor are `model`, those that `about` gives, and the
  keys that `config.task` may have beside `name`.

  Attributes:
    headline: the metric of an evaluation that says how good the model is at it.
    remembered: the names of what `about` gives.
    is_mean: whether the loss is a mean over examples. One that is none, such as
      of pairs of examples, cannot be accumulated over micro-batches.
    model: the Flax module that is trained.
    batch_keys: the entries of a training batch that the task reads.
    programs: an empty dict, in which evaluators keep what they compile for the
      task, so that all share it.
  """

  headline: ClassVar[str]
  remembered: ClassVar[Sequence[str]] = ()
  is_mean: ClassVar[bool] = True

  model: Any
  batch_keys: tuple[str, ...]

  def __init__(self, model: Any):
    """Keeps the model."""
    self.model = model
    self.programs: dict[Any, Any] = {}

  @classmethod
  def about(
    cls,
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns what a run must remember of its training data, as JSON values.

    Args:
      model_section: `config.model`.
      data_section: `config.data`.
      source: what it names.

    Raises:
      ValueError: the data do not suit the task.
    """
    del model_section, data_section, source
    return {}

  @classmethod
  def build_model(cls, section: Mapping[str, Any], **about: Any) -> Any:
    """Returns the model of `config.model`, with the head that the task needs.

    Args:
      section: `config.model`.
      **about: as `about` gives it; nothing before the data are opened.
    """
    del about
    return models.create(**section)

  def constants(self, parallel: Parallel) -> Any:
    """Returns arrays that every step reads and none changes, on all devices.

    Such as the weights of a teacher. They are read when first asked for, and
    there is one copy on each device.

    Args:
      parallel: places them.
    """
    del parallel
    return ()

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if an example, made by `where`, does not fit."""
    data_lib.check_entries(example, self.batch_keys, where)

  def check_batch(self, batch: dict[str, np.ndarray]) -> None:
    """Raises ValueError if a training batch, on the host, does not fit."""
    del batch

  def check_source(
    self, source: data_lib.Source, example: Mapping[str, Any]
  ) -> None:
    """Raises ValueError for training data that the task cannot learn from.

    Args:
      source: the training data.
      example: the first one, preprocessed.
    """
    del source, example

  def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> Any:
    """Returns fresh parameters for images [H, W, C] or videos [T, H, W, C]."""
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return jax.jit(self.model.init)(key, images)["params"]

  def prepare(
    self,
    batch: Batch,
    key: jax.Array,
    constants: Any = (),
    parallel: Parallel | None = None,
  ) -> Batch:
    """Does once per step what no setting changes, such as labels and mixup.

    It is not differentiated.

    Args:
      batch: has `batch_keys`, leaves [b, ...] of this device.
      key: the same on all devices.
      constants: see `Task.constants`.
      parallel: shares the batch among devices; None for a batch on one.
    """
    del key, constants, parallel
    return {name: batch[name] for name in self.batch_keys}

  @abc.abstractmethod
  def loss(
    self,
    params: Any,
    batch: Batch,
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel | None = None,
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """Returns the loss of this device's prepared batch, and more.

    The step averages it over the devices. A loss that compares examples with
    those of other devices gathers these by `parallel`.

    Args:
      params: of the model.
      batch: see `prepare`.
      key: drives dropout.
      setting: of the dials.
      parallel: shares the batch among devices; None for a batch on one.

    Returns:
      The loss; its metrics (scalars) and the model's answer, a pytree of arrays
      [B, ...], such as logits.
    """

  def imitate(self, batch: Batch, answer: Any) -> Batch:
    """Returns a prepared batch whose targets are a model's answer to it.

    Raises:
      ValueError: answers of this task are no targets.
    """
    del batch, answer
    raise ValueError(
      f"config.flexi.inplace_distillation: {type(self).__name__} cannot learn "
      "from its own answers."
    )

  def predict(self, params: Any, batch: Batch, setting: dials.Setting) -> Any:
    """Returns the model's answer in evaluation, a pytree of arrays [B, ...]."""
    inputs = batch[self.model.input]
    return self.model.apply({"params": params}, inputs, **setting)[0]
