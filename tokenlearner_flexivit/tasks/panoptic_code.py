"""Stage I of panoptic segmentation by UViM: labels as a code, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int, Int32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.data.ops.panoptic import INSTANCES, SEMANTIC
from tokenlearner_flexivit.models import (
  label_coder,
  label_patches,
  vector_quantizer,
)
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import base, panoptic_answers

# Metrics that `PanopticCode.after_step` reads: the batch's words, for the
# codebook, and which codes it has.
_WORDS, _USED = "words", "codes_used"


class PanopticCode(panoptic_answers.PanopticAnswers):
  """Encodes and decodes labels, as `PanopticAnswers` describes them.

  The loss is the mean over the pixels of the softmax cross-entropy of the
  labels, void included, plus that of the instances, in nats. An answer is what
  the code keeps of the true labels, so it needs them, and its quality is the
  ceiling of any model that predicts codes. With `quantizer="vq"` each step also
  moves the codebook (`vector_quantizer.updated`).
  """

  purpose = "coding panoptic labels"

  def __init__(
    self,
    model: Any,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    known_stuff: Sequence[str] | None = None,
    stuff: Sequence[str] | None = None,
    min_fraction: float = 0.0,
    commitment: float = 0.0,
    momentum: float = vector_quantizer.MOMENTUM,
    min_count: float = vector_quantizer.MIN_COUNT,
  ):
    """Builds the task.

    Args:
      model: a `models.LabelCoder`.
      num_classes: of the data.
      class_names: of the data, where they are known.
      known_stuff: names of classes that the data call stuff, or None.
      stuff: names of these classes, in place of what is known.
      min_fraction: of an image: smaller instances become void.
      commitment: for a codebook, weight of the mean squared distance of vectors
        to their words.
      momentum: of the codebook's moving averages.
      min_count: a word of a lower count is replaced by half of the most
        frequent.

    Raises:
      ValueError: an unknown class, a number out of its range, or a model that
        is no `LabelCoder` for so many classes.
    """
    check = configuration.check_number
    check(commitment, "config.task.commitment", "[0, inf)")
    check(momentum, "config.task.momentum", "[0, 1)")
    check(min_count, "config.task.min_count", "(0, inf)")
    if not isinstance(model, models.LabelCoder):
      raise ValueError(
        f"config.model is a {type(model).__name__}, which codes no labels. "
        "Leave config.model.name out for a LabelCoder."
      )
    if model.num_labels != num_classes + 1:
      raise ValueError(
        f"config.model.num_labels={model.num_labels}, but the data have "
        f"{num_classes} classes and void. Leave it out."
      )
    super().__init__(
      model,
      model,
      num_classes,
      class_names,
      known_stuff,
      stuff,
      min_fraction,
    )
    if model.quantizer == "vq":
      self.frozen = (f"{label_coder.CODEBOOK}/.*",)
    self._commitment = commitment
    self._momentum, self._min_count = momentum, min_count
    # Micro-batches would each move the codebook.
    self.is_mean = model.quantizer != "vq"

  @classmethod
  def build_model(cls, section: Mapping[str, Any], **about: Any) -> Any:
    """Returns the model for the labels of the data."""
    # Before the data are opened, any number of classes serves.
    number = about.get("num_classes", 1) + 1
    name = configuration.value(section, "name", "label_coder")
    return models.create(**{"num_labels": number, **section, "name": name})

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that training reads."""
    return self.model.input, SEMANTIC, INSTANCES

  @property
  def answer_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that `predict` reads: labels, too."""
    return self.batch_keys

  def loss(
    self,
    params: Any,
    batch: base.Batch,
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel | None = None,
  ) -> tuple[Float32[Array, ""], tuple[dict[str, Any], label_coder.Logits]]:
    """Returns the loss of a batch, its terms, and the logits.

    `after_step` turns the term `codes_used` [K] into the share of the codes
    that the batch of all devices has.

    Args:
      params: of the model.
      batch: the result of `prepare`.
      key: drives the dropout of codes.
      setting: has no dial.
      parallel: sums over the devices what moves a codebook.
    """
    labels = self.labels(batch)
    logits, out = self._trained(
      params, key, setting, batch[self.model.input], labels
    )
    terms = {
      f"loss_{name}": cross_entropy(logits[name], labels[name], self.model)
      for name in label_coder.MAPS
    }
    loss = sum(terms.values())
    number = self.model.num_codes
    # Its mean over devices and micro-batches is positive for codes of any.
    terms[_USED] = jnp.zeros(number).at[out["code"]].set(1)
    if self.model.quantizer == "vq":
      book = vector_quantizer.Codebook(**params[label_coder.CODEBOOK])
      words = jax.lax.stop_gradient(book.words())[out["code"]]
      distance = ((out["bottleneck"] - words) ** 2).mean()
      terms["loss_commitment"] = distance
      loss += self._commitment * distance
      moved = vector_quantizer.statistics(
        out["bottleneck"], out["code"], number
      )
      terms[_WORDS] = moved if parallel is None else parallel.sum(moved)
    return loss, (terms, logits)

  def after_step(
    self, before: Any, params: Any, metrics: dict[str, Any], key: jax.Array
  ) -> tuple[Any, dict[str, Any]]:
    """Returns the parameters with the codebook moved, and the other metrics."""
    used = (metrics[_USED] > 0).mean(dtype=jnp.float32)
    metrics = {**metrics, _USED: used}
    if _WORDS not in metrics:
      return params, metrics
    book = vector_quantizer.updated(
      vector_quantizer.Codebook(**before[label_coder.CODEBOOK]),
      metrics.pop(_WORDS),
      key,
      self._momentum,
      self._min_count,
    )
    return {**params, label_coder.CODEBOOK: book._asdict()}, metrics

  def predict(
    self, params: Any, batch: base.Batch, setting: dials.Setting
  ) -> dict[str, Int32[Array, "B ..."]]:
    """Returns what the code keeps of the labels of a batch.

    Raises:
      ValueError: the batch has no labels.
    """
    if SEMANTIC not in batch or INSTANCES not in batch:
      raise ValueError(
        "A model of the task 'panoptic_code' encodes true labels, so an image "
        "alone is not enough. The task 'panoptic' trains one that predicts the "
        "code, with config.model.coder naming the run of this one."
      )
    return self.reconstruct(params, batch)

  def reconstruct(
    self, params: Any, batch: base.Batch
  ) -> dict[str, Int32[Array, "B ..."]]:
    """Returns what the code keeps of the labels of a batch."""
    logits, _ = self.model.apply(
      {"params": params}, batch[self.model.input], self.labels(batch)
    )
    return self.answer(logits)


def cross_entropy(
  logits: Float32[Array, "B N kinds p"],
  labels: Int[Array, "B H W"],
  coder: label_coder.LabelCoder,
) -> Float32[Array, ""]:
  """Returns the mean softmax cross-entropy of the pixels of a map."""
  patches = label_patches.patches(labels, coder.patch_size)
  # The gradient of a choice along this axis would be a slow scatter.
  wanted = jax.nn.one_hot(patches, logits.shape[2], axis=2)
  return optax.softmax_cross_entropy(logits, wanted, axis=2).mean()
