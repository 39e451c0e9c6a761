"""Checks of a config that need no data, made before the data are opened.

Opening data for the first time may take hours, since videos are decoded and
datasets are prepared.
"""

from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, evaluators, interop, tasks
from tokenlearner_flexivit.train import optimizer, weight_digests


def check(
  config: Mapping[str, Any],
  data_options: Mapping[str, Any],
  *,
  is_training: bool,
) -> None:
  """Raises an error for faults of a config that do not depend on its data.

  Other faults are left to the readers of the sections.

  Args:
    config: complete.
    data_options: keys that a run adds to its data sections, as far as they are
      known.
    is_training: whether the sections that only training reads are checked.

  Raises:
    ValueError: an unknown key or an invalid value.
    FileNotFoundError: the weights of a teacher do not exist.
  """
  model = tasks.named(config["task"]).build_model(config["model"])
  tasks.check(config["task"])
  dials.from_config(config["flexi"], model.own_patch_size)
  if is_training:
    section = {**data_options, **config["data"]}
    data_lib.check_section(section, "config.data")
    optimizer.check(config["optimizer"], config["batch_size"])
  for name, section in config["evals"].items():
    if isinstance(section.get("data"), Mapping):
      section = {**section, "data": {**data_options, **section["data"]}}
    evaluators.check(section, f"config.evals.{name}")
  for key, source in weight_digests.sources(config):
    # The caller that starts from weights knows whether they are still needed.
    asked = key.startswith("config.evals.") or (
      is_training and key != weight_digests.INIT
    )
    if asked and source and isinstance(source, str):
      try:
        interop.fetch(source)
      except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def check_values(
  config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
  """Raises ValueError for a value of the wrong type or out of its range.

  The readers of the sections check those.

  Args:
    config: complete.
    defaults: of its keys.
  """
  whole = {
    "seed": f"[0, {2**32})",
    "batch_size": "[1, inf)",
    "accumulate": "[1, inf)",
    "keep_checkpoints": "[1, inf)",
    "max_save_failures": "[1, inf)",
  }
  for key, interval in whole.items():
    configuration.check_number(
      config[key], f"config.{key}", interval, whole=True
    )
  if type(config["eval_first"]) is not bool:
    raise ValueError(
      f"config.eval_first={config['eval_first']!r} must be True or False."
    )
  if config["ema_decay"] is not None:
    configuration.check_number(
      config["ema_decay"], "config.ema_decay", "[0, 1)"
    )
  if (number := config["model"].get("num_classes")) is not None:
    where = "config.model.num_classes"
    configuration.check_number(number, where, "[1, inf)", whole=True)
  configuration.choose(
    config["init_inflate"],
    dict.fromkeys(("central_frame", "average")),
    "config.init_inflate",
  )
  init = config["init"]
  if not (init is None or (isinstance(init, str) and init)):
    raise ValueError(
      f"config.init={init!r} must be a file, a workdir or a released name."
    )
  for key in ("init_fresh", "init_optional"):
    names = config[key]
    if not isinstance(names, list) or any(type(x) is not str for x in names):
      raise ValueError(
        f"config.{key}={names!r} must be a list of names or of beginnings "
        "of names, such as ('head/',)."
      )
  for key in ("init_fresh", "init_optional", "init_inflate"):
    if init is None and config[key] != defaults[key]:
      raise ValueError(
        f"config.{key}={config[key]!r} is about the weights of config.init, "
        "which is None. Leave it out, or name weights."
      )
  for key, interval in (
    ("init_mean", "(-inf, inf)"),
    ("init_std", "(-inf, 0) or (0, inf)"),  # Negative values invert the images.
  ):
    if config[key] is None:
      continue
    configuration.check_numbers(config[key], f"config.{key}", interval)
    if init is None:
      raise ValueError(
        f"config.{key}={config[key]!r} is one number per channel of the images "
        "that the weights of config.init expect, which is None."
      )
