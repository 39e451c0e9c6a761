"""Frozen teachers of a distillation, as the config describes them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials, interop, models, terminal
from tokenlearner_flexivit.data import class_names as class_names_lib
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import views


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A frozen model that a student learns from.

  Attributes:
    source: of its weights; None for random ones.
    model: the Flax module.
    setting: of its dials.
    image: the entry of a batch that it reads.
    where: its name in the config, for errors.
    input_mean: as `interop.load_params_and_report` takes it.
    input_std: as `interop.load_params_and_report` takes it.
    expected: the images that a config of timm or Hugging Face tells; None
      without one.
  """

  source: str | None
  model: Any
  setting: dials.Setting
  image: str
  where: str
  input_mean: Sequence[float] | None = None
  input_std: Sequence[float] | None = None
  expected: Any = None

  @classmethod
  def create(
    cls,
    num_classes: int | None,
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
    """Builds the teacher that an entry of `teachers` in the config describes.

    Args:
      num_classes: the student's; None for one without head, to which a head
        of the teacher says nothing.
      where: the entry's name, for errors.
      init: a file, a workdir, an exported folder or a released name; None takes
        random weights, which serve only to check the program.
      model: as `config.model`; None takes the model that the weights describe.
      patch_size: the teacher's; None for that of its kernel.
      num_tokens: the number of learned tokens; None for all that it has, "all"
        for all patches.
      image: the entry of an example that has the teacher's resolution; None for
        "image", or "video" if the model is for videos.
      dtype: of its computation; None for that of `model`, or "bfloat16".
      input_mean: the mean per channel that the weights expect to be subtracted
        from images in [0, 1]; absorbed, so that it sees images in [-1, 1].
        Without `model`, None takes what a file of weights records; runs and
        exports of this library then see images as they are.
      input_std: the standard deviation per channel by which they expect images
        to be divided; absorbed as `input_mean` is.

    Raises:
      ValueError: neither weights nor a model, other classes than the student's,
        no classes, or a value of a wrong type.
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
    expected = None
    if model is None:
      try:
        described = interop.describe(init)  # Logs its guesses.
      except ValueError as error:
        raise ValueError(f"{where}.init: {error}") from error
      # A student without head learns the features of the image tower.
      arguments = (
        described.image_model if num_classes is None else described.model
      )
      # A run sees images as it was trained on, provided the preprocessing fits.
      is_run = interop.preprocessing(init) is not None
      if not is_run and input_mean is None and input_std is None:
        input_mean, input_std = described.input_mean, described.input_std
      if not is_run and num_classes is not None:
        expected = described.images
    else:
      arguments = {"num_classes": num_classes, **model}
      dtype = dtype or model.get("dtype")
      if dtype != (model.get("dtype") or dtype):
        raise ValueError(
          f"{where}.dtype={dtype!r}, but {where}.model.dtype="
          f"{model['dtype']!r}. Keep one."
        )
    arguments = {**arguments, "dtype": dtype or "bfloat16"}
    if num_classes is None:
      arguments["num_classes"] = None
    elif not arguments.get("num_classes"):
      raise ValueError(f"{where}: {init} has no head, so it gives no answers.")
    elif arguments["num_classes"] != num_classes:
      raise ValueError(
        f"{where} has "
        f"{terminal.counted(arguments['num_classes'], 'class')}, the student "
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
      expected,
    )

  def check(self, example: Mapping[str, Any]) -> None:
    """Raises ValueError if an example's image does not fit the teacher.

    It says so once where images have another size than its weights expect.
    """
    where = f"the preprocessing of {self.image!r} for {self.where}"
    views.check_values(example[self.image], where)
    shape = views.shape_of_one(example[self.image].shape, self.model)
    try:
      self.model.check(shape[:-1], **self.setting)
    except ValueError as error:
      raise ValueError(
        f"{self.where}, which sees {self.image!r} {list(shape)}: {error}"
      ) from error
    size = getattr(self.expected, "size", None)
    if size is not None and tuple(shape[-3:-1]) != tuple(size):
      height, width = size
      _say_once(
        f"WARNING: {self.where} sees {self.image!r} of {shape[-3]} x "
        f"{shape[-2]} px, but its weights expect {height} x {width} px: give "
        f"it an entry of its own, by copy({self.image!r},'teacher')|"
        f"resize({size},{self.expected.method!r},key='teacher')"
      )

  def warn_of_other_values(self, pp: str, where: str) -> None:
    """Warns if its weights expect images of other values.

    Args:
      pp: the preprocessing of the images that it will see.
      where: its name in the config.
    """
    interop.warn_of_other_values(
      f"{self.where}.init",
      self.source,
      pp,
      self.image,
      where,
      self.input_mean,
      self.input_std,
    )

  def shapes(self) -> Any:
    """Returns the shapes of the weights, without reading them."""
    return jax.eval_shape(self._init)

  def _init(self) -> Any:
    images = jnp.zeros((1, *models.input_shape(self.model)), jnp.float32)
    return self.model.init(jax.random.key(0), images)["params"]

  def load(self) -> Any:
    """Returns the weights.

    Raises:
      ValueError: they cannot be read, do not fit, or are not complete.
    """
    if self.source is None:
      terminal.say(f"{self.where} has no init: its weights are random!")
      return jax.jit(self._init)()
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

  def answer(
    self, params: Any, images: Float[Array, "B ..."]
  ) -> tuple[Any, dict[str, Any]]:
    """Returns what the model returns for one view: logits, intermediates.

    Raises:
      ValueError: the weights are for images of other channels.
    """
    try:
      return self.model.apply(
        {"params": params}, images, **self.setting, train=False
      )
    except flax.errors.ScopeParamShapeError as error:
      raise ValueError(
        f"{self.where}, which sees {self.image!r} {list(images.shape[1:])}, "
        f"has weights for others, such as of other channels: {error}"
      ) from error

  def logits(
    self, params: Any, images: Float[Array, "B ..."]
  ) -> Float32[Array, "B ... C"]:
    """Returns the logits, which are means if there are several views.

    Raises:
      ValueError: the weights are for images of other channels.
    """

    def of_view(images: jax.Array) -> jax.Array:
      return self.answer(params, images)[0].astype(jnp.float32)

    return views.average(of_view, images, self.model)


@functools.cache
def _say_once(text: str) -> None:
  terminal.say(text)


class Taught:
  """The part of a task that has teachers, a base beside `base.Task`.

  The task has `num_classes`, `class_names` and `model`.
  """

  num_classes: int | None
  class_names: Sequence[str] | None
  has_maps = False  # Whether the classes are those of pixels.

  @classmethod
  def public_options(cls, section: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns `config.task` with the names of the teachers alone."""
    return {**section, "teachers": {name: {} for name in section["teachers"]}}

  def _set_teachers(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Keeps the descriptions of the teachers, which are read when needed."""
    self._sections = sections
    self._weights = None

  @functools.cached_property
  def teachers(self) -> tuple[Teacher, ...]:
    """Returns the teachers, which are described at the first call.

    A run can be evaluated without them, unless an evaluation needs them.

    Raises:
      ValueError: there is no teacher, or one does not fit.
    """
    return create_teachers(
      self._sections,
      self.num_classes,
      "config.task.teachers",
      self.class_names,
      has_maps=self.has_maps,
    )

  def constants(self, parallel: Parallel) -> tuple[Any, ...]:
    """Returns the weights of the teachers on all devices."""
    if self._weights is None:
      self._weights = tuple(
        parallel.place(teacher.load()) for teacher in self.teachers
      )
    return self._weights

  def constant_shapes(self) -> tuple[Any, ...]:
    """Returns the shapes of the teachers' weights, which are not read."""
    return tuple(teacher.shapes() for teacher in self.teachers)

  def check(self, example: dict[str, Any], where: str) -> None:
    """Raises ValueError if an example, made by `where`, does not fit."""
    super().check(example, where)
    for teacher in self.teachers:
      teacher.check(example)


def create_teachers(
  sections: Mapping[str, Mapping[str, Any]],
  num_classes: int | None,
  where: str,
  class_names: Sequence[str] | None = None,
  *,
  has_maps: bool = False,
) -> tuple[Teacher, ...]:
  """Builds the teachers that a section of the config describes.

  Args:
    sections: by name, arguments of `Teacher.create`.
    num_classes: the student's; None for one without head.
    where: name of the section for errors, such as "config.task.teachers".
    class_names: the student's. A teacher that is a run of this library must
      have the same if both are known; one that a config of another library
      names may spell them otherwise, but not in another order.
    has_maps: whether the student's classes are those of pixels.

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
  if num_classes is not None:
    for teacher in teachers:
      _check_answer(teacher, has_maps)
      _check_class_names(teacher, num_classes, class_names)
  return teachers


def _check_answer(teacher: Teacher, has_maps: bool) -> None:
  """Raises ValueError if a teacher answers something else than the student."""
  model = teacher.model
  is_known = isinstance(model, models.ViT)
  is_segmenter = isinstance(model, models.Segmenter)
  if isinstance(model, models.TwoTowers) or (
    is_known and is_segmenter != has_maps
  ):
    wanted = "each pixel" if has_maps else "an image"
    raise ValueError(
      f"{teacher.where} is a {type(model).__name__}, whose answer is not a "
      f"class of {wanted}, which the student learns. Give weights of a model "
      "that answers so."
    )


def _check_class_names(
  teacher: Teacher, num_classes: int, class_names: Sequence[str] | None
) -> None:
  """Raises ValueError if a teacher numbers the classes differently."""
  if teacher.source is None:
    return
  names = interop.class_names(teacher.source)
  both = class_names_lib.comparable(
    (num_classes, names), (num_classes, class_names)
  )
  if not both:
    return
  # A run or an export has the names of its data; libraries have their own.
  is_run = interop.preprocessing(teacher.source) is not None
  check = class_names_lib.check_same if is_run else class_names_lib.check_order
  check(*both, teacher.where, "the student's training data")
