"""Distillation: a student learns to answer as frozen teachers do.

FlexiViT (arXiv 2212.08013, section 4.1) distils one teacher of small patches
into every patch size of the student by FunMatch (arXiv 2106.05237): both see
the same crop with the same mixup, and labels play no part.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials, interop, models, terminal
from tokenlearner_flexivit.data import class_names as class_names_lib
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import classification, views


def kl(
  targets: Float[Array, "B C"], logits: Float[Array, "B C"]
) -> Float[Array, " B"]:
  """Returns KL(targets || softmax(logits)) in nats."""
  return optax.kl_divergence(jax.nn.log_softmax(logits), targets)


def binary_kl(
  targets: Float[Array, "B C"], logits: Float[Array, "B C"]
) -> Float[Array, " B"]:
  """Returns the KL of every class being there or not, summed, in nats."""
  there = optax.kl_divergence(jax.nn.log_sigmoid(logits), targets)
  return there + optax.kl_divergence(jax.nn.log_sigmoid(-logits), 1 - targets)


# The distance, and what makes the teacher's logits its targets.
DISTANCES = {
  "kl": (kl, jax.nn.softmax),
  "binary_kl": (binary_kl, jax.nn.sigmoid),
}


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A frozen model.

  Attributes:
    source: of its weights; None for untrained ones.
    model: the Flax module.
    setting: of its dials.
    image: the entry of a batch that it looks at.
    where: its name in the config, for errors.
    input_mean: see `interop.load_params_and_report`.
    input_std: see `interop.load_params_and_report`.
  """

  source: str | None
  model: Any
  setting: dials.Setting
  image: str
  where: str
  input_mean: Sequence[float] | None = None
  input_std: Sequence[float] | None = None

  @classmethod
  def create(
    cls,
    num_classes: int,
    where: str,
    init: str | None = None,
    model: Mapping[str, Any] | None = None,
    patch_size: Any = None,
    num_tokens: int | str | None = None,
    image: str | None = None,
    dtype: str | None = None,
    input_mean: Sequence[float] | None = None,
    input_std: Sequence[float] | None = None,
  ) -> "Teacher":
    """Reads an entry of `teachers` in the config.

    Args:
      num_classes: the student's.
      where: the entry's name.
      init: a file, a workdir, an exported folder or a released name; None takes
        random weights, which is good for nothing but a check of the program.
      model: as `config.model`; None takes what the weights tell.
      patch_size: the teacher's; None for that of its kernel.
      num_tokens: its learned tokens; None for all it has, "all" for all
        patches.
      image: the entry of an example that has the teacher's resolution; None
        for "image", for a model for videos "video".
      dtype: of its computation; None for that of `model`, or "bfloat16".
      input_mean: of images in [0, 1], per channel, that the weights expect to
        be subtracted; absorbed, so that it sees images in [-1, 1]. Without
        `model`, None takes what weights of others tell; runs and exports of
        this library then see images as they are.
      input_std: by which they expect them to be divided, likewise.

    Raises:
      ValueError: neither weights nor a model, other classes than the student,
        no classes at all, or a value of another type.
    """
    if init is None and model is None:
      raise ValueError(f"{where} needs init, model, or both.")
    for key, text in (("init", init), ("image", image)):
      if text is not None:
        configuration.check_text(text, f"{where}.{key}")
    for key, numbers, interval in (
      ("input_mean", input_mean, "(-inf, inf)"),
      ("input_std", input_std, "(-inf, 0) or (0, inf)"),
    ):
      if numbers is not None:
        configuration.check_numbers(numbers, f"{where}.{key}", interval)
        if init is None:
          raise ValueError(
            f"{where}.{key}={numbers!r} is of the images that the weights of "
            f"{where}.init expect, which is None."
          )
    if not isinstance(model, Mapping | None):
      raise ValueError(f"{where}.model={model!r} must be like config.model.")
    if model is None:
      try:
        described = interop.describe(init)  # Logs what it has to guess.
      except ValueError as error:
        raise ValueError(f"{where}.init: {error}") from error
      arguments = described.model
      # A run sees what it was trained on, if that is what it is given.
      others = described.format != "native"
      if others and input_mean is None and input_std is None:
        input_mean, input_std = described.input_mean, described.input_std
    else:
      arguments = {"num_classes": num_classes, **model}
      dtype = dtype or model.get("dtype")
      if dtype != (model.get("dtype") or dtype):
        raise ValueError(
          f"{where}.dtype={dtype!r}, but {where}.model.dtype="
          f"{model['dtype']!r}. Keep one."
        )
    arguments = {**arguments, "dtype": dtype or "bfloat16"}
    if not arguments["num_classes"]:
      raise ValueError(f"{where}: {init} has no head, so it gives no answers.")
    if arguments["num_classes"] != num_classes:
      raise ValueError(
        f"{where} has {arguments['num_classes']} classes, the student "
        f"{num_classes}. They must have the same ones."
      )
    if patch_size is not None:
      patch_size = dials.as_patch_size(patch_size, f"{where}.patch_size")
    if num_tokens is not None:
      num_tokens = dials.as_num_tokens(num_tokens, f"{where}.num_tokens")
    setting = dials.Setting(patch_size, num_tokens)
    built = models.create(**arguments)
    return cls(
      init,
      built,
      setting,
      image or built.input,
      where,
      input_mean,
      input_std,
    )

  def check(self, example: Mapping[str, Any]) -> None:
    """Raises ValueError if an example's image does not fit the teacher."""
    where = f"the preprocessing of {self.image!r} for {self.where}"
    views.check_values(example[self.image], where)
    shape = views.shape_of_one(example[self.image].shape, self.model)
    try:
      self.model.check(shape[:-1], **self.setting)
    except ValueError as error:
      raise ValueError(
        f"{self.where}, which sees {self.image!r} {list(shape)}: {error}"
      ) from error

  def warn_of_other_values(self, pp: str, where: str) -> None:
    """Warns where its weights were trained on images of other values.

    Args:
      pp: the preprocessing of the images that it will see.
      where: its name in the config.
    """
    if self.input_mean is None and self.input_std is None:
      interop.warn_of_other_values(
        f"{self.where}.init", self.source, pp, self.image, where
      )

  def load(self) -> Any:
    """Returns the weights.

    Raises:
      ValueError: they cannot be read, do not fit, or are not complete.
    """
    if self.source is None:
      terminal.say(f"{self.where} has no init: its weights are random!")
      images = jnp.zeros((1, *models.input_shape(self.model)), jnp.float32)
      return jax.jit(self.model.init)(jax.random.key(0), images)["params"]
    params, report = interop.load_params_and_report(
      self.source,
      self.model,
      input_mean=self.input_mean,
      input_std=self.input_std,
    )
    if missing := report.names("fresh"):
      raise ValueError(
        f"{self.where}: {self.source} lacks {', '.join(missing[:4])}. A "
        "teacher's weights must be complete."
      )
    terminal.say(f"{self.where}: {report}")
    return params

  def logits(
    self, params: Any, images: Float[Array, "B ..."]
  ) -> Float32[Array, "B C"]:
    """Returns the answers; to several views their mean.

    Raises:
      ValueError: the weights are for images of other channels.
    """

    def answer(images: jax.Array) -> jax.Array:
      try:
        logits, _ = self.model.apply(
          {"params": params}, images, **self.setting, train=False
        )
      except flax.errors.ScopeParamShapeError as error:
        raise ValueError(
          f"{self.where}, which sees {self.image!r} {list(images.shape[1:])}, "
          f"has weights for others, such as of other channels: {error}"
        ) from error
      return logits.astype(jnp.float32)

    return views.average(answer, images, self.model)


