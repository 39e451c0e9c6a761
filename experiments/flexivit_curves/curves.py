"""Accuracies by patch size: what the letters, claims and pictures are made of.

A `Curve` is {patch size: accuracies of the seeds, in [0, 1]}.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import seeds, study
from experiments.flexivit_curves import cells, scales

Curve = Mapping[int, Sequence[float]]


class Curves(NamedTuple):
  """The rows of results.json as curves.

  Attributes:
    trained: by cell.
    resized: of the fixed ViT of a patch size whose kernel was resized, by
      (this size, method, whether images were resized along).
    speed: `size`, `gmacs` and `images_per_s` of FlexiViT at each size; fixed
      models are as fast.
  """

  trained: Mapping[str, Curve]
  resized: Mapping[tuple[int, str, bool], Curve]
  speed: Sequence[Mapping[str, Any]]

  def fixed(self, scale: scales.Scale) -> Curve:
    """Returns the curve of the fixed ViTs, each at its own size."""
    return {s: self.trained[cells.fixed(s)][s] for s in scale.sizes}

  def few(self, scale: scales.Scale) -> Curve:
    """Returns `fixed` for as few steps as FlexiViT takes at each size."""
    return {s: self.trained[cells.few(s)][s] for s in scale.sizes}


def from_rows(rows: Sequence[study.Row]) -> Curves:
  """Returns the curves of results.json."""
  trained, resized, speed = {}, {}, []
  for row in rows:
    if "speed" in row:
      speed.append(row["speed"])
      continue
    if "resized_by" in row:
      size = int(row["cell"].removeprefix(cells.fixed("")))
      key = size, row["resized_by"], row["image_resized"]
      curve = resized.setdefault(key, {})
    else:
      curve = trained.setdefault(row["cell"], {})
    curve[row["patch_size"]] = row["accuracy"]["by_seed"]
  return Curves(trained, resized, speed)


def from_reports(
  reports: Sequence[Mapping[str, Any]], metric: str = "accuracy"
) -> Curve:
  """Returns the curve of a cell from the reports of its seeds."""
  curve = {}
  for report in reports:
    for setting in report["settings"]:
      curve.setdefault(setting["patch_size"], []).append(setting[metric])
  return curve


def percent(curve: Curve, size: int) -> float:
  """Returns the mean accuracy in percent."""
  return 100 * seeds.spread(curve[size])["mean"]


def deviation(curve: Curve, size: int) -> float | None:
  """Returns the standard deviation of the seeds in points; None for one."""
  std = seeds.spread(curve[size])["std"]
  return None if std is None else 100 * std


def ends(curve: Curve, sizes: Sequence[int], unit: str = "") -> str:
  """Returns the means at some sizes, such as "60.0 % -> 75.0 %"."""
  return " -> ".join(f"{percent(curve, size):.1f}{unit}" for size in sizes)


def change(curve: Curve, before: int, after: int) -> str:
  """Returns the means at two sizes and their difference in points."""
  points = seeds.points(curve[after], curve[before])
  return f"{ends(curve, (before, after), ' %')} ({seeds.shown(points)})"


def spread(curve: Curve, sizes: Sequence[int]) -> dict[str, str]:
  """Returns a table's cells: mean and deviation in percent at each size."""
  return {
    f"/{size}": seeds.percent(seeds.spread(curve[size]), 1, "")
    for size in sizes
  }


def draw(
  axes: Any,
  sizes: Sequence[int],
  curve: Curve,
  label: str,
  style: str,
  color: str,
) -> None:
  """Draws a curve over evenly spaced sizes, with the deviation of the seeds.

  Args:
    axes: of Matplotlib.
    sizes: from left to right.
    curve: has them.
    label: in the legend.
    style: of marker and line, as in Matplotlib.
    color: of both.
  """
  axes.errorbar(
    range(len(sizes)),
    [percent(curve, size) for size in sizes],
    yerr=seeds.bars(deviation(curve, size) for size in sizes),
    fmt=style,
    color=color,
    capsize=3,
    label=label,
  )
