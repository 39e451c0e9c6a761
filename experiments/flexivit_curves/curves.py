"""Accuracies by patch size: what the letters, claims and pictures are made of.

A `Curve` is {patch size: accuracies of the seeds, in [0, 1]}.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments import study
from experiments.flexivit_curves import cells, scales

Curve = Mapping[int, Sequence[float]]
Curves = Mapping[str, Curve]


def of_reports(reports: Sequence[Mapping[str, Any]]) -> Curve:
  """Returns the curve of a cell from the reports of its seeds."""
  curve = {}
  for report in reports:
    for setting in report["settings"]:
      curve.setdefault(setting["patch_size"], []).append(setting["accuracy"])
  return curve


def of_trials(
  rows: Iterable[Mapping[str, Any]], **chosen: Any
) -> dict[int, Sequence[float]]:
  """Returns the curve of those rows of `resized` that have these values."""
  return {
    row["size"]: row["accuracies"]
    for row in rows
    if all(row[key] == value for key, value in chosen.items())
  }


def of_fixed(scale: scales.Scale, trained: Curves) -> Curve:
  """Returns the curve of the fixed ViTs, each at its own size.

  Args:
    scale: of the study.
    trained: curves by cell.
  """
  return {size: trained[cells.fixed(size)][size] for size in scale.sizes}


def of_few(scale: scales.Scale, trained: Curves) -> Curve:
  """As `of_fixed`, with as few steps as FlexiViT takes at each size."""
  return {size: trained[cells.few(size)][size] for size in scale.sizes}


def points(curve: Curve, size: int) -> float:
  """The mean accuracy in percent."""
  return 100 * study.spread(curve[size])["mean"]


def spread(curve: Curve, size: int) -> float | None:
  """Returns the standard deviation of the seeds in points; None for one."""
  std = study.spread(curve[size])["std"]
  return None if std is None else 100 * std


def difference(
  over: Curve, under: Curve, size: int
) -> tuple[float, float | None]:
  """Accuracy of one curve minus that of another at a size, seed by seed.

  Returns:
    In points: the mean, and its standard error over the seeds (None for one).
  """
  return study.paired_difference(over[size], under[size])