def create_teachers(
  sections: Mapping[str, Mapping[str, Any]],
  num_classes: int,
  where: str,
  class_names: Sequence[str] | None = None,
) -> tuple[Teacher, ...]:
  """Builds the teachers that a section of the config describes.

  Args:
    sections: by name, see `Teacher.create`.
    num_classes: the student's.
    where: name of the section for errors, such as "config.task.teachers".
    class_names: the student's. A teacher that is a run of this library must
      have the same, where both are known.

  Raises:
    ValueError: no teacher, or one that does not fit.
  """
  if not isinstance(sections, Mapping):
    raise ValueError(
      f"{where}={sections!r} must be a dict of teachers by name, such as "
      "dict(prof=dict(init=...))."
    )
  if not sections:
    raise ValueError(f"{where} is empty; give at least one.")
  for name, section in sections.items():
    if not isinstance(section, Mapping):
      raise ValueError(
        f"{where}.{name}={section!r} must be a dict, such as dict(init=...)."
      )
  teachers = tuple(
    configuration.call(
      Teacher.create,
      section,
      f"{where}.{name}",
      num_classes=num_classes,
      where=f"{where}.{name}",
    )
    for name, section in sections.items()
  )
  for teacher in teachers:
    _check_class_names(teacher, num_classes, class_names)
  return teachers


