"""The study's figure: the plane, what it loses, and the fronts."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import study
from experiments.two_dials import config, hull, planes
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.figures import drawing, heat_map
from tokenlearner_flexivit.models.token_learner import ALL

_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#999999"


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file."""
  scale, plane = outcome.scale, planes.from_rows(outcome.rows)
  both, fixed = plane.two_dials, plane.fixed
  figure = drawing.Figure(figsize=(10, 8.5), layout="constrained")
  grid = figure.subplots(2, 2)
  means = {s: 100 * statistics.fmean(v) for s, v in both.items()}
  lost = {
    s: statistics.fmean(v) for s, v in planes.points_over(both, fixed).items()
  }
  largest = max(2.0, *map(abs, lost.values()))  # Small ones stay pale.
  _heat_map(grid[0, 0], scale, means, "{:.1f}")
  grid[0, 0].set_title(
    f"one model, both dials, {scale.long_steps:,} steps: test accuracy in %"
  )
  around = dict(limits=(-largest, largest), cmap="RdBu")
  _heat_map(grid[0, 1], scale, lost, "{:+.1f}", **around)
  grid[0, 1].set_title(
    f"points over a model of {scale.steps:,} steps for the setting alone"
  )
  each, all_in_all = f", {scale.steps:,} steps", f", {scale.long_steps:,} steps"
  series = {
    f"a model per setting{each}": (fixed, _GREY, "s"),
    f"FlexiViT alone{all_in_all}": (plane.flexivit, _GREEN, "^"),
    f"TokenLearner alone{each}": (plane.token_learner, _ORANGE, "v"),
    f"both dials, one model{all_in_all}": (both, _BLUE, "o"),
  }
  for axes, cost, label in (
    (
      grid[1, 0],
      {s: 1000 * macs for s, macs in plane.gmacs.items()},
      "multiply-adds per image in 10⁶",
    ),
    (
      grid[1, 1],
      {s: 1000 / speed for s, speed in plane.images_per_s.items()},
      "milliseconds per image, measured in batches",
    ),
  ):
    _fronts(axes, series, cost)
    _name_settings(axes, both, cost)
    axes.set_xlabel(label)
  return {f"figure{outcome.suffix}.png": figure}


def _heat_map(
  axes: Any,
  scale: config.Scale,
  values: Mapping[dials.Setting, float],
  form: str,
  **colours: Any,
) -> None:
  numbers = (ALL, *scale.numbers)
  table = np.array(
    [[values[dials.Setting((p, p), n)] for p in scale.sizes] for n in numbers]
  )
  heat_map.draw(axes, table, numbers, scale.sizes, form, **colours)
  axes.set_xlabel("patch size in pixels: cheap to accurate")
  axes.set_ylabel("learned tokens")


def _name_settings(
  axes: Any, plane: planes.Plane, cost: Mapping[dials.Setting, float]
) -> None:
  """Writes patch size and number of tokens beside the points of a plane."""
  for number, (setting, (x, y)) in enumerate(
    zip(plane, planes.points(plane, cost), strict=True)
  ):
    axes.annotate(
      f"{setting.patch_size[0]}, {setting.num_tokens}",
      (x, y),
      textcoords="offset points",
      # Neighbours are close: their words stand above and below in turn.
      xytext=(0, 7 if number % 2 else -13),
      ha="center",
      fontsize=7,
      color=_BLUE,
    )


def _fronts(
  axes: Any,
  series: Mapping[str, tuple[planes.Plane, str, str]],
  cost: Mapping[dials.Setting, float],
) -> None:
  for label, (plane, color, marker) in series.items():
    points = planes.points(plane, cost)
    axes.plot(*zip(*points, strict=True), marker, color=color, label=label)
    axes.plot(*zip(*hull.upper(points), strict=True), "-", color=color, lw=1)
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(drawing.ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(drawing.ticker.StrMethodFormatter("{x:g}"))
  axes.xaxis.set_minor_formatter(drawing.ticker.NullFormatter())
  axes.set_ylabel("test accuracy in %")
  study.tidy(axes)
  axes.legend(
    frameon=False, fontsize=9, title="beside blue points: patch size, tokens"
  )
