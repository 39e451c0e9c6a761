"""An experiment: what a config describes, built and checked."""

import functools
import math
import warnings
from collections.abc import Iterable, Mapping
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
from tokenlearner_flexivit.models.token_learner import ALL
from tokenlearner_flexivit.run import profiler
from tokenlearner_flexivit.train import before_data

# Every key that a config may have, with its default.
DEFAULTS = {
  "seed": 0,
  "batch_size": None,
  "data": None,
  "model": None,
  "flexi": None,  # None trains one patch size, the model's own.
  "task": {"name": "classification"},
  "optimizer": None,
  "accumulate": 1,  # Micro-batches per step on a device.
  "ema_decay": None,
  "init": None,  # Weights to start from: all that interop.load_params reads.
  "init_fresh": [],  # Beginnings of names of what is not taken from there.
  "init_optional": [],  # Likewise, where nothing of that is there.
  "init_inflate": "central_frame",  # Or "average": of images, for videos.
  # Of images in [0, 1], where the weights expect others than 0.5 and 0.5; one
  # number per channel, such as (0.485, 0.456, 0.406).
  "init_mean": None,
  "init_std": None,
  "evals": {},
  "parallel": parallel_lib.DEFAULT,  # How devices share the work.
  "keep_checkpoints": 3,
  "max_save_failures": 3,  # In a row; then the run stops.
  # Steps that JAX's profiler traces, to WORKDIR/profile: from the one to the
  # other, (10, 20), or as many after the first of a start, which may compile.
  "profile_steps": None,
}
SECTIONS = ("data", "model", "flexi", "task", "optimizer", "evals")
DURATIONS = ("total", "log", "eval", "checkpoint")


