"""The study's figure: placement, number of tokens, cost, measured speed.

Accuracies are drawn as points over the baseline, seed by seed: a seed's batches
move all models together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import seeds, study
from experiments.token_learner_placement import config
from tokenlearner_flexivit.figures import drawing

Row = dict[str, Any]
_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#777777"
_PLACED = ("at0", "at1_4", "at1_2", "at3_4")
_LEARNED = ("tokens4", "tokens8", "at1_2", "tokens32")
_AVERAGED = ("average8", "average16")
# Shorter than the cells' own words.
_WORDS = {
  "baseline": "all tokens to the end",
  "deeper": "16 tokens, then more blocks",
}


def _over_baseline(
  rows: Mapping[str, Row], names: Sequence[str]
) -> tuple[list[float], list[float]]:
  """Returns mean differences in points, and their standard errors."""
  means, errors = zip(
    *(seeds.mean_and_error(seeds.between(rows, n, "baseline")) for n in names),
    strict=True,
  )
  return list(means), seeds.bars(errors)


def _placement(axes: Any, rows: Mapping[str, Row]) -> None:
  x = range(len(_PLACED))
  axes.errorbar(
    x, *_over_baseline(rows, _PLACED), fmt="o-", color=_BLUE, capsize=3
  )
  labels = [
    f"{place.removeprefix('at')}\n{100 * rows[name]['gmacs_ratio']:.0f} %"
    for place, name in zip(config.PLACEMENTS, _PLACED, strict=True)
  ]
  axes.set_xticks(x, labels)
  axes.set_xlabel("share of blocks before TokenLearner, and cost")
  axes.set_title(f"Where: {config.TOKENS} tokens")


def _numbers(axes: Any, rows: Mapping[str, Row]) -> None:
  for names, label, color, marker in (
    (_LEARNED, "learned", _BLUE, "o-"),
    (_AVERAGED, "averages", _ORANGE, "s-"),
  ):
    numbers = [rows[n]["token_learner"]["num_tokens"] for n in names]
    axes.errorbar(
      numbers,
      *_over_baseline(rows, names),
      fmt=marker,
      color=color,
      label=label,
      capsize=3,
    )
  axes.set_xscale("log", base=2)
  axes.set_xticks(config.NUMBERS, [str(n) for n in config.NUMBERS])
  axes.set_xlabel("tokens after half of the blocks")
  axes.set_title("How many, and learned or averaged")
  axes.legend(frameon=False)


def _all(axes: Any, rows: Mapping[str, Row]) -> None:
  """Draws the models from cheap to dear, downwards."""
  names = sorted(rows, key=lambda name: rows[name]["gmacs"], reverse=True)
  means, errors = _over_baseline(rows, names)
  for y, name in enumerate(names):
    color = {"baseline": _GREY, "average": _ORANGE, "deeper": _GREEN}.get(
      name.rstrip("0123456789"), _BLUE
    )
    axes.errorbar(means[y], y, xerr=errors[y], fmt="o", color=color, capsize=3)
  axes.axvline(0, color=_GREY, ls="--")
  labels = [
    f"{_WORDS.get(name, rows[name]['model'])}, "
    f"{100 * rows[name]['gmacs_ratio']:.0f} %"
    for name in names
  ]
  axes.set_yticks(range(len(names)), labels)
  axes.set_xlabel("points over the baseline")
  axes.set_title("All of them, and their cost")


def _speed(axes: Any, rows: Mapping[str, Row]) -> None:
  promised = [1 / row["gmacs_ratio"] for row in rows.values()]
  axes.plot([1, max(promised)], [1, max(promised)], "--", color=_GREY)
  axes.plot(
    promised, [row["speedup"] for row in rows.values()], "o", color=_BLUE
  )
  axes.set_xlabel("baseline's multiply-adds over the model's")
  axes.set_ylabel("images per second over the baseline's")
  axes.set_title("Measured, against promised")


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file; bars are standard errors."""
  rows = {row["cell"]: row for row in outcome.rows}
  figure = drawing.Figure(figsize=(10, 7), layout="constrained")
  grid = figure.subplots(2, 2)
  for axes, panel in zip(
    grid.flat, (_placement, _numbers, _all, _speed), strict=True
  ):
    panel(axes, rows)
    study.tidy(axes)
  baseline = 100 * rows["baseline"]["accuracy"]["mean"]
  for axes in grid[0]:
    axes.axhline(0, color=_GREY, ls="--")
    axes.set_ylabel(f"points over the baseline ({baseline:.1f} %)")
  return {f"figure{outcome.suffix}.png": figure}
