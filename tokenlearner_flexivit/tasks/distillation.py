"""Distillation: a student learns to answer like frozen teachers.

FlexiViT (arXiv 2212.08013, section 4.1) distils one teacher of small patches
into every patch size of the student by FunMatch (arXiv 2106.05237): both see
the same crop with the same mixup, and labels are not used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import classification
from tokenlearner_flexivit.tasks.teachers import Taught


def kl(
  targets: Float[Array, "*rows C"], logits: Float[Array, "*rows C"]
) -> Float[Array, "*rows"]:
  """Returns KL(targets || softmax(logits)) in nats."""
  return optax.kl_divergence(jax.nn.log_softmax(logits), targets)


def binary_kl(
  targets: Float[Array, "B C"], logits: Float[Array, "B C"]
) -> Float[Array, " B"]:
  """Returns the KL of each class's presence, summed over classes, in nats."""
  positive = optax.kl_divergence(jax.nn.log_sigmoid(logits), targets)
  negative = optax.kl_divergence(jax.nn.log_sigmoid(-logits), 1 - targets)
  return positive + negative


# The distance, and the link from the teacher's logits to its targets.
DISTANCES = {
  "kl": (kl, jax.nn.softmax),
  "binary_kl": (binary_kl, jax.nn.sigmoid),
}


class Distillation(Taught, classification.Classification):
  """A classification that learns from teachers rather than labels.

  The loss is T^2 KL(mean_i p_i || q), where p_i and q are the probabilities of
  teacher i and of the student at temperature T, at the step's patch size. The
  factor keeps the size of the gradient (arXiv 1503.02531). The teachers answer
  once per step, in the part that does not depend on the patch size.

  Attributes:
    distance: the name of the distance to the teachers, a key of `DISTANCES`.
  """

  def __init__(
    self,
    model: Any,
    num_classes: int,
    teachers: Mapping[str, Mapping[str, Any]],
    distance: str = "kl",
    temperature: float = 1.0,
    label_weight: float = 0.0,
    loss: str = "softmax_xent",
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    class_names: Sequence[str] | None = None,
  ):
    """Builds the task; the teachers are read later, when they are needed.

    Args:
      model: the student.
      num_classes: the number of classes of the data.
      teachers: by name, arguments of `Teacher.create`. Their probabilities are
        averaged.
      distance: "kl", or "binary_kl" for models whose classes do not exclude
        one another (sigmoid heads).
      temperature: T > 0, which divides all logits.
      label_weight: weight of the loss on labels, added to the distance. At 0
        training needs no labels.
      loss: the loss on labels, which the evaluators report. It also defines
        how logits of the student become probabilities: softmax or sigmoid.
      label_smoothing: as in `Classification`, for labels with a weight.
      mixup_alpha: as in `Classification`; teachers see the mixed images.
      class_names: of the data, where they are known.

    Raises:
      ValueError: an unknown name, a number out of its range, or a softmax loss
        beside a distance of sigmoids.
    """
    super().__init__(
      model, num_classes, loss, label_smoothing, mixup_alpha, class_names
    )
    where, check_number = "config.task", configuration.check_number
    check_number(temperature, f"{where}.temperature", "(0, inf)")
    check_number(label_weight, f"{where}.label_weight", "[0, inf)")
    if label_smoothing and not label_weight:
      raise ValueError(
        f"{where}.label_smoothing={label_smoothing} smooths labels, which play "
        f"no part at {where}.label_weight=0. Set that above 0, or leave the "
        "smoothing out."
      )
    self._distance, self._link = configuration.choose(
      distance, DISTANCES, f"{where}.distance"
    )
    if distance == "binary_kl" and loss == "softmax_xent":
      raise ValueError(
        f"{where}.distance='binary_kl' trains probabilities of sigmoids, but "
        f"{where}.loss='softmax_xent' evaluates and predicts by softmax. Set "
        f"{where}.loss='sigmoid_xent', or {where}.distance='kl'."
      )
    self.distance = distance
    self._temperature = temperature
    self._label_weight = label_weight
    self._set_teachers(teachers)

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that training reads."""
    keys = [self.model.input, *(teacher.image for teacher in self.teachers)]
    keys += ["label"] if self._label_weight else []
    return tuple(dict.fromkeys(keys))

  def prepare(
    self,
    batch: dict[str, jax.Array],
    key: jax.Array,
    constants: Any = (),
    parallel: Parallel | None = None,
  ) -> dict[str, jax.Array]:
    """Mixes the batch as `Classification.prepare` does, and asks the teachers.

    Returns:
      The model's input, target (probabilities [b, C]) and, if they have a
      weight, labels [b, C].
    """
    batch = super().prepare(batch, key, parallel=parallel)
    answers = [
      self._link(
        teacher.logits(params, batch[teacher.image]) / self._temperature
      )
      for teacher, params in zip(self.teachers, constants, strict=True)
    ]
    name = self.model.input
    prepared = {name: batch[name], "target": sum(answers) / len(answers)}
    return prepared | ({"label": batch["label"]} if self._label_weight else {})

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
    """Returns the loss of a prepared batch, its metrics, and the logits.

    Metrics are the parts of the loss and `agreement`, the share of examples
    for which student and teachers hold the same class most likely; it is left
    out for a single class, where it is always 1.
    """
    del parallel
    logits = self.train_logits(params, batch[self.model.input], key, setting)
    targets = batch["target"]
    distance = self._distance(targets, logits / self._temperature).mean()
    loss = distance * self._temperature**2
    metrics = {"distance": distance}
    if logits.shape[-1] > 1:
      agree = jnp.argmax(logits, axis=-1) == jnp.argmax(targets, axis=-1)
      metrics["agreement"] = agree.mean(dtype=jnp.float32)
    if self._label_weight:
      label_loss = self.example_loss(logits, batch["label"]).mean()
      metrics["label_loss"] = label_loss
      loss += self._label_weight * label_loss
    return loss, (metrics, logits)

  def imitate(
    self, batch: dict[str, jax.Array], answer: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns the batch with the model in place of the teachers and labels."""
    batch = {**batch, "target": self._link(answer / self._temperature)}
    return super().imitate(batch, answer) if self._label_weight else batch
