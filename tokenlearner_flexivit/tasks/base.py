"""The interface of a task, with defaults for most of it."""

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
  """A task, which defines what a training step optimises.

  A task builds its model, with the head that it needs, declares what a batch
  must hold and what a run must remember about its data, and computes a loss.
  The parameters of its constructor are `model`, the keys that `about` returns,
  and the keys that `config.task` may have beside `name`.

  Attributes:
    headline: the evaluation metric that measures how good the model is.
    remembered: the keys of the dict that `about` returns.
    is_mean: whether the loss is a mean over examples. Other losses, such as
      those of pairs of examples, cannot be accumulated over micro-batches.
    model: the Flax module that is trained.
    batch_keys: the entries of a training batch that the task reads.
    programs: a dict in which evaluators keep the programs that they compile for
      the task, so that all share them.
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
    """Returns what a run must remember about its training data, as JSON values.

    Args:
      model_section: `config.model`.
      data_section: `config.data`.
      source: the data that this section names.

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
      **about: the result of `about`; nothing before the data are opened.
    """
    del about
    return models.create(**section)

  def constants(self, parallel: Parallel) -> Any:
    """Returns the arrays that steps read but do not change, on all devices.

    An example are the weights of a teacher. They are read at the first call,
    and each device holds one copy.

    Args:
      parallel: places them on the devices.
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
    """Prepares a batch once per step, independent of settings, such as mixup.

    It is not differentiated.

    Args:
      batch: has `batch_keys`, leaves [b, ...] of this device.
      key: the same on all devices.
      constants: the result of `Task.constants`.
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
    """Returns the loss, metrics and answers of this device's prepared batch.

    The step averages it over the devices. A loss that compares examples with
    those of other devices gathers these by `parallel`.

    Args:
      params: of the model.
      batch: the result of `prepare`.
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
      ValueError: answers of this task cannot serve as targets.
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
