"""Accuracies by setting: what claims and pictures are made of.

A `Plane` is {setting: accuracies of the seeds, in [0, 1]}.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import seeds, study
from experiments.two_dials import config, hull
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.models.token_learner import ALL

Plane = Mapping[dials.Setting, Sequence[float]]
# Columns of results.json.
_PLANES = ("two_dials", "same_steps", "fixed", "flexivit")


class Planes(NamedTuple):
  """The rows of results.json by setting.

  Attributes:
    two_dials: the model with both dials.
    same_steps: that with as few steps as a model of one setting.
    fixed: the models of one setting each.
    flexivit: FlexiViT alone, at the settings that have all tokens.
    gmacs: multiply-adds per image in 10⁹.
    images_per_s: of the model with both dials, from its file, measured.
  """

  two_dials: Plane
  same_steps: Plane
  fixed: Plane
  flexivit: Plane
  gmacs: Mapping[dials.Setting, float]
  images_per_s: Mapping[dials.Setting, float]

  @property
  def token_learner(self) -> Plane:
    """Returns TokenLearner alone: fixed models of the smallest patches."""
    smallest = min(setting.patch_size for setting in self.fixed)
    return {s: v for s, v in self.fixed.items() if s.patch_size == smallest}


def from_rows(rows: Sequence[study.Row]) -> Planes:
  """Returns the planes of results.json."""
  settings = {
    dials.Setting((row["patch_size"],) * 2, row["num_tokens"]): row
    for row in rows
  }
  accuracies = (
    {s: row[name]["by_seed"] for s, row in settings.items() if row[name]}
    for name in _PLANES
  )
  numbers = (
    {s: row[name] for s, row in settings.items()}
    for name in ("gmacs", "images_per_s")
  )
  return Planes(*accuracies, *numbers)


def from_reports(
  cell: config.Cell, reports: Sequence[Mapping[str, Any]]
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


def from_flexivit_curves(outcome: study.Outcome) -> Plane:
  """Returns the FlexiViT study's results of fixed ViTs.

  They have the same data, recipe and model, but three times the steps.

  Returns:
    {} if that study has no results of this scale and these seeds.
  """
  file = f"flexivit_curves/results{outcome.suffix}.json"
  path = study.ROOT / "experiments" / file
  if not path.exists():
    return {}
  results = json.loads(path.read_text(encoding="utf-8"))
  if results["seeds"] != list(outcome.seeds):
    return {}
  return {
    dials.Setting((size, size), ALL): row["accuracy"]["by_seed"]
    for size in outcome.scale.sizes
    for row in results["rows"]
    # The rows after these are of kernels that were resized.
    if row.get("cell") == f"fixed{size}" and "resized_by" not in row
  }


def points(
  plane: Plane, cost: Mapping[dials.Setting, float], seed: int | None = None
) -> list[hull.Point]:
  """Returns (cost, accuracy in percent) of each setting.

  Args:
    plane: accuracies.
    cost: by setting.
    seed: which of them; None for their mean.
  """
  return [
    (cost[s], 100 * (statistics.fmean(v) if seed is None else v[seed]))
    for s, v in plane.items()
  ]


def points_over(plane: Plane, other: Plane) -> dict[dials.Setting, list[float]]:
  """Returns by how many points a plane is above another, seed by seed."""
  return {s: seeds.points(plane[s], values) for s, values in other.items()}


def in_words(setting: dials.Setting) -> str:
  """Returns a setting for people."""
  return f"/{setting.patch_size[0]}, {setting.num_tokens}"
