"""Checks what of a config needs no data, before these are opened.

To open data for the first time may take hours: videos are decoded, datasets
are made.
"""

from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, evaluators, interop, models, tasks
from tokenlearner_flexivit.train import optimizer, weight_digests


def check(config: Mapping[str, Any], *, is_training: bool) -> None:
  """Raises an error for what is wrong with a config whatever its data.

  What depends on them is left to those that read the sections.

  Args:
    config: complete.
    is_training: whether the sections of the training alone are read.

  Raises:
    ValueError: a key or a value that cannot be.
    FileNotFoundError: there are no weights of a teacher.
  """
  # Any number of classes: the data may tell it.
  section = config["model"]
  number = section.get("num_classes") or 2
  model = models.create(**{**section, "num_classes": number})
  tasks.check(config["task"])
  dials.from_config(config["flexi"], model.patch_size[-2:])
  if is_training:
    data_lib.check_section(config["data"], "config.data")
    optimizer.check(config["optimizer"], config["batch_size"])
  for name, section in config["evals"].items():
    evaluators.check(section, f"config.evals.{name}")
  for key, source in weight_digests.sources(config):
    # Who starts from weights knows whether they are needed still.
    asked = key.startswith("config.evals.") or (
      is_training and key != weight_digests.INIT
    )
    if asked and source and isinstance(source, str):
      try:
        interop.fetch(source)
      except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