def complete(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns `config` as plain values with every default filled in.

  None stands for the default; an evaluation of None is left out.

  Raises:
    ValueError: an unknown key, one that is missing, or no section of keys
      where there must be one.
  """
  given = configuration.plain(config)
  known = [*DEFAULTS, *configuration.duration_keys(*DURATIONS)]
  configuration.check_keys(given, known, "config")
  config = {**DEFAULTS, **{k: v for k, v in given.items() if v is not None}}
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
  """All that a config describes, ready but for the parameters.

  All that can be wrong with a config is found here, before the first step.

  Attributes:
    config: plain and complete.
    about_data: what a run keeps of its data, as JSON has it: `name`,
      `num_classes`, `class_names`, `num_examples`, `digest` (see
      `Source.digest`), `image_shape`, (H, W, C) of a preprocessed training
      image or (T, H, W, C), and for each of `evals` number and digest of the
      examples.
    parallel: places states and batches on the devices.
    task: what is optimised, with its model.
    dials: what training draws from.
    dispatch: "switch" or "host".
    evaluators: by name.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    about_data: Mapping[str, Any] | None = None,
    *,
    begins: bool = False,
  ):
    """Builds everything but the parameters.

    Args:
      config: see `DEFAULTS` for its keys.
      about_data: of the run that is to be evaluated: then the training data are
        not opened. None for a training.
      begins: whether the training starts from the weights of `config.init`, so
        that they must be there.

    Raises:
      ValueError: something is wrong with the config or the data.
    """
    self.config = config = complete(config)
    self.parallel = parallel_lib.create(config["parallel"])
    batch_size = config["batch_size"]
    is_training = about_data is None
    task_class = tasks.named(config["task"])
    before_data.check(config, is_training=is_training)
    if begins and config["init"] is not None:
      interop.fetch(config["init"])
    if is_training:
      self._check_devices()
      about_data = self._open_data(task_class)
    self.about_data = about_data = dict(about_data)
    about = {key: about_data[key] for key in task_class.remembered}
    model = task_class.build_model(config["model"], **about)
    self.task = tasks.create(config["task"], model=model, **about)
    profiler.check(config["profile_steps"], self.steps("total"))
    if is_training:
      self._check_training()
    # A patch of a tubelet is a dial, its frames are none.
    self.dials, self.dispatch = dials.from_config(
      config["flexi"],
      model.own_patch_size,
      self.steps("total"),
      cost=lambda setting: model.cost(self.image_shape, **setting),
    )
    grids = [
      model.check(self.image_shape[:-1], **setting)
      for setting in self.dials.settings
    ]
    if is_training:
      _warn_of_sum_pooling(model, self.dials)
    _check_that_tokens_become_fewer(model, self.image_shape, grids)
    self.evaluators = {
      name: evaluators.create(
        section,
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
    """The training data, opened when they are first asked for."""
    return data_lib.open_source(self.config["data"], "config.data")

  @functools.cached_property
  def _example(self) -> dict[str, np.ndarray]:
    return data_lib.peek(self.config["data"], self.source, "config.data")

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(H, W, C) of a preprocessed training image, or (T, H, W, C)."""
    return tuple(self.about_data["image_shape"])

  def _check_devices(self) -> None:
    """Raises ValueError unless the devices can share a batch of training."""
    batch_size, accumulate = (
      self.config["batch_size"],
      self.config["accumulate"],
    )
    self.parallel.check_batch_size(batch_size, "config.batch_size")
    share = batch_size // jax.device_count()
    if share % accumulate:
      raise ValueError(
        f"config.accumulate={accumulate} does not divide the {share} examples "
        "that each device has of a batch."
      )

  def _open_data(self, task_class: type[tasks.Task]) -> dict[str, Any]:
    """Returns what `about_data` says of the training data."""
    data, source = self.config["data"], self.source
    return {
      "name": data["name"],
      **task_class.about(self.config["model"], data, source),
      "num_examples": len(source),
      "digest": source.digest(),
    }

  def _check_training(self) -> None:
    """Raises ValueError for what can be evaluated, and yet not be trained."""
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
    if self.config["accumulate"] > 1 and not task.is_mean:
      raise ValueError(
        f"config.accumulate={self.config['accumulate']}: the loss of "
        f"{type(task).__name__} is no mean over examples, so micro-batches "
        "would change it. Use a smaller batch, or more devices."
      )

  def _warn_of_other_values(self) -> None:
    """Warns where runs to start or to learn from saw images of other values."""
    config, pp = self.config, self.config["data"]["pp"]
    if config["init_mean"] is None and config["init_std"] is None:
      # A run that is continued needs it no more, so it need not be there.
      interop.warn_of_other_values(
        "config.init",
        config["init"],
        pp,
        self.task.model.input,
        "config.data.pp",
      )
    for teacher in getattr(self.task, "teachers", ()):
      teacher.warn_of_other_values(pp, "config.data.pp")

  def _check_evaluated_images(self) -> None:
    """Raises ValueError for images of other channels than those of training.

    Warns of other values, which the model has never seen.
    """
    config, channels = self.config, self.image_shape[-1]
    for name, evaluator in self.evaluators.items():
      where = f"config.evals.{name}.data.pp"
      if evaluator.image_shape[-1] != channels:
        raise ValueError(
          f"{where} gives images of {evaluator.image_shape[-1]} channels, but "
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
    # What older runs have kept does not tell.
    return self.about_data.get("num_examples") or len(self.source)

  def steps(
    self, name: str, default: int | None = None, evaluation: str | None = None
  ) -> int:
    """Resolves a duration of the config to steps.

    Args:
      name: "total", "log", "eval" or "checkpoint".
      default: the answer if the config is silent; None if it must not be.
      evaluation: of `config.evals`, whose own duration is asked for.

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
    """Returns the shapes of the parameters, without any of their values."""
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
      return params
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
    return loaded

  def dearer_settings(self) -> str | None:
    """Says at which settings TokenLearner costs more than it saves, if any."""
    model, parts = self.task.model, []
    if model.token_learner is None:
      return None
    for setting in self.dials.settings:
      without = setting.replace(num_tokens=ALL)
      costs = [
        model.cost(self.image_shape, **each) for each in (setting, without)
      ]
      if setting != without and costs[0] >= costs[1]:
        grid = model.check(self.image_shape[:-1], **setting)
        number = setting.num_tokens or model.token_learner["num_tokens"]
        parts.append(
          f"{setting.name}: {math.prod(grid[-2:])} patches become {number} "
          f"tokens, {costs[0] / 1e6:.4g} M multiply-adds instead of "
          f"{costs[1] / 1e6:.4g} M"
        )
    if not parts:
      return None
    return (
      "TokenLearner makes these settings dearer rather than cheaper: "
      f"{'; '.join(parts)}. At large patches learn fewer tokens, or none."
    )


def _check_that_tokens_become_fewer(
  model: Any,
  image_shape: tuple[int, ...],
  grids: Iterable[tuple[int, ...]],
) -> None:
  """Refuses a TokenLearner that is never given more tokens than it learns."""
  if model.token_learner is None:
    return
  most = max(math.prod(grid[-2:]) for grid in grids)  # Of a frame.
  num_tokens = model.token_learner["num_tokens"]
  if num_tokens > most:
    height, width, _ = image_shape[-3:]
    seen = {"image": "images", "video": "frames"}[model.input]
    raise ValueError(
      f"config.model.token_learner.num_tokens={num_tokens}, but {seen} of "
      f"{height}x{width} pixels give at most {most} tokens. Learn fewer, or "
      f"use a smaller patch size or larger {seen}."
    )


def _warn_of_sum_pooling(model: Any, drawn_from: dials.Dials) -> None:
  """Warns of TokenLearner v1.0 as published under several patch sizes."""
  config = model.token_learner or {"version": None}
  sums = config["version"] == "1.0" and config["pooling"] == "sum"
  if sums and len(drawn_from["patch_size"].values) > 1:
    warnings.warn(
      "TokenLearner v1.0 with sum pooling gives tokens that grow with the "
      "number of patches, so every patch size gives another scale. Under "
      "several patch sizes use pooling='mean' or version='1.1'.",
      stacklevel=3,
    )
