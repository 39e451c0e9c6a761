"""The study's figure: placement, number of tokens, cost, measured speed."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure as mpl_figure

from experiments.token_learner_placement import cells

Row = dict[str, Any]
_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#777777"
_PLACED = ("at0", "at1_4", "at1_2", "at3_4")
_LEARNED = ("tokens4", "tokens8", "at1_2", "tokens32")
_AVERAGED = ("average8", "average16")


def _accuracy(rows: Mapping[str, Row], names: Sequence[str]) -> dict[str, Any]:
  """Arguments of `errorbar`: means and standard deviations in percent."""
  return dict(
    y=[100 * rows[n]["accuracy"]["mean"] for n in names],
    yerr=[100 * rows[n]["accuracy"]["std"] for n in names],
    capsize=3,
  )


def _baseline(axes: Any, row: Row) -> None:
  mean, std = (100 * row["accuracy"][k] for k in ("mean", "std"))
  axes.axhspan(mean - std, mean + std, color=_GREY, alpha=0.2, lw=0)
  axes.axhline(mean, color=_GREY, ls="--", label="baseline")


def _placement(axes: Any, rows: Mapping[str, Row]) -> None:
  _baseline(axes, rows["baseline"])
  x = range(len(_PLACED))
  axes.errorbar(x, **_accuracy(rows, _PLACED), fmt="o-", color=_BLUE)
  labels = [
    f"{place.removeprefix('at')}\n{100 * rows[name]['gmacs_ratio']:.0f} %"
    for place, name in zip(cells.PLACEMENTS, _PLACED, strict=True)
  ]
  axes.set_xticks(x, labels)
  axes.set_xlabel("share of blocks before TokenLearner, and cost")
  axes.set_title(f"Where: {cells.TOKENS} tokens")


def _numbers(axes: Any, rows: Mapping[str, Row]) -> None:
  _baseline(axes, rows["baseline"])
  for names, label, color, marker in (
    (_LEARNED, "learned", _BLUE, "o-"),
    (_AVERAGED, "averages", _ORANGE, "s-"),
  ):
    numbers = [rows[n]["token_learner"]["num_tokens"] for n in names]
    axes.errorbar(
      numbers, **_accuracy(rows, names), fmt=marker, color=color, label=label
    )
  axes.set_xscale("log", base=2)
  axes.set_xticks(cells.NUMBERS, [str(n) for n in cells.NUMBERS])
  axes.set_xlabel("tokens after half of the blocks")
  axes.set_title("How many, and learned or averaged")
  axes.legend(frameon=False)


def _cost(axes: Any, rows: Mapping[str, Row]) -> None:
  for name, row in rows.items():
    color = {"baseline": _GREY, "average": _ORANGE, "deeper": _GREEN}.get(
      name.rstrip("0123456789"), _BLUE
    )
    x, y = 1000 * row["gmacs"], 100 * row["accuracy"]["mean"]
    axes.plot(x, y, "o", color=color)
    axes.annotate(
      name.replace("_", "/").replace("v1/0", "v1.0"),
      (x, y),
      textcoords="offset points",
      xytext=(5, 3),
      fontsize=8,
    )
  axes.set_xlabel("multiply-adds per image in 10⁶")
  axes.set_title("All of them")
  axes.margins(x=0.12)


def _speed(axes: Any, rows: Mapping[str, Row]) -> None:
  promised = [1 / row["gmacs_ratio"] for row in rows.values()]
  axes.plot([1, max(promised)], [1, max(promised)], "--", color=_GREY)
  axes.plot(
    promised, [row["speedup"] for row in rows.values()], "o", color=_BLUE
  )
  axes.set_xlabel("baseline's multiply-adds over the model's")
  axes.set_ylabel("images per second over the baseline's")
  axes.set_title("Measured, against promised")


def draw(rows: Mapping[str, Row], path: pathlib.Path) -> None:
  """Draws the figure; bars and bands are standard deviations of the seeds."""
  figure = mpl_figure.Figure(figsize=(9, 7), layout="constrained")
  grid = figure.subplots(2, 2)
  for axes, panel in zip(
    grid.flat, (_placement, _numbers, _cost, _speed), strict=True
  ):
    panel(axes, rows)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if panel is not _speed:
      axes.set_ylabel("test accuracy in %")
  figure.savefig(path, dpi=120)
