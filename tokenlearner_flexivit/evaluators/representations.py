"""The base of evaluators that classify by the representations of two splits."""

import abc
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.data import shared_examples
from tokenlearner_flexivit.evaluators import base
from tokenlearner_flexivit.evaluators import images as images_lib
from tokenlearner_flexivit.evaluators import shots as shots_lib


class Evaluator(base.Evaluator):
  """An evaluator that learns from one split and classifies another.

  Attributes:
    settings: the settings that are evaluated.
    sources: the train split and the test split.
    image_shape: (H, W, C), of videos (T, H, W, C).
  """

  def __init__(
    self,
    context: base.Context,
    data: dict[str, Any],
    train_split: str,
    test_split: str,
    label_key: str,
    representation: str,
  ):
    """Opens the data and makes the programs.

    Args:
      context: with a task that has `representation`.
      data: the data section of the config, without `split`.
      train_split: is learned from.
      test_split: all its examples are classified.
      label_key: the entry of the dataset's examples that is to be predicted
        from the image. A negative value means that the example has no label.
      representation: an entry of the model's `out`, such as "encoded" or
        "encoder/block05/+mlp". Tokens are averaged.

    Raises:
      ValueError: a split is empty, or a label or a representation unknown, the
        splits share examples or have other classes, or a setting does not fit
        the images.
    """
    task, where = context.task, context.where
    if data.get("split") is not None:
      raise ValueError(
        f"{where}.data.split: this evaluation needs two splits. Set "
        f"{where}.train_split and {where}.test_split instead."
      )
    for key, value in (
      ("train_split", train_split),
      ("test_split", test_split),
      ("label_key", label_key),
    ):
      configuration.check_text(value, f"{where}.{key}")
    shared = ValueError(
      f"{where}.train_split={train_split!r} and {where}.test_split="
      f"{test_split!r} share examples: what is learned from would be tested "
      "on. Give two that share none, such as 'train[:80%]' and 'train[80%:]'."
    )
    if shared_examples.overlap(train_split, test_split):
      raise shared
    super().__init__(context)
    self._representation = representation
    self._label_key = label_key
    self._train_data = {**data, "split": train_split}
    test_data = {**data, "split": test_split}
    self.sources = tuple(
      data_lib.open_source(section, f"{where}.data")
      for section in (self._train_data, test_data)
    )
    # Now that the number of examples is known.
    if shared_examples.shared(*(source.parts for source in self.sources)):
      raise shared
    shots_lib.check(*self.sources, label_key, where)
    self._test = self._open(
      test_data,
      self.sources[1],
      entries=(),
      labels=lambda: self._test_labels,
    )
    self.image_shape = self._test.shape
    self._check_representation(where)
    self._represent = {
      setting: self._program(
        ("representation", representation, setting),
        functools.partial(_features, task, setting, representation),
        sharded_output=True,
      )
      for setting in self.settings
    }

  @classmethod
  def check(cls, section: Mapping[str, Any], where: str) -> None:
    """Raises ValueError as the base does; the splits are keys of their own."""
    for default in ("train", "test"):
      key = f"{default}_split"
      split = section.get(key, default)
      configuration.check_text(split, f"{where}.{key}")
      data = {**section["data"], "split": split}
      data_lib.check_section(data, f"{where}.data", f"{where}.{key}")

  @property
  @abc.abstractmethod
  def _test_labels(self) -> Sequence[int]:
    """Returns the class of each example of the test split, or -1."""

  @property
  @abc.abstractmethod
  def _train(self) -> images_lib.Images:
    """Returns the images that are learned from."""

  def _read_labels_early(self) -> None:
    """Reads all labels, if they are at hand; else looks for one of each split.

    It reports errors now rather than in the first evaluation.
    """
    if all(source.has_labels_at_hand for source in self.sources):
      self._train  # noqa: B018
    else:
      for source in self.sources:
        self._check_some_known(
          source, lambda i, s=source: s[i][self._label_key]
        )

  def _check_representation(self, where: str) -> None:
    """Raises ValueError if the model has no representation of that name."""
    key, shape = jax.random.key(0), self.image_shape
    params = jax.eval_shape(lambda: self._task.init(key, shape))
    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    batch = {self._task.model.input: inputs}
    represent = functools.partial(
      self._task.representation,
      setting=self.settings[0],
      name=self._representation,
    )
    try:
      jax.eval_shape(represent, params, batch)
    except ValueError as error:
      raise ValueError(f"{where}: {error}") from error

  def _features(
    self, params: Any, batch: base.Batch
  ) -> Iterator[tuple[dials.Setting, base.Batch]]:
    """Yields for each setting the representations, with labels and mask."""
    inputs, labels = self._inputs(batch), self._labels(batch)
    for setting, represent in self._represent.items():
      yield setting, {**labels, "features": represent(params, inputs)}

  def _not_finite(self, setting: dials.Setting) -> ValueError:
    """Returns the error about representations that cannot be classified."""
    return ValueError(
      f"{self._where}: the representations at {setting.name} are not finite. "
      "The training has diverged."
    )

  def _timed(self, params):
    return self._represent, (params, self._inputs(next(iter(self._test))))


def _features(task, setting, name, params, batch):
  """Returns representations; runs on each device."""
  return task.representation(params, batch, setting, name)


def labels(batch: base.Batch) -> jax.Array:
  """Returns the labels of a batch, -1 for padding."""
  return jnp.where(batch["mask"] > 0, batch["label"], -1)
