"""Accuracies by setting: what claims and pictures are made of.

A `Plane` is {setting: accuracies of the seeds, in [0, 1]}.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from experiments import study
from experiments.two_dials import cells, config, hull
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.data.rendered_scenes import textures
from tokenlearner_flexivit.models import cost
from tokenlearner_flexivit.models.token_learner import ALL

Plane = Mapping[dials.Setting, Sequence[float]]


def of_reports(
  cell: cells.Cell, reports: Sequence[Mapping[str, Any]]
) -> dict[dials.Setting, list[float]]:
  """Returns the plane of a cell from the reports of its seeds."""
  plane = {}
  for report in reports:
    for row in report["settings"]:
      size, number = row["patch_size"], row["num_tokens"]
      # A model of one number does not name it.
      setting = dials.Setting((size, size), number or cell.numbers[0])
      plane.setdefault(setting, []).append(row["accuracy"])
  return plane


def of_fixed(scale: cells.Scale, planes: Mapping[str, Plane]) -> Plane:
  """Returns the plane of the fixed models, each at its own setting.

  Args:
    scale: of the study.
    planes: by cell.
  """
  return {s: planes[cells.fixed(s)][s] for s in scale.settings}


def of_flexivit_curves(scale: cells.Scale, suffix: str) -> Plane:
  """Returns what the FlexiViT study has of fixed ViTs.

  They have the same data, recipe and model, but three times the steps.

  Args:
    scale: of this study.
    suffix: of the files of that scale, see `options.Options`.

  Returns:
    {} if that study has no results of this scale.
  """
  path = study.ROOT / f"experiments/flexivit_curves/results{suffix}.json"
  rows = (
    json.loads(path.read_text(encoding="utf-8"))["rows"]
    if path.exists()
    else []
  )
  return {
    dials.Setting((size, size), ALL): row["accuracy"]["by_seed"]
    for size in scale.sizes
    for row in rows
    # The rows after these are of kernels that were resized.
    if row.get("cell") == f"fixed{size}" and "resized_by" not in row
  }


def token_learners(scale: cells.Scale, fixed: Plane) -> Plane:
  """Returns TokenLearner alone: the fixed models of the smallest patches."""
  return {s: v for s, v in fixed.items() if s.patch_size[0] == scale.sizes[-1]}


def model_of(scale: cells.Scale) -> nn.Module:
  """Returns the model with both dials."""
  section = config.model_section(cells.of(scale)["two_dials"], scale)
  return models.create(**section, num_classes=len(textures.NAMES))


def costs(scale: cells.Scale) -> dict[dials.Setting, float]:
  """Multiply-adds per image in 10⁹ of the model with both dials."""
  model, shape = model_of(scale), (scale.crop, scale.crop, 3)
  return {s: cost.macs(model, shape, *s) / 1e9 for s in scale.settings}


def points(
  plane: Plane, gmacs: Mapping[dials.Setting, float]
) -> list[hull.Point]:
  """Returns (cost, mean accuracy in percent) of each setting."""
  return [
    (gmacs[setting], 100 * study.spread(values)["mean"])
    for setting, values in plane.items()
  ]


def points_over(plane: Plane, other: Plane) -> dict[dials.Setting, float]:
  """Returns by how many points means are above those of another plane.

  Of the settings of the other one; its seeds need not be as many.
  """
  return {
    s: 100 * (statistics.fmean(plane[s]) - statistics.fmean(values))
    for s, values in other.items()
  }


def name_of(setting: dials.Setting) -> str:
  """A setting for people."""
  number = "all" if setting.num_tokens == ALL else setting.num_tokens
  return f"/{setting.patch_size[0]}, {number}"
