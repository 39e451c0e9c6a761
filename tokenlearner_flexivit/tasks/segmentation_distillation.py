"""Distillation of segmentations: the soft masks of frozen teachers.

As in `distillation`, teachers of small patches answer once per step, and the
student learns their probabilities at the step's patch size, here at each pixel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.data.ops.geometry import IGNORE
from tokenlearner_flexivit.models import bilinear
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import base, distillation, segmentation
from tokenlearner_flexivit.tasks.teachers import Taught


class SegmentationDistillation(Taught, segmentation.Segmentation):
  """A segmentation that learns from teachers rather than masks.

  The loss is the mean over all pixels of T^2 KL(mean_i p_i || q), where p_i and
  q are the probabilities of teacher i and of the student at temperature T. A
  teacher that sees images of another size is resized to the student's.
  """

  has_maps = True

  def __init__(
    self,
    model: Any,
    num_classes: int,
    teachers: Mapping[str, Mapping[str, Any]],
    temperature: float = 1.0,
    label_weight: float = 0.0,
    ignore: int = IGNORE,
    class_names: Sequence[str] | None = None,
  ):
    """Builds the task; the teachers are read later, when they are needed.

    Args:
      model: the student.
      num_classes: the number of classes of the data.
      teachers: by name, arguments of `Teacher.create`. Their probabilities are
        averaged.
      temperature: T > 0, which divides all logits.
      label_weight: weight of the loss on masks, added to the distance. At 0
        training needs no masks.
      ignore: as in `Segmentation`, for masks with a weight.
      class_names: of the data, where they are known.

    Raises:
      ValueError: a number out of its range, or `ignore` is a class.
    """
    super().__init__(model, num_classes, ignore, class_names)
    where, check_number = "config.task", configuration.check_number
    check_number(temperature, f"{where}.temperature", "(0, inf)")
    check_number(label_weight, f"{where}.label_weight", "[0, inf)")
    self._temperature = temperature
    self._label_weight = label_weight
    self._set_teachers(teachers)

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that training reads."""
    keys = [self.model.input, *(teacher.image for teacher in self.teachers)]
    keys += [segmentation.MASK] if self._label_weight else []
    return tuple(dict.fromkeys(keys))

  def _probabilities(
    self, logits: Float[Array, "B H W C"]
  ) -> Float32[Array, "B H W C"]:
    return jax.nn.softmax(logits.astype(jnp.float32) / self._temperature)

  def prepare(
    self,
    batch: base.Batch,
    key: jax.Array,
    constants: Any = (),
    parallel: Parallel | None = None,
  ) -> base.Batch:
    """Asks the teachers, and prepares masks as `Segmentation` does.

    Returns:
      The model's input, `target` (probabilities [b, H, W, C]) and, if they have
      a weight, masks and their `weight`.
    """
    batch = super().prepare(batch, key, parallel=parallel)
    name = self.model.input
    size = batch[name].shape[1:3]
    answers = [
      self._probabilities(
        bilinear.resize(teacher.logits(params, batch[teacher.image]), size)
      )
      for teacher, params in zip(self.teachers, constants, strict=True)
    ]
    kept = (name, segmentation.MASK, "weight")
    prepared = {key: batch[key] for key in kept if key in batch}
    return {**prepared, "target": sum(answers) / len(answers)}

  def loss(
    self,
    params: Any,
    batch: base.Batch,
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel | None = None,
  ) -> tuple[
    Float32[Array, ""], tuple[dict[str, jax.Array], Float32[Array, "B H W C"]]
  ]:
    """Returns the loss of a prepared batch, its metrics, and the logits.

    Metrics are the parts of the loss and `agreement`, the share of pixels for
    which student and teachers hold the same class most likely.
    """
    del parallel
    logits = self.train_logits(params, batch[self.model.input], key, setting)
    targets = batch["target"]
    distance = distillation.kl(targets, logits / self._temperature).mean()
    agree = jnp.argmax(logits, axis=-1) == jnp.argmax(targets, axis=-1)
    metrics = {"distance": distance, "agreement": agree.mean(dtype=jnp.float32)}
    loss = distance * self._temperature**2
    if self._label_weight:
      metrics["label_loss"] = self.mask_loss(logits, batch)
      loss += self._label_weight * metrics["label_loss"]
    return loss, (metrics, logits)

  def imitate(
    self, batch: base.Batch, answer: Float[Array, "B H W C"]
  ) -> base.Batch:
    """Returns the batch with the model in place of the teachers and masks."""
    batch = {**batch, "target": self._probabilities(answer)}
    return super().imitate(batch, answer) if self._label_weight else batch
