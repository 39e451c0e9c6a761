"""Tasks: each defines what a training step optimises. All share one loop.

To add a task, write a subclass of `Task`, here or anywhere, and name it in
`TASKS`.
"""

from collections.abc import Mapping
from typing import Any

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.tasks import (
  classification,
  contrastive,
  detection,
  distillation,
  feature_distillation,
  panoptic,
  panoptic_code,
  segmentation,
  segmentation_distillation,
)
from tokenlearner_flexivit.tasks.base import Batch, Task

TASKS = {
  "classification": classification.Classification,
  "contrastive": contrastive.Contrastive,
  "detection": detection.Detection,
  "distillation": distillation.Distillation,
  "feature_distillation": feature_distillation.FeatureDistillation,
  "panoptic": panoptic.Panoptic,
  "panoptic_code": panoptic_code.PanopticCode,
  "segmentation": segmentation.Segmentation,
  "segmentation_distillation": (
    segmentation_distillation.SegmentationDistillation
  ),
}

__all__ = ["TASKS", "Batch", "Task", "check", "create", "named"]


def named(section: Mapping[str, Any]) -> type[Task]:
  """Returns the class that `config.task` names.

  Raises:
    ValueError: no task has this name.
  """
  name = configuration.value(section, "name", "classification")
  return configuration.choose(name, TASKS, "config.task.name")


def _arguments(section: Mapping[str, Any]) -> dict[str, Any]:
  return {key: value for key, value in section.items() if key != "name"}


def check(section: Mapping[str, Any]) -> None:
  """Raises ValueError for keys of `config.task` that are unknown or missing."""
  cls = named(section)
  provided = ("model", *cls.remembered)
  configuration.check_call(cls, _arguments(section), "config.task", provided)


def create(section: Mapping[str, Any], *, model: Any, **about: Any) -> Task:
  """Builds the task that `config.task` names, with its other keys.

  Args:
    section: of the config.
    model: the Flax module.
    **about: the values about the training data that `Task.about` returns.
  """
  return configuration.call(
    named(section), _arguments(section), "config.task", model=model, **about
  )
