"""Distillation of features: a student represents images as a frozen model does.

It gives a trained backbone the two dials without labels: the student starts as
its teacher, and learns at any patch size, and with learned tokens, what the
teacher says at its own: the representation of the image, and the patches on
their grid. The distance is AM-RADIO's of patches (arXiv 2312.06709), here of
both: downstream the length of a representation counts, too.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import base, views
from tokenlearner_flexivit.tasks.teachers import Taught

# Entries of features: [B, D] and, where the patches are kept, [B, h, w, D].
IMAGE, PATCHES = "image", "patches"
# Below this length, a vector has no direction.
_LEAST_LENGTH = 1e-6


def features(answer: tuple[Any, Mapping[str, Any]]) -> base.Batch:
  """Returns the features of a model without head.

  Args:
    answer: of the model: the representation, and all intermediates.

  Returns:
    `IMAGE` [B, D] and, if the model keeps all patches to the end, `PATCHES` [B,
    h, w, D], float32.
  """
  representation, out = answer
  named = {IMAGE: representation, PATCHES: out.get("tokens_2d")}
  return {
    name: value.astype(jnp.float32)
    for name, value in named.items()
    if value is not None
  }


def cosine(
  a: Float[Array, "*rows D"], b: Float[Array, "*rows D"]
) -> Float[Array, "*rows"]:
  """Returns the cosine of the angle between vectors."""
  return optax.losses.cosine_similarity(a, b, epsilon=_LEAST_LENGTH)


def distance(
  student: Float[Array, "*rows D"],
  teacher: Float[Array, "*rows D"],
  l1_weight: float,
) -> Float[Array, "*rows"]:
  """Returns (1 - w) (1 - cosine) + w smooth L1, the latter a mean over D.

  Args:
    student: its features.
    teacher: its features.
    l1_weight: w in [0, 1]. The cosine leaves the length open.
  """
  smooth_l1 = optax.losses.huber_loss(student, teacher).mean(axis=-1)
  return (1 - l1_weight) * (1 - cosine(student, teacher)) + (
    l1_weight * smooth_l1
  )


def on_grid(
  maps: Float[Array, "B h w D"], grid: Sequence[int]
) -> Float[Array, "B H W D"]:
  """Returns maps of features on another grid.

  Linear, with antialiasing: on a coarser grid a patch gets a weighted mean of
  what it covers and of its surroundings.

  Args:
    maps: the features.
    grid: (H, W).
  """
  shape = (len(maps), *grid, maps.shape[-1])
  return jax.image.resize(
    maps, shape, "linear", precision=jax.lax.Precision.HIGHEST
  )


class FeatureDistillation(Taught, base.Task):
  """A backbone that learns the features of a frozen one, without labels.

  The loss is the `distance` of the representation of the image, plus, in
  settings that keep all patches, `patch_weight` times the mean `distance` of
  the patches to those of the teacher on the student's grid. The teacher answers
  once per step. The answer to an image is its representation [D].

  Attributes:
    num_classes: None: neither model has a head.
    class_names: None.
  """

  headline = "cosine"
  hub_task = "image-feature-extraction"
  purpose = "representations of images"
  answer_text = "the representation of the image"
  num_classes = None
  class_names = None

  def __init__(
    self,
    model: Any,
    teachers: Mapping[str, Mapping[str, Any]],
    patch_weight: float = 1.0,
    l1_weight: float = 0.1,
  ):
    """Builds the task; the teacher is read later, when it is needed.

    Args:
      model: the student, without head.
      teachers: a single one by name, with arguments of `Teacher.create`. A head
        that its weights have is left out.
      patch_weight: of the patches, beside 1 of the image. At 0 they are free.
      l1_weight: as in `distance`; the default is AM-RADIO's.

    Raises:
      ValueError: a number out of its range, several teachers, or a model with a
        head.
    """
    super().__init__(model)
    where = "config.task"
    configuration.check_number(
      patch_weight, f"{where}.patch_weight", "[0, inf)"
    )
    configuration.check_number(l1_weight, f"{where}.l1_weight", "[0, 1]")
    if getattr(model, "num_classes", None) is not None:
      raise ValueError(
        f"config.model.num_classes={model.num_classes}, but {where}.name="
        "'feature_distillation' trains a backbone, which has no head. Leave it "
        "out."
      )
    if isinstance(teachers, Mapping) and len(teachers) > 1:
      raise ValueError(
        f"{where}.teachers are {', '.join(teachers)}, but features of several "
        "models have no mean. Keep one."
      )
    self._patch_weight = patch_weight
    self._l1_weight = l1_weight
    self._set_teachers(teachers)

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """Returns the entries of a batch that training reads."""
    (teacher,) = self.teachers
    return tuple(dict.fromkeys((self.model.input, teacher.image)))

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if an example, made by `where`, does not fit."""
    super().check(example, where)
    views.check_single(example, self.model, where)
    (teacher,) = self.teachers
    widths = [
      _width(model, example[image].shape, setting)
      for model, image, setting in (
        (self.model, self.model.input, dials.Setting()),
        (teacher.model, teacher.image, teacher.setting),
      )
    ]
    if widths[0] != widths[1]:
      raise ValueError(
        f"The model represents an image by {widths[0]} numbers, "
        f"{teacher.where} by {widths[1]}, so they cannot be compared. Give "
        "config.model the width and the pool of the teacher."
      )

  def prepare(
    self,
    batch: base.Batch,
    key: jax.Array,
    constants: Any = (),
    parallel: Parallel | None = None,
  ) -> base.Batch:
    """Asks the teacher.

    Returns:
      The model's input and `target`, the teacher's `features`.
    """
    del key, parallel
    (teacher,), (params,) = self.teachers, constants
    target = features(teacher.answer(params, batch[teacher.image]))
    name = self.model.input
    return {name: batch[name], "target": target}

  def loss(
    self,
    params: Any,
    batch: base.Batch,
    key: jax.Array,
    setting: dials.Setting,
    parallel: Parallel | None = None,
  ) -> tuple[Float32[Array, ""], tuple[dict[str, jax.Array], base.Batch]]:
    """Returns the loss of a prepared batch, its metrics, and the features.

    Metrics are `cosine` and `distance`, means for the representation of the
    image.
    """
    del parallel
    inputs, target = batch[self.model.input], batch["target"]
    student = features(self._trained(params, key, setting, inputs))
    loss = distance(student[IMAGE], target[IMAGE], self._l1_weight).mean()
    metrics = {
      "distance": loss,
      "cosine": cosine(student[IMAGE], target[IMAGE]).mean(),
    }
    if self._patch_weight and (pair := _patches(student, target)):
      each = distance(*pair, self._l1_weight)
      loss += self._patch_weight * each.mean()
    return loss, (metrics, student)

  def similarities(
    self, params: Any, batch: base.Batch, setting: dials.Setting
  ) -> dict[str, Float32[Array, " B"]]:
    """Returns the cosines of the model's features and the teacher's.

    Args:
      params: of the model.
      batch: the result of `prepare`.
      setting: of the dials.

    Returns:
      `cosine` and, where the patches are kept, `patch_cosine`, of each image.
    """
    inputs, target = batch[self.model.input], batch["target"]
    student = features(self._evaluated(params, inputs, setting))
    values = {"cosine": cosine(student[IMAGE], target[IMAGE])}
    if pair := _patches(student, target):
      values["patch_cosine"] = cosine(*pair).mean(axis=(1, 2))
    return values

  def imitate(self, batch: base.Batch, answer: base.Batch) -> base.Batch:
    """Returns the batch with the model in place of the teacher."""
    return {**batch, "target": answer}

  def rows(self, answer: Float[np.ndarray, " D"]) -> list[dict[str, Any]]:
    """Returns a row with a column for each number of the representation."""
    return [{f"feature_{i}": value for i, value in enumerate(answer.tolist())}]


def _width(model: Any, shape: tuple[int, ...], setting: dials.Setting) -> int:
  """Returns the size of a model's representation."""
  images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  init = functools.partial(model.init_with_output, **setting)
  (representation, _), _ = jax.eval_shape(init, jax.random.key(0), images)
  return representation.shape[-1]


def _patches(
  student: base.Batch, target: base.Batch
) -> tuple[Float32[Array, "B h w D"], Float32[Array, "B h w D"]] | None:
  """Returns the patches of both on the student's grid, if both have them."""
  if PATCHES not in student or PATCHES not in target:
    return None
  patches = student[PATCHES]
  return patches, on_grid(target[PATCHES], patches.shape[1:3])
