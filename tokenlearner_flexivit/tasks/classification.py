"""Supervised classification with softmax or sigmoid cross-entropy."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Shaped

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import base, views
from tokenlearner_flexivit.tasks import labels as labels_lib
from tokenlearner_flexivit.tasks import mixup as mixup_lib


def softmax_xent(
  logits: Float[Array, "B C"], labels: Float[Array, "B C"]
) -> Float[Array, " B"]:
  """Returns the softmax cross-entropy in nats."""
  return optax.softmax_cross_entropy(logits, labels)


def sigmoid_xent(
  logits: Float[Array, "B C"], labels: Float[Array, "B C"]
) -> Float[Array, " B"]:
  """Returns the sigmoid cross-entropy in nats, summed over the classes."""
  return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)


LOSSES = {"softmax_xent": softmax_xent, "sigmoid_xent": sigmoid_xent}
LINKS = {"softmax_xent": jax.nn.softmax, "sigmoid_xent": jax.nn.sigmoid}


class Classification(base.Task):
  """Classifies `batch["image"]` [B, H, W, C] by `batch["label"]`.

  A model for videos reads `batch["video"]` [B, T, H, W, C] instead. Evaluation
  may give several views of each, [B, views, ...], which `views.average` uses.

  Labels are class numbers [B], or weights of the classes [B, C] in [0, 1]
  (one-hot, multi-hot, smoothed, soft).

  Attributes:
    model: the Flax module.
    num_classes: C.
    class_names: of the training data; None where they are not known.
    probabilities: the link from logits to probabilities, [B, C] -> [B, C].
    programs: as in `base.Task`.
  """

  headline = "accuracy"
  remembered = ("num_classes", "class_names")

  def __init__(
    self,
    model: Any,
    num_classes: int,
    loss: str = "softmax_xent",
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    class_names: Sequence[str] | None = None,
  ):
    """Builds the task.

    Args:
      model: its call returns (logits, out).
      num_classes: the number of classes of the data.
      loss: "softmax_xent" or "sigmoid_xent".
      label_smoothing: share of the label spread evenly over the classes,
        in [0, 1).
      mixup_alpha: parameter of mixup's Beta distribution; 0 for none.
      class_names: of the data, where they are known.

    Raises:
      ValueError: an unknown loss, or a number out of its range.
    """
    check_number = configuration.check_number
    check_number(label_smoothing, "config.task.label_smoothing", "[0, 1)")
    check_number(mixup_alpha, "config.task.mixup_alpha", "[0, inf)")
    super().__init__(model)
    self.num_classes = num_classes
    self.class_names = class_names
    self._xent = configuration.choose(loss, LOSSES, "config.task.loss")
    self.probabilities = LINKS[loss]
    self._label_smoothing = label_smoothing
    self._mixup_alpha = mixup_alpha

  @classmethod
  def about(
    cls,
    model_section: Mapping[str, Any],
    data_section: Mapping[str, Any],
    source: data_lib.Source,
  ) -> dict[str, Any]:
    """Returns `num_classes` and `class_names`, as `base.Task.about` asks."""
    count, class_names = data_lib.classes(data_section, source, "config.data")
    num_classes = model_section.get("num_classes")
    num_classes = num_classes or count or source.num_classes
    name = data_section["name"]
    if num_classes is None:
      raise ValueError(
        f"The dataset {name!r} does not tell its number of classes; set "
        "config.model.num_classes."
      )
    if num_classes < (count or 0):
      raise ValueError(
        f"config.model.num_classes={num_classes} is too small: the dataset "
        f"{name!r} has {count} classes."
      )
    return {"num_classes": num_classes, "class_names": class_names}

  @classmethod
  def build_model(cls, section: Mapping[str, Any], **about: Any) -> Any:
    """Returns the model with a head for the classes."""
    # Before the data are opened, any number of classes serves.
    number = about.get("num_classes") or section.get("num_classes") or 2
    return models.create(**{**section, "num_classes": number})

  @property
  def headlines(self) -> tuple[str, ...]:
    """Returns accuracy; for classes that may be several, mAP as well."""
    several = ("mAP",) if self.probabilities is jax.nn.sigmoid else ()
    return (self.headline, *several)

  @property
  def hub_task(self) -> str:
    """Returns the name that model hubs have for the task."""
    return f"{self.model.input}-classification"

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that training reads."""
    return self.model.input, "label"

  def one_hot(self, labels: Shaped[Array, "B ..."]) -> Float32[Array, "B C"]:
    """Returns labels as weights of the classes.

    Numbers of no class, such as -1, give zeros.
    """
    if labels_lib.are_numbers(labels):
      return jax.nn.one_hot(labels.astype(jnp.int32), self.num_classes)
    return labels.astype(jnp.float32)

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if an example, made by `where`, does not fit."""
    super().check(example, where)
    views.check_single(example, self.model, where)
    if "label" in self.batch_keys:
      labels = np.asarray(example["label"])[None]
      labels_lib.check(labels, self.num_classes, where, may_lack=False)

  def check_source(
    self, source: data_lib.Source, example: Mapping[str, Any]
  ) -> None:
    """Raises ValueError for a single class, or several under a softmax."""
    if self.probabilities is not jax.nn.softmax:
      return
    # Or an op has chosen one of the classes.
    label = np.asarray(example["label"] if "label" in self.batch_keys else 0)
    is_vector = label.ndim == 1
    # Such as those of several entries, which `multihot` joins.
    is_several = is_vector and labels_lib.are_several(label)
    if is_several or (source.has_several and is_vector):
      raise ValueError(
        f"Examples of {source.name} may have several classes, but "
        "config.task.loss='softmax_xent' is for exactly one. Set "
        "config.task.loss='sigmoid_xent', and type='multilabel' in "
        "config.evals."
      )
    if self.num_classes == 1:
      raise ValueError(
        f"{source.name} has a single class, so there is nothing to learn. "
        "Perhaps its path is one level too high or too low: it must hold one "
        "folder per class. To learn whether or not something is there, set "
        "config.task.loss='sigmoid_xent'."
      )

  def check_batch(self, batch: dict[str, np.ndarray]) -> None:
    """Raises ValueError if labels of a training batch are invalid."""
    if "label" in self.batch_keys:
      labels_lib.check(
        batch["label"],
        self.num_classes,
        "config.data",
        may_lack=False,
        may_be_zero=self.probabilities is jax.nn.sigmoid,
      )

  def check_labels(self, labels: np.ndarray, where: str) -> None:
    """Raises ValueError if labels of an evaluation are invalid.

    Args:
      labels: [B] or [B, C]. A negative number says that an example has none,
        and is allowed.
      where: the source of the labels, for errors.
    """
    labels_lib.check(labels, self.num_classes, where, may_lack=True)

  def prepare(
    self,
    batch: dict[str, jax.Array],
    key: jax.Array,
    constants: Any = (),
    parallel: Parallel | None = None,
  ) -> dict[str, jax.Array]:
    """Smooths the labels and mixes the batch; done once per step.

    Args:
      batch: has `batch_keys`, leaves [b, ...] of this device.
      key: of mixup, the same on all devices.
      constants: the result of `constants`, empty for this task.
      parallel: shares the batch among devices; None for a batch on one.

    Returns:
      The entries of `batch_keys`, labels as weights of the classes [b, C].
    """
    batch = super().prepare(batch, key, constants, parallel)
    if "label" in batch:
      labels = self.one_hot(batch["label"])
      if self._label_smoothing:
        labels = optax.smooth_labels(labels, self._label_smoothing)
      batch["label"] = labels
    if self._mixup_alpha:
      batch = mixup_lib.mixup(batch, key, self._mixup_alpha, batch, parallel)
    return batch

  def loss(
    self,
    params: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel | None = None,
  ) -> tuple[
    Float32[Array, ""], tuple[dict[str, jax.Array], Float32[Array, "B C"]]
  ]:
    """Returns the mean loss of a prepared batch, no metrics, and the logits.

    Args:
      params: of the model.
      batch: the result of `prepare`.
      key: drives dropout.
      setting: of the dials.
      parallel: not used, since the step averages over the devices.
    """
    del parallel
    logits = self.train_logits(params, batch[self.model.input], key, setting)
    return self.example_loss(logits, batch["label"]).mean(), ({}, logits)

  def imitate(
    self, batch: dict[str, jax.Array], answer: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns the batch with the probabilities of logits as its labels."""
    return {**batch, "label": self.probabilities(answer)}

  def example_loss(
    self, logits: Float[Array, "B C"], labels: Float[Array, "B C"]
  ) -> Float32[Array, " B"]:
    """Returns the loss of each example in nats."""
    return self._xent(logits.astype(jnp.float32), labels)
