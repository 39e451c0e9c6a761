"""The interface of a task, with defaults for most of it."""

import abc
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Float32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.parallel import Parallel, create
from tokenlearner_flexivit.tasks import answers, views

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Program:
  """A program that exports have beside those of the answers.

  Attributes:
    function: of parameters and a batch of inputs.
    shape: of an input, without the axis of the batch.
    dtype: of the inputs.
    does: what it returns, in words.
    about: further entries of the manifest that its users need, JSON values.
  """

  function: Callable[[Any, jax.Array], jax.Array]
  shape: tuple[int, ...]
  dtype: Any
  does: str
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task(answers.Answers, abc.ABC):
  """A task, which defines what a training step optimises.

  A task builds its model, with the head that it needs, declares what a batch
  must hold and what a run must remember about its data, and computes a loss.
  Predictions, exports and model cards get its answers by `predict`, and show
  them by the methods of `Answers`.
  The parameters of its constructor are `model`, the keys that `about` returns,
  and the keys that `config.task` may have beside `name`.

  Attributes:
    headline: the evaluation metric that measures how good the model is.
    remembered: the keys of the dict that `about` returns.
    hub_task: the name that model hubs have for the task, such as
      "image-segmentation"; None if they have none.
    purpose: in "a model for ...", for people; None for the task's name.
    frozen: patterns of parameters that no step changes, as
      `config.optimizer.freeze` has them; `after_step` may.
    is_mean: whether the loss is a mean over examples. Other losses, such as
      those that compare the examples of a batch, cannot be accumulated over
      micro-batches, and no example may be in a batch twice.
    model: the Flax module that is trained.
    batch_keys: the entries of a training batch that the task reads.
    programs: a dict in which evaluators keep the programs that they compile for
      the task, so that all share them.
  """

  headline: ClassVar[str]
  remembered: ClassVar[Sequence[str]] = ()
  hub_task: ClassVar[str | None] = None
  purpose: ClassVar[str | None] = None
  is_mean: ClassVar[bool] = True
  frozen: Sequence[str] = ()

  model: Any
  batch_keys: tuple[str, ...]

  def __init__(self, model: Any):
    """Keeps the model."""
    self.model = model
    self.programs: dict[Any, Any] = {}

  @property
  def headlines(self) -> tuple[str, ...]:
    """Returns the evaluation metrics that measure how good the model is."""
    return (self.headline,)

  @property
  def answer_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that `predict` reads."""
    return (self.model.input,)

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
  def about_again(
    cls,
    before: Mapping[str, Any],
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns `about` for a run that continues from a checkpoint.

    A task need not read again what only the beginning of a run needs.

    Args:
      before: what the run remembers.
      model_section: as `about` takes it.
      data_section: as `about` takes it.
      source: as `about` takes it.
    """
    del before
    return cls.about(model_section, data_section, source)

  @classmethod
  def data_options(cls, **about: Any) -> dict[str, Any]:
    """Returns keys that the run adds to its data sections, which ops may need.

    Args:
      **about: the result of `about`.
    """
    del about
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

  @classmethod
  def public(
    cls, section: Mapping[str, Any], about: Mapping[str, Any]
  ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Returns section and remembered values for whoever gets the model.

    A task leaves out what is of no use but to its training, such as paths.

    Args:
      section: `config.model`.
      about: the result of `about`.
    """
    return section, about

  @classmethod
  def public_options(cls, section: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns `config.task` for whoever gets the model, without paths.

    Args:
      section: `config.task`.
    """
    return section

  def constants(self, parallel: Parallel) -> Any:
    """Returns the arrays that steps read but do not change, on all devices.

    An example are the weights of a teacher. They are read at the first call,
    and each device holds one copy.

    Args:
      parallel: places them on the devices.
    """
    del parallel
    return ()

  def constant_shapes(self) -> Any:
    """Returns the shapes of `constants`, if possible without reading them."""
    return jax.eval_shape(lambda tree: tree, self.constants(create()))

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

  def check_init(
    self, source: str | os.PathLike, fresh: Sequence[str] = ()
  ) -> None:
    """Raises ValueError for weights to start from that the data do not suit.

    Args:
      source: of the weights, `config.init`.
      fresh: beginnings of names of parameters that are not taken from them,
        `config.init_fresh`.
    """
    del source, fresh

  def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> Any:
    """Returns fresh parameters for images [H, W, C] or videos [T, H, W, C]."""
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return jax.jit(self.model.init)(key, images)["params"]

  def complete(self, params: Any) -> Any:
    """Returns parameters to start from, with those that the task reads itself.

    Args:
      params: those of `init` or of `config.init`.
    """
    return params

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

  def after_step(
    self,
    before: Any,
    params: Any,
    metrics: dict[str, Any],
    key: jax.Array,
  ) -> tuple[Any, dict[str, Any]]:
    """Returns parameters and metrics after a step of the optimizer.

    A task may change here what is learned without a gradient.

    Args:
      before: the parameters before the step.
      params: those after it.
      metrics: of the loss, means over the devices; what is no scalar must go.
      key: the same on all devices.
    """
    del before, key
    return params, metrics

  def train_logits(
    self,
    params: Any,
    inputs: Float[Array, "B ..."],
    key: jax.Array,
    setting: dials.Setting,
  ) -> Float32[Array, "B ... C"]:
    """Returns the logits of the model in training mode.

    Args:
      params: of the model.
      inputs: of the model.
      key: drives dropout.
      setting: of the dials.
    """
    logits, _ = self._trained(params, key, setting, inputs)
    return logits.astype(jnp.float32)

  def _trained(
    self,
    params: Any,
    key: jax.Array,
    setting: dials.Setting,
    *inputs: jax.Array,
  ) -> tuple[Any, dict[str, Any]]:
    """Returns the model's answer and intermediates in training."""
    return self.model.apply(
      {"params": params},
      *inputs,
      **setting,
      train=True,
      rngs={"dropout": key},
    )

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
    """Returns the model's answer in evaluation, a pytree of arrays [B, ...].

    It is the mean over the views of examples that have several.
    """

    def answer(inputs: jax.Array) -> Any:
      return self._evaluated(params, inputs, setting)[0]

    return views.average(answer, batch[self.model.input], self.model)

  def in_use(self, params: Any) -> Any:
    """Returns parameters for many calls of `predict`.

    To those of the model it may add what `predict` computes of them alone, such
    as embedded names.
    """
    return params

  def representation(
    self, params: Any, batch: Batch, setting: dials.Setting, name: str
  ) -> Float32[Array, "B D"]:
    """Returns an intermediate of the model in evaluation.

    Args:
      params: of the model.
      batch: has the model's input.
      setting: of the dials.
      name: of an entry of the model's `out`, such as "pre_logits" or
        "encoder/block05/+mlp". If it has axes between the first and the last,
        such as tokens, it is averaged over them.

    Raises:
      ValueError: an unknown name; the error lists the known ones.
    """

    def averaged(inputs: jax.Array) -> jax.Array:
      _, out = self._evaluated(params, inputs, setting)
      out = traverse_util.flatten_dict(out, sep="/")
      value = configuration.choose(name, out, "representation")
      between = tuple(range(1, value.ndim - 1))
      return value.mean(axis=between, dtype=jnp.float32)

    return views.average(averaged, batch[self.model.input], self.model)

  def _evaluated(
    self, params: Any, inputs: jax.Array, setting: dials.Setting
  ) -> tuple[Any, dict[str, Any]]:
    """Returns the model's answer and intermediates in evaluation."""
    return self.model.apply({"params": params}, inputs, **setting, train=False)

  def trained_cost(self, shape: Sequence[int], setting: dials.Setting) -> int:
    """Returns the multiply-adds of an input that training differentiates."""
    return self.model.cost(shape, **setting)

  def untrained_cost(self, shape: Sequence[int]) -> int:
    """Returns those of an input that training computes without gradients."""
    del shape
    return 0

  def further_cost(self, examples: int) -> int:
    """Returns the multiply-adds of an example beside those of its input.

    Args:
      examples: those that share what a program computes once, such as names.
    """
    del examples
    return 0

  def further_programs(self) -> dict[str, Program]:
    """Returns programs that exports have beside that of answers, by name."""
    return {}