def _check_class_names(
  teacher: Teacher, num_classes: int, class_names: Sequence[str] | None
) -> None:
  """Raises ValueError if a teacher numbers the classes otherwise."""
  if teacher.source is None:
    return
  names = interop.class_names(teacher.source)
  both = class_names_lib.comparable(
    (num_classes, names), (num_classes, class_names)
  )
  if both:
    class_names_lib.check_same(
      *both, teacher.where, "the student's training data"
    )


class Distillation(classification.Classification):
  """A classification that learns from teachers rather than labels.

  The loss is T^2 KL(mean_i p_i || q), where p_i and q are the probabilities of
  teacher i and of the student at temperature T, for the patch size of the step
  alone. The factor keeps the size of the gradient (arXiv 1503.02531). The
  teachers answer once per step, outside of what depends on the patch size.

  Attributes:
    distance: the name of the distance to them, of `DISTANCES`.
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
    """Builds the task. Of the teachers nothing is read before it is needed.

    Args:
      model: the student.
      num_classes: the number of classes of the data.
      teachers: by name, see `Teacher.create`. Their probabilities are averaged.
      distance: "kl", or "binary_kl" for models whose classes do not exclude
        one another (sigmoid heads).
      temperature: T > 0, which divides all logits.
      label_weight: weight of the loss on labels, added to the distance. At 0
        training needs no labels.
      loss: the loss on labels, and what the evaluators report. It also says
        what makes probabilities of the student's logits, softmax or sigmoid.
      label_smoothing: see `Classification`; of the labels, if they count.
      mixup_alpha: see there; teachers see the mixed images.
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
    self._sections = teachers
    self._weights = None

  @functools.cached_property
  def teachers(self) -> tuple[Teacher, ...]:
    """The teachers, described when they are first asked for.

    A run can be evaluated without them, unless an evaluation is of them.

    Raises:
      ValueError: there is none, or one does not fit.
    """
    return create_teachers(
      self._sections,
      self.num_classes,
      "config.task.teachers",
      self.class_names,
    )

  @property
  def batch_keys(self) -> tuple[str, ...]:
    """The entries of a batch that training reads."""
    keys = [self.model.input, *(teacher.image for teacher in self.teachers)]
    keys += ["label"] if self._label_weight else []
    return tuple(dict.fromkeys(keys))

  def constants(self, parallel: Parallel) -> tuple[Any, ...]:
    """Returns the weights of the teachers on all devices; see `tasks.Task`."""
    if self._weights is None:
      self._weights = tuple(
        parallel.place(teacher.load()) for teacher in self.teachers
      )
    return self._weights

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if an example, made by `where`, does not fit."""
    super().check(example, where)
    for teacher in self.teachers:
      teacher.check(example)

  def prepare(
    self,
    batch: dict[str, jax.Array],
    key: jax.Array,
    constants: Any = (),
    parallel: Parallel | None = None,
  ) -> dict[str, jax.Array]:
    """Mixes the batch and asks the teachers; see `Classification.prepare`.

    Returns:
      The model's input, target (probabilities [b, C]) and, if they count,
      labels [b, C].
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
    for which student and teachers hold the same class most likely.
    """
    del parallel
    logits = self.train_logits(params, batch[self.model.input], key, setting)
    targets = batch["target"]
    distance = self._distance(targets, logits / self._temperature).mean()
    loss = distance * self._temperature**2
    agree = jnp.argmax(logits, axis=-1) == jnp.argmax(targets, axis=-1)
    metrics = {"distance": distance, "agreement": agree.mean(dtype=jnp.float32)}
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
