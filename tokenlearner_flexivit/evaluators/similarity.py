"""The similarity of a student's features to its teacher's, for every setting.

For the task `feature_distillation`, means over the images of the cosines of

* `cosine`: the representations of the image;
* `patch_cosine`: the patches, those of the teacher on the student's grid, for
  settings that keep all patches.
"""

import functools
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.evaluators import base
from tokenlearner_flexivit.figures.metric import Metric


class Evaluator(base.Evaluator):
  """An evaluator that compares a student with its teacher; labels play no part.

  The teacher answers each batch once.

  Attributes:
    settings: the settings that are evaluated.
    image_shape: (H, W, C) of what the student sees.
    headline: the metric that settings are compared by.
  """

  metrics = MappingProxyType(
    {
      "cosine": Metric("cosine to the teacher"),
      "patch_cosine": Metric("of patches"),
    }
  )
  headline = "cosine"
  needs = ("similarities",)

  def __init__(self, context: base.Context, data: dict[str, Any]):
    """Opens the data and checks that it fits the student and the teacher.

    Args:
      context: with the task `feature_distillation`.
      data: the data section of the config.

    Raises:
      ValueError: no examples, or images that do not fit a model.
    """
    super().__init__(context)
    source = data_lib.open_source(data, f"{self._where}.data")
    self.sources = (source,)
    self._images = self._open(data, source, entries=self._task.batch_keys)
    where_pp = f"{self._where}.data.pp"
    self._task.check(self._images.example, where_pp)
    for teacher in self._task.teachers:
      teacher.warn_of_other_values(data["pp"], where_pp)
    self.image_shape = self._images.shape
    self._ask = self._program(
      "teacher's features",
      functools.partial(_ask, self._task),
      sharded_output=True,
    )
    self._compare = {
      setting: self._program(
        ("similarities", setting),
        functools.partial(_compare, self._task, setting),
        sharded_output=True,
      )
      for setting in self.settings
    }
    self._add = self._program(
      "similarities", functools.partial(_add, self._parallel)
    )

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields `{setting.name}/{cosine,patch_cosine,examples}`."""
    weights = self._task.constants(self._parallel)
    sums = {}
    for batch in self._images:
      mask = batch.pop("mask")
      prepared = self._ask(weights, batch)
      for setting, compare in self._compare.items():
        values = compare(params, prepared)
        if setting not in sums:
          zeros = dict.fromkeys(values, np.float32(0))
          sums[setting] = self._parallel.place(zeros)
        sums[setting] = self._add(sums[setting], {**values, "mask": mask})
    examples = self._images.num_examples
    for setting in self.settings:
      for name, value in jax.device_get(sums[setting]).items():
        yield f"{setting.name}/{name}", float(value) / examples
      yield f"{setting.name}/examples", examples

  def _timed(self, params):
    batch = next(iter(self._images))
    batch.pop("mask")
    prepared = self._ask(self._task.constants(self._parallel), batch)
    return self._compare, (params, prepared)


def _ask(task, weights, batch):
  """Returns a batch with the features of the teacher; runs on each device."""
  return task.prepare(batch, jax.random.key(0), weights)


def _compare(task, setting, params, batch):
  """Returns the cosines of each image; runs on each device."""
  return task.similarities(params, batch, setting)


def _add(parallel, sums, batch):
  """Adds the cosines of one batch; runs on each device."""
  mask = batch.pop("mask")
  return base.add_real(parallel, sums, batch, mask)
