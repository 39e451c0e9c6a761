"""Accuracies by patch size: what the letters, claims and pictures are made of.

A `Curve` is {patch size: accuracies of the seeds, in [0, 1]}.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def points(curve: Curve, size: int) -> float:
  """The mean accuracy in percent."""
  return 100 * statistics.fmean(curve[size])


def spread(curve: Curve, size: int) -> float:
  """The standard deviation of the seeds in points."""
  values = curve[size]
  return 100 * statistics.stdev(values) if len(values) > 1 else 0.0


def difference(over: Curve, under: Curve, size: int) -> tuple[float, float]:
  """Accuracy of one curve minus that of another at a size, seed by seed.

  Returns:
    In points: the mean, and its standard error over the seeds.
  """
  pairs = zip(over[size], under[size], strict=True)
  values = [100 * (a - b) for a, b in pairs]
  error = statistics.stdev(values) / len(values) ** 0.5 if values[1:] else 0.0
  return statistics.fmean(values), error
