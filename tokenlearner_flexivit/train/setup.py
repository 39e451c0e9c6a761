"""The experiment that a config describes, built and checked."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import (
  dials,
  evaluators,
  interop,
  tasks,
  terminal,
)
from tokenlearner_flexivit import parallel as parallel_lib
from tokenlearner_flexivit.data import statistics
from tokenlearner_flexivit.run import profiler
from tokenlearner_flexivit.tasks import heads
from tokenlearner_flexivit.train import before_data

# Every key that a config may have, with its default.
DEFAULTS = {
  "seed": 0,
  "batch_size": None,
  "data": None,
  "model": None,
  "flexi": None,  # None trains at one patch size, the model's own.
  "task": {"name": "classification"},
  "optimizer": None,
  "accumulate": 1,  # Micro-batches per step on a device.
  "ema_decay": None,
  "init": None,  # Weights to start from, a source for interop.load_params.
  # Beginnings of names of parameters that are not taken from these weights.
  "init_fresh": [],
  # The same, but only if these weights have none of those names.
  "init_optional": [],
  # How weights for images become those for videos; or "average".
  "init_inflate": "central_frame",
  # Of images in [0, 1], if the weights expect others than 0.5 and 0.5; one
  # number per channel, such as (0.485, 0.456, 0.406).
  "init_mean": None,
  "init_std": None,
  "evals": {},
  "eval_first": False,  # Whether they run before the first step, too.
  "parallel": parallel_lib.DEFAULT,  # How devices share the work.
  "keep_checkpoints": 3,
  "max_save_failures": 3,  # So many in a row stop the run.
  # Steps that JAX's profiler traces to WORKDIR/profile: (10, 20) for both and
  # those between, a number for so many after the first of a start.
  "profile_steps": None,
}
SECTIONS = ("data", "model", "flexi", "task", "optimizer", "evals")
DURATIONS = ("total", "log", "eval", "checkpoint")


def complete(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns `config` as plain values with every default filled in.

  None stands for the default; an evaluation of None is left out.

  Raises:
    ValueError: an unknown key, a missing one, or a value in place of a section.
  """
  values = configuration.plain(config)
  known = [*DEFAULTS, *configuration.duration_keys(*DURATIONS)]
  configuration.check_keys(values, known, "config")
  config = {**DEFAULTS, **{k: v for k, v in values.items() if v is not None}}
  evals = {}
  if isinstance(config["evals"], dict):
    evals = {k: v for k, v in config["evals"].items() if v is not None}
    config["evals"] = evals
  sections = {name: config[name] for name in SECTIONS}
  for name, section in evals.items():
    # Metrics are called NAME/..., and keys config.evals.NAME....
    if not name or "/" in name or "." in name:
      raise ValueError(
        f"config.evals has an evaluation named {name!r}. A name is not empty "
        "and has no '/' and no '.'."
      )
    sections[f"evals.{name}"] = section
    if isinstance(section, dict):
      sections[f"evals.{name}.data"] = section.get("data")
  for name, section in sections.items():
    if section is not None and not isinstance(section, dict):
      raise ValueError(
        f"config.{name}={section!r} must be a section: keys with values."
      )
  missing = [
    key
    for key in ("batch_size", "data", "model", "optimizer")
    if config[key] is None
  ]
  if missing:
    raise ValueError(f"config needs {', '.join(missing)}.")
  before_data.check_values(config, DEFAULTS)
  return config


