"""Checks what of a config needs no data, before these are opened.

To open data for the first time may take hours: videos are decoded, datasets
are made.
"""

from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, evaluators, models, tasks
from tokenlearner_flexivit.train import optimizer


def check(config: Mapping[str, Any], *, is_training: bool) -> None:
  """Raises ValueError for what is wrong with a config whatever its data.

  What depends on them is left to those that read the sections.

  Args:
    config: complete.
    is_training: whether the sections of the training alone are read.
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
