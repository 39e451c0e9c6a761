"""The study's figure: accuracy by cost, and what fewer tokens lose late."""

from collections.abc import Mapping
from typing import Any

from experiments import seeds, study
from experiments.video_token_learner import config
from tokenlearner_flexivit.figures import drawing

# Of a cell and the one before all blocks.
_COLORS = {
  "all": "#777777",
  "learned16": "#56b4e9",
  "learned8": "#0072b2",
  "fixed8": "#d55e00",
  "frame": "#009e73",
}
# What cells are, for ticks.
_LINES = {
  "learned16": "16 learned",
  "learned8": "8 learned",
  "fixed8": "8 averages",
  "frame": "1 average",
}


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file."""
  rows = {row["cell"]: row for row in outcome.rows}
  figure = drawing.Figure(figsize=(10, 4.2), layout="constrained")
  left, right = figure.subplots(1, 2)
  _by_cost(left, rows)
  _over_all(right, rows)
  for axes in (left, right):
    study.tidy(axes)
  return {f"figure{outcome.suffix}.png": figure}


def _by_cost(axes: Any, rows: Mapping[str, study.Row]) -> None:
  """Draws each seed as a point; a line from the first block to half of them."""
  for name, row in rows.items():
    color, cost = _COLORS[name.removesuffix("_first")], 1000 * row["gmacs"]
    first = rows.get(f"{name}_first")
    if first is not None:
      axes.plot(
        [1000 * first["gmacs"], cost],
        [100 * first["accuracy"]["mean"], 100 * row["accuracy"]["mean"]],
        ":",
        color=color,
      )
    seeds = [100 * value for value in row["accuracy"]["by_seed"]]
    late = not config.CELLS[name].first
    axes.plot(
      [cost] * len(seeds),
      seeds,
      "o",
      color=color,
      ms=5,
      mfc=color if late else "white",
      label=config.CELLS[name].text if late else None,
    )
  axes.plot([], [], "o", color="black", mfc="white", label="before all blocks")
  axes.set_xlabel("multiply-adds per clip in 10⁶")
  axes.set_ylabel("test accuracy in %")
  axes.set_title("Each seed of each model")
  axes.legend(frameon=False, loc="lower right")


def _over_all(axes: Any, rows: Mapping[str, study.Row]) -> None:
  """Draws differences to all tokens, and their standard errors."""
  names = [
    name
    for name, cell in config.CELLS.items()
    if cell.num_tokens is not None and not cell.first
  ]
  for y, name in enumerate(names):
    over = seeds.between(rows, name, config.BASELINE)
    mean, error = seeds.mean_and_error(over)
    axes.errorbar(mean, y, xerr=error, fmt="o", color=_COLORS[name], capsize=3)
  labels = [
    f"{_LINES[name]}\n{100 * rows[name]['gmacs_ratio']:.0f} % of the cost"
    for name in names
  ]
  axes.set_yticks(range(len(names)), labels)
  axes.invert_yaxis()
  axes.axvline(0, color=_COLORS["all"], ls="--")
  axes.set_xlabel("points over all tokens, mean ± standard error")
  axes.set_title("After half of the blocks, at what cost")
