"""An experiment: what a config describes, built and checked."""

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
  models,
  parallel,
  progress,
  tasks,
)

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
  "init_inflate": "central_frame",  # Or "average": of images, for videos.
  "evals": {},
  "parallel": "pmap",  # Or "shard_map"; same result.
  "keep_checkpoints": 3,
  "max_save_failures": 3,  # In a row; then the run stops.
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
  sections |= {f"evals.{name}": section for name, section in evals.items()}
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
  return config


class Experiment:
  """All that a config describes, ready but for the parameters.

  All that can be wrong with a config is found here, before the first step.

  Attributes:
    config: plain and complete.
    source: the training data.
    image_shape: (H, W, C) of a preprocessed training image, or (T, H, W, C).
    task: what is optimised, with its model.
    dials: what training draws from.
    dispatch: "switch" or "host".
    evaluators: by name.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    """Builds everything but the parameters."""
    self.config = config = complete(config)
    configuration.choose(
      config["parallel"], dict.fromkeys(parallel.KINDS), "config.parallel"
    )
    batch_size = config["batch_size"]
    parallel.check_batch_size(batch_size, "config.batch_size")
    share = batch_size // jax.device_count()
    if config["accumulate"] < 1 or share % config["accumulate"]:
      raise ValueError(
        f"config.accumulate={config['accumulate']} does not divide the {share} "
        "examples that each device has of a batch."
      )
    self.source = data_lib.open_source(config["data"])
    example = data_lib.peek(config["data"], self.source)
    model_section = dict(config["model"])
    num_classes = model_section.pop("num_classes", None)
    num_classes = num_classes or self.source.num_classes
    if num_classes is None:
      raise ValueError(
        f"The dataset {config['data']['name']!r} does not tell its number of "
        "classes; set config.model.num_classes."
      )
    if num_classes < (self.source.num_classes or 0):
      raise ValueError(
        f"config.model.num_classes={num_classes} is too small: the dataset "
        f"{config['data']['name']!r} has {self.source.num_classes} classes."
      )
    model = models.create(**model_section, num_classes=num_classes)
    self.task = tasks.create(
      config["task"], model=model, num_classes=num_classes
    )
    self.task.check(example, "config.data.pp")
    _check_loss(self.task, self.source, example)
    self.image_shape = example[model.input].shape
    # A patch of a tubelet is a dial, its frames are none.
    self.dials, self.dispatch = dials.from_config(
      config["flexi"], model.patch_size[-2:], self.steps("total")
    )
    grids = [
      model.check(self.image_shape[:-1], *setting)
      for setting in self.dials.settings
    ]
    _warn_of_sum_pooling(model, self.dials)
    _check_that_tokens_become_fewer(model, self.image_shape, grids)
    self.evaluators = {
      name: evaluators.create(
        section,
        f"config.evals.{name}",
        task=self.task,
        settings=self.dials.settings,
        batch_size=batch_size,
        kind=config["parallel"],
        class_names=self.about_data["class_names"],
      )
      for name, section in config["evals"].items()
    }

  @property
  def about_data(self) -> dict[str, Any]:
    """What users of the trained model need to know of its data, for JSON."""
    _, names = data_lib.classes(self.source, self.config["data"]["pp"])
    return {
      "num_classes": self.task.num_classes,
      "class_names": names,
      "image_shape": list(self.image_shape),
    }

  def steps(
    self, name: str, default: int | None = None, section: Any = None
  ) -> int:
    """Resolves a duration of the config to steps.

    Args:
      name: "total", "log", "eval" or "checkpoint".
      default: the answer if the config is silent; None if it must not be.
      section: where to look, if not at the top of the config.

    Raises:
      ValueError: the duration is missing, given twice, or below one step.
    """
    number = configuration.steps(
      self.config if section is None else section,
      name,
      "config",
      batch_size=self.config["batch_size"],
      num_examples=len(self.source),
      default=default,
    )
    if not number:
      spelled = ", ".join(configuration.duration_keys(name))
      raise ValueError(f"config needs one of {spelled}, above 0.")
    return number

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
      inflate=self.config["init_inflate"],
    )
    progress.say(f"Starting from {changes}")
    return loaded


def _check_loss(
  task: Any, source: data_lib.Source, example: Mapping[str, Any]
) -> None:
  """Refuses a softmax where an example may have several classes."""
  if "label" not in task.batch_keys or not source.has_several:
    return
  is_vector = np.ndim(example["label"]) == 1  # Or an op has chosen one class.
  if is_vector and task.probabilities is jax.nn.softmax:
    raise ValueError(
      f"Examples of {source.name} may have several classes, but "
      "config.task.loss='softmax_xent' is for exactly one. Set "
      "config.task.loss='sigmoid_xent', and type='multilabel' in config.evals."
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
  if sums and len(drawn_from.patch_size.values) > 1:
    warnings.warn(
      "TokenLearner v1.0 with sum pooling gives tokens that grow with the "
      "number of patches, so every patch size gives another scale. Under "
      "several patch sizes use pooling='mean' or version='1.1'.",
      stacklevel=3,
    )