class Experiment:
  """Everything that a config describes, built except for the parameters.

  All faults of a config are found here, before the first step.

  Attributes:
    config: plain and complete.
    about_data: the facts about its data that a run keeps, as JSON values:
      `name`, `num_classes`, `class_names`, `num_examples`, `digest` (by
      `Source.digest`), `image_shape`, (H, W, C) of a preprocessed training
      image or (T, H, W, C), and for each of `evals` number and digest of the
      examples.
    parallel: places states and batches on the devices.
    task: the task that is optimised, with its model.
    dials: the dials that training draws from.
    dispatch: "switch" or "host".
    evaluators: by name.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    about_data: Mapping[str, Any] | None = None,
    *,
    begins: bool = False,
    before: Mapping[str, Any] | None = None,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Builds everything but the parameters.

    Args:
      config: its keys are those of `DEFAULTS`.
      about_data: of a run to evaluate, whose training data are not opened. None
        for a training.
      begins: whether the training starts from the weights of `config.init`, so
        that they must exist.
      before: `about_data` of a training that continues from a checkpoint.
      devices: as `parallel.create` takes them.

    Raises:
      ValueError: the config or the data are wrong.
    """
    self.config = config = complete(config)
    self.parallel = parallel_lib.create(config["parallel"], devices)
    batch_size = config["batch_size"]
    is_training = about_data is None
    task_class = tasks.named(config["task"])
    known = about_data or before or {}
    options = {}
    if known.keys() >= {*task_class.remembered}:
      kept = {key: known[key] for key in task_class.remembered}
      options = task_class.data_options(**kept)
    before_data.check(config, options, is_training=is_training)
    if begins and config["init"] is not None:
      interop.fetch(config["init"])
    if is_training:
      self._check_devices()
      about_data = self._open_data(task_class, before)
    self.about_data = about_data = dict(about_data)
    about = {key: about_data[key] for key in task_class.remembered}
    self._data_options = task_class.data_options(**about)
    model = task_class.build_model(config["model"], **about)
    self.task = tasks.create(config["task"], model=model, **about)
    if begins and config["init"] is not None:
      self.task.check_init(config["init"], config["init_fresh"])
    profiler.check(config["profile_steps"], self.steps("total"))
    if is_training:
      self._check_training()
    # The patch size of a tubelet is a dial, its number of frames is not.
    self.dials, self.dispatch = dials.from_config(
      config["flexi"],
      model.own_patch_size,
      self.steps("total"),
      cost=lambda setting: model.cost(self.image_shape, **setting),
    )
    model.check_run(self.image_shape, self.dials.settings, trains=is_training)
    self.evaluators = {
      name: evaluators.create(
        self._completed(section),
        evaluators.Context(
          task=self.task,
          settings=self.dials.settings,
          batch_size=batch_size,
          parallel=self.parallel,
          where=f"config.evals.{name}",
          class_names=about_data.get("class_names"),
        ),
      )
      for name, section in config["evals"].items()
    }
    self._check_evaluated_images()
    about_data["evals"] = {
      name: [
        {"num_examples": len(source), "digest": source.digest()}
        for source in evaluator.sources
      ]
      for name, evaluator in self.evaluators.items()
    }

  @functools.cached_property
  def source(self) -> data_lib.Source:
    """Returns the training data, which are opened at the first call."""
    return data_lib.open_source(self.config["data"], "config.data")

  @functools.cached_property
  def _example(self) -> dict[str, np.ndarray]:
    return data_lib.peek(self.data_section, self.source, "config.data")

  @property
  def data_section(self) -> dict[str, Any]:
    """Returns `config.data` with what the task knows of its data."""
    return {**self._data_options, **self.config["data"]}

  def _completed(self, section: dict[str, Any]) -> dict[str, Any]:
    """Returns an entry of `config.evals` with the same in its data section."""
    if "data" not in section:
      return section
    return {**section, "data": {**self._data_options, **section["data"]}}

  def describe_splits(self) -> list[str]:
    """Returns lines that say which data are read, and which splits overlap."""
    parts = {
      # Of a few-shot evaluation, the last source is for testing.
      name: evaluator.sources[-1].parts
      for name, evaluator in self.evaluators.items()
      if evaluator.sources
    }
    sources = [s for e in self.evaluators.values() for s in e.sources]
    if "source" in vars(self):  # An evaluation does not open it.
      sources.insert(0, self.source)
    notes = dict.fromkeys(note for source in sources for note in source.notes)
    return [*data_lib.describe_splits(self.config, parts), *notes]

  @property
  def image_shape(self) -> tuple[int, ...]:
    """Returns (H, W, C) of a preprocessed training image, or (T, H, W, C)."""
    return tuple(self.about_data["image_shape"])

  def _check_devices(self) -> None:
    """Raises ValueError unless the devices can share a batch of training."""
    batch_size, accumulate = (
      self.config["batch_size"],
      self.config["accumulate"],
    )
    self.parallel.check_batch_size(batch_size, "config.batch_size")
    share = batch_size // self.parallel.num_devices
    if share % accumulate:
      raise ValueError(
        f"config.accumulate={accumulate} does not divide the "
        f"{terminal.counted(share, 'example')} that each device has of a batch."
      )

  def _open_data(
    self, task_class: type[tasks.Task], before: Mapping[str, Any] | None
  ) -> dict[str, Any]:
    """Returns the part of `about_data` about the training data."""
    data, source = self.config["data"], self.source
    sections = self.config["model"], data, source
    about = (
      task_class.about(*sections)
      if before is None
      else task_class.about_again(before, *sections)
    )
    return {
      "name": data["name"],
      **about,
      "num_examples": len(source),
      "digest": source.digest(),
    }

  def _check_training(self) -> None:
    """Raises ValueError for configs that can be evaluated, but not trained."""
    example, task = self._example, self.task
    task.check(example, "config.data.pp")
    self.about_data["image_shape"] = list(example[task.model.input].shape)
    task.check_source(self.source, example)
    self._warn_of_other_values()
    if self.config["model"].get("dtype") == "float16":
      raise ValueError(
        "config.model.dtype='float16' is for inference alone: small gradients "
        "would become 0. Train in 'bfloat16', which needs as little memory, or "
        "in 'float32'."
      )
    if task.is_mean:
      return
    accumulate, batch_size = (
      self.config["accumulate"],
      self.config["batch_size"],
    )
    if accumulate > 1:
      raise ValueError(
        f"config.accumulate={accumulate}: the loss of {type(task).__name__} is "
        "no mean over examples, so micro-batches would change it. Use a "
        "smaller batch, or more devices."
      )
    if batch_size > self._num_examples:
      raise ValueError(
        f"config.batch_size={batch_size}, but there are {self._num_examples} "
        f"examples: {type(task).__name__} compares those of a batch, where "
        "none may be twice. Give --config.batch_size that is no larger."
      )

  def _warn_of_other_values(self) -> None:
    """Warns if weights to start or to learn from expect other values."""
    config, pp = self.config, self.config["data"]["pp"]
    # A continued run no longer needs it, so it need not exist.
    interop.warn_of_other_values(
      "config.init",
      config["init"],
      pp,
      self.task.model.input,
      "config.data.pp",
      config["init_mean"],
      config["init_std"],
    )
    for teacher in getattr(self.task, "teachers", ()):
      teacher.warn_of_other_values(pp, "config.data.pp")

  def _check_evaluated_images(self) -> None:
    """Raises ValueError for images of other channels than those of training.

    It warns of other values, which the model has never seen.
    """
    config, channels = self.config, self.image_shape[-1]
    for name, evaluator in self.evaluators.items():
      where = f"config.evals.{name}.data.pp"
      own = evaluator.image_shape[-1]
      if own != channels:
        raise ValueError(
          f"{where} gives images of {terminal.counted(own, 'channel')}, but "
          f"the model is trained on {channels}. Give both the same."
        )
      pp = config["evals"][name]["data"]["pp"]
      if differ := statistics.differ(
        pp, config["data"]["pp"], self.task.model.input
      ):
        terminal.say(
          f"WARNING: images of {where} are {differ[0]}, but those of "
          f"config.data.pp are {differ[1]}. Give both the same value_range and "
          "standardize."
        )

  @property
  def _num_examples(self) -> int:
    # Older runs did not record it.
    return self.about_data.get("num_examples") or len(self.source)

  def steps(
    self, name: str, default: int | None = None, evaluation: str | None = None
  ) -> int:
    """Resolves a duration of the config to steps.

    Args:
      name: "total", "log", "eval" or "checkpoint".
      default: the result if the config has no such key; None if it must.
      evaluation: an entry of `config.evals`, whose own duration is returned.

    Raises:
      ValueError: the duration is missing, given twice, or below one step.
    """
    where, section = "config", self.config
    if evaluation is not None:
      where = f"config.evals.{evaluation}"
      section = self.config["evals"][evaluation]
    number = configuration.steps(
      section,
      name,
      where,
      batch_size=self.config["batch_size"],
      num_examples=self._num_examples,
      default=default,
    )
    if not number:
      spelled = ", ".join(configuration.duration_keys(name))
      raise ValueError(f"{where} needs one of {spelled}, above 0.")
    return number

  def init_shapes(self) -> Any:
    """Returns the shapes of the parameters, without computing their values."""
    key = jax.random.key(self.config["seed"])
    return jax.eval_shape(lambda: self.task.init(key, self.image_shape))

  def init_params(self) -> Any:
    """Returns the parameters before training: fresh, or from `config.init`.

    Raises:
      ValueError: the weights cannot be read or do not fit the model.
    """
    key = jax.random.key(self.config["seed"])
    params = self.task.init(key, self.image_shape)
    if self.config["init"] is None:
      return self.task.complete(params)
    loaded, changes = interop.load_params_and_report(
      self.config["init"],
      self.task.model,
      params=params,
      fresh=self.config["init_fresh"],
      optional=self.config["init_optional"],
      inflate=self.config["init_inflate"],
      input_mean=self.config["init_mean"],
      input_std=self.config["init_std"],
    )
    terminal.say(f"Starting from {changes}")
    heads.warn_of_other_classes(
      self.config["init"],
      getattr(self.task, "class_names", None),
      changes,
    )
    return self.task.complete(loaded)
