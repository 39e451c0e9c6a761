"""The base class of evaluators of a model's settings, and its helpers."""

import abc
import dataclasses
import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit import parallel as parallel_lib
from tokenlearner_flexivit.data import class_names as class_names_lib
from tokenlearner_flexivit.data import examples
from tokenlearner_flexivit.evaluators import images
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.tasks import labels as labels_lib

Batch = dict[str, jax.Array]
Programs = Mapping[dials.Setting, Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class Context:
  """The arguments of an evaluator beside its section of the config.

  Attributes:
    task: makes the predictions.
    settings: the settings to evaluate: those of training, unless the section
      names others.
    batch_size: over all hosts: that of training, unless the section names
      another.
    parallel: places and runs on the devices.
    where: name of the section for errors, such as "config.evals.test".
    class_names: of the training data; evaluations must number their classes
      in the same way. None if they are not known.
  """

  task: Any
  settings: Sequence[dials.Setting]
  batch_size: int
  parallel: Parallel = dataclasses.field(default_factory=parallel_lib.create)
  where: str = "config.evals"
  class_names: Sequence[str] | None = None

  def choose(
    self, batch_size: int | None = None, **lists: Sequence[Any]
  ) -> "Context":
    """Returns a context with what a section names in place of training's.

    Args:
      batch_size: over all hosts.
      **lists: values of dials, by `dials.Kind.key`. They may be values never
        trained on.

    Raises:
      ValueError: a value is none of its dial, or the batch size no number.
    """
    if batch_size is None:
      batch_size = self.batch_size
    configuration.check_number(
      batch_size, f"{self.where}.batch_size", "[1, inf)", whole=True
    )
    values = {}
    for name, kind in dials.KINDS.items():
      values[name] = dict.fromkeys(s.get(name) for s in self.settings)
      if kind.key in lists:
        where = f"{self.where}.{kind.key}"
        values[name] = _each(lists[kind.key], kind.read, where)
    return dataclasses.replace(
      self, batch_size=batch_size, settings=dials.positions(values)
    )


class Evaluator(abc.ABC):
  """The base of evaluators, which the training loop runs.

  The programs of the model are separate from those of the metrics, which are
  small, and all evaluators of a task share them. So each setting of the model
  is compiled once for each shape of images, for any number of evaluators.

  Attributes:
    settings: the settings that are evaluated.
    sources: the data that are read.
    image_shape: (H, W, C), of videos (T, H, W, C).
    metrics: the display of the metrics that tables show, by name and in order.
    headline: the metric that settings are compared by; higher is better.
    needs: names of methods that its task must have beside those of `Task`.
    for_several: whether the headline is for examples of several classes.
    has_several: whether examples may have several classes.
    before_batch: called before each batch of images on all hosts; it ends the
      evaluation by raising an error on all of them.
  """

  settings: Sequence[dials.Setting]
  sources: Sequence[data_lib.Source]
  image_shape: tuple[int, ...]
  metrics: Mapping[str, Metric]
  headline: str
  needs: ClassVar[Sequence[str]] = ()
  for_several: ClassVar[bool] = False
  has_several: bool = False

  def __init__(self, context: Context):
    """Takes what all evaluators have from the context."""
    self._batch_size = context.batch_size
    self.settings = context.settings
    self._task = context.task
    self._parallel = context.parallel
    self._where = context.where
    self._class_names = context.class_names
    self.sources = ()
    self.before_batch: Callable[[], None] = lambda: None

  @classmethod
  def check(cls, section: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for faults of a section that no example is read for.

    Args:
      section: arguments of the constructor, from the config.
      where: name of the section for errors, such as "config.evals.test".
    """
    if section.get("data") is not None:
      data_lib.check_section(section["data"], f"{where}.data")

  def _open(
    self, data: dict[str, Any], source: data_lib.Source, **options: Any
  ) -> images.Images:
    """Returns the images of a split; takes and raises what `Images` does."""
    return images.Images(
      data,
      source,
      model=self._task.model,
      settings=self.settings,
      batch_size=self._batch_size,
      parallel=self._parallel,
      where=self._where,
      before_batch=lambda: self.before_batch(),
      **options,
    )

  def _check_classes(
    self, data: dict[str, Any], source: data_lib.Source, key: str = "label"
  ) -> None:
    """Raises ValueError for classes other than those of the training data.

    If either has no names, only the numbers of classes are compared.

    Args:
      data: the data section of the config.
      source: the data that it names.
      key: the entry of an example that holds the classes.
    """
    where, known = f"{self._where}.data", self._task.num_classes
    count, names = data_lib.classes(data, source, where, key)
    both = class_names_lib.comparable(
      (count, names), (known, self._class_names)
    )
    if both:
      class_names_lib.check_same(*both, where, "the training data")
    if (count or 0) > known:
      raise ValueError(
        f"{where} has {count} classes, but the model knows {known}."
      )
    if not both and (names or self._class_names):
      classes = terminal.counted(count, "class") if count else "unnamed classes"
      terminal.say(
        f"{where}: {source.name} has {classes}, the model "
        f"{known}. That they are the same, in the same order, cannot be "
        "checked: only one of both has names of classes."
      )

  def _open_labelled(self, data: dict[str, Any]) -> data_lib.Source:
    """Opens a labelled split; sets `_images`, `image_shape`, `has_several`.

    Returns:
      the source of the split.

    Raises:
      ValueError: it has classes that the model does not know, or no label, or
        `Images` refuses it.
    """
    if self.headline == "accuracy":
      self._check_several_classes()
    source = data_lib.open_source(data, f"{self._where}.data")
    self._check_classes(data, source)
    self.sources = (source,)
    self._images = self._open(
      data, source, check_labels=self._task.check_labels
    )
    label = np.asarray(self._images.example["label"])
    self.has_several = label.ndim == 1 and (
      source.has_several or labels_lib.are_several(label)
    )
    parsed = data_lib.parse(data["pp"]).only("label")
    make_example = examples.MakeExample(source, parsed)

    def label_of(index: int) -> Any:
      if not index:
        return self._images.example["label"]
      return make_example(index, np.random.default_rng(0))[0]["label"]

    self._check_some_known(source, label_of)
    self.image_shape = self._images.shape
    return source

  def _check_several_classes(self) -> None:
    """Raises ValueError for a model of one class, whose answer never varies."""
    if self._task.num_classes == 1:
      raise ValueError(
        f"{self._where}: the most likely of one class is always the same, so "
        f"{self.headline} says nothing. Set {self._where}.type='multilabel' "
        "for the average precision."
      )

  def _check_some_known(
    self, source: data_lib.Source, label_of: Callable[[int], Any]
  ) -> None:
    """Raises ValueError if not one example has a label.

    Args:
      source: of the examples, which are read up to the first with a label.
      label_of: returns the label of the example at a position.
    """
    for index in range(len(source)):
      if labels_lib.is_known(np.asarray(label_of(index))):
        return
      if not index:
        terminal.say(
          f"{self._where}: {source.describe(0)} of {source.name} has no label; "
          "looking for one that has."
        )
    raise ValueError(
      f"{self._where}: no example of {source.name} has a label, so nothing can "
      "be counted as right. Take a split that has."
    )

  def _program(
    self, key: Hashable, function: Callable[..., Any], **options: Any
  ) -> Callable[..., Any]:
    """Returns a program that runs a function on all devices.

    Args:
      key: the values that the function depends on beside the task and its
        arguments. An earlier program of the task with an equal key is reused.
      function: as `Parallel.run` takes it.
      **options: of `Parallel.run`.
    """
    programs = self._task.programs
    key = (key, *sorted(options.items()))
    if key not in programs:
      programs[key] = self._parallel.run(function, **options)
    return programs[key]

  def _answer_programs(self) -> Programs:
    """Returns for each setting a program from parameters and inputs to answers.

    Its batch has only what these are made from, as `_inputs` returns it.
    Answers are those of the task, such as logits [B, C], in float32.
    """

    def answer(setting, params, batch):
      return jax.tree.map(
        lambda x: x.astype(jnp.float32),
        self._task.predict(params, batch, setting),
      )

    return {
      setting: self._program(
        ("answers", setting),
        functools.partial(answer, setting),
        sharded_output=True,
      )
      for setting in self.settings
    }

  def _gather_program(self) -> Callable[..., Any]:
    """Returns a program from rows of each device to those of all.

    Its first argument is `_nothing()`.
    """
    return self._program("gather", lambda _, rows: self._parallel.gather(rows))

  def _inputs(self, batch: Batch) -> Batch:
    """Returns the entries of a batch that answers of the task are made from."""
    return {key: batch[key] for key in self._task.answer_keys}

  def _labels(self, batch: Batch) -> Batch:
    """Returns the labels and the mask of a batch."""
    return {key: batch[key] for key in ("label", "mask") if key in batch}

  def _nothing(self) -> jax.Array:
    """Returns a first argument for programs that need none.

    Instead of an empty argument, pmap of JAX 0.10 takes the next one.
    """
    return self._parallel.place(np.int32(0))

  @abc.abstractmethod
  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields the name and value of each metric.

    Metrics of a setting are named `{setting.name}/...`. Those of something
    else, such as a teacher, have its name in place of the setting's. Neither
    name contains a "/". `{setting.name}/examples` is the number of examples
    that the headline is computed from, without those that have no label; the
    interval of an accuracy follows from it.

    Args:
      params: of the model, placed on the devices.
    """

  def details(self, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns Markdown for report.md, below the table of the settings.

    Args:
      rows: of the settings, as in report.json.
    """
    del rows
    return ""

  def pictures(
    self, params: Any, rows: Sequence[Mapping[str, Any]]
  ) -> Iterator[tuple[str, str, Callable[[pathlib.Path], Any]]]:
    """Yields pictures of its own for the report.

    Args:
      params: of the model, on one device of this host, which alone draws.
      rows: of the settings, as in report.json.

    Yields:
      The name of a file, words about it, and a function that writes it.
    """
    del params, rows
    yield from ()

  @abc.abstractmethod
  def _timed(self, params: Any) -> tuple[Programs, tuple[Any, ...]]:
    """Returns the programs that `throughput` times, and their arguments."""

  def throughput(self, params: Any, repeats: int = 5) -> dict[Any, float]:
    """Measures images per second of each setting's program.

    The settings take turns, so that a slow moment of the machine affects all.

    Args:
      params: as in `run`.
      repeats: the number of runs, of which the median is taken.

    Returns:
      Images per second over all devices, by setting.
    """
    programs, arguments = self._timed(params)
    seconds = {setting: [] for setting in self.settings}
    for repeat in range(repeats + 1):
      for setting, program in programs.items():
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        if repeat:  # The first run may compile.
          seconds[setting].append(time.perf_counter() - start)
    return {
      setting: self._batch_size / statistics.median(times)
      for setting, times in seconds.items()
    }


def add_real(
  parallel: Parallel,
  sums: dict[str, jax.Array],
  values: dict[str, jax.Array],
  mask: jax.Array,
) -> dict[str, jax.Array]:
  """Returns sums with those of a batch of all devices added; runs on each.

  Args:
    parallel: shares the batch among devices.
    sums: by name.
    values: of each example, by the same names.
    mask: 0 for padding, which counts nothing.
  """
  new = {k: jnp.where(mask > 0, v, 0).sum() for k, v in values.items()}
  return jax.tree.map(jnp.add, sums, parallel.sum(new))


def _each(
  values: Any, read: Callable[[Any, str], Any], where: str
) -> tuple[Any, ...]:
  """Returns the values of a dial that a config lists, each parsed by `read`.

  Raises:
    ValueError: they are no list, the list is empty, or a value is repeated.
  """
  configuration.check_list(values, where)
  if not values:
    raise ValueError(f"{where} is empty; leave it out, or name a value.")
  values = tuple(read(value, where) for value in values)
  if len(set(values)) < len(values):
    raise ValueError(f"{where}={values} has a value twice.")
  return values
