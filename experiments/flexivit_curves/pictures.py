"""The study's figures: accuracy by patch size, and accuracy by speed."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure as mpl_figure
from matplotlib import ticker

from experiments import study
from experiments.flexivit_curves import curves
from experiments.flexivit_curves.letters import Letter

_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777")
_HIGHLIGHT = "#0072b2"


def file_name(letter: Letter) -> str:
  """The PNG of an item."""
  return f"{letter.key}.png"


def draw(letter: Letter, path: pathlib.Path) -> None:
  """Draws the curves of an item; bars are standard deviations of the seeds."""
  figure = mpl_figure.Figure(figsize=(8.5, 4.2), layout="constrained")
  axes = figure.subplots()
  sizes = sorted({s for c in letter.curves.values() for s in c}, reverse=True)
  colours = _colours(letter)
  for label, curve in letter.curves.items():
    there = [size for size in sizes if size in curve]
    axes.errorbar(
      [sizes.index(size) for size in there],
      [curves.points(curve, size) for size in there],
      yerr=study.bars(curves.spread(curve, size) for size in there),
      fmt="s--" if label in letter.dashed else "o-",
      lw=2.5 if label in letter.highlighted else 1.3,
      color=colours[label],
      capsize=3,
      label=label,
    )
  axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
  axes.set_xlabel(letter.axis)
  _finish(axes, letter.title)
  # Beside the curves, of which some letters have seven.
  figure.legend(frameon=False, fontsize=9, loc="outside right center")
  figure.savefig(path, dpi=110)


def _colours(letter: Letter) -> dict[str, str]:
  """A colour per label; both ways to resize a model have the model's."""
  models = dict.fromkeys(
    label.split(",")[0] if letter.key == "a" else label
    for label in letter.curves
    if label not in letter.highlighted
  )
  of_model = dict(zip(models, _COLOURS, strict=False))
  return {
    label: _HIGHLIGHT
    if label in letter.highlighted
    else of_model[label.split(",")[0] if letter.key == "a" else label]
    for label in letter.curves
  }


def draw_speed(
  rows: Sequence[Mapping[str, Any]],
  series: Mapping[str, curves.Curve],
  path: pathlib.Path,
) -> None:
  """Draws accuracy by measured throughput.

  Args:
    rows: `size` and `images_per_s` of FlexiViT; fixed models are as fast.
    series: curves by label.
    path: the PNG to write.
  """
  figure = mpl_figure.Figure(figsize=(7, 4.5), layout="constrained")
  axes = figure.subplots()
  speed = {row["size"]: row["images_per_s"] for row in rows}
  colours = (_HIGHLIGHT, *_COLOURS)
  # Lines that lie on one another stay visible by their markers and dashes.
  styles = ("o-", "s--", "^:")
  for (label, curve), colour, style in zip(
    series.items(), colours, styles, strict=False
  ):
    axes.errorbar(
      [speed[size] for size in speed],
      [curves.points(curve, size) for size in speed],
      yerr=study.bars(curves.spread(curve, size) for size in speed),
      fmt=style,
      mfc="none",
      color=colour,
      capsize=3,
      label=label,
    )
  for size, x in speed.items():
    low = min(curves.points(curve, size) for curve in series.values())
    axes.annotate(
      f"patch {size}",
      (x, low),
      textcoords="offset points",
      xytext=(0, -18),
      ha="center",
      fontsize=9,
    )
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5, 7)))
  axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  axes.set_xlabel("images per second, measured (log scale)")
  _finish(axes, "Accuracy by speed: the patch size is a dial")
  axes.margins(y=0.12)
  axes.legend(frameon=False, fontsize=9)
  figure.savefig(path, dpi=110)


def _finish(axes: Any, title: str) -> None:
  axes.set_ylabel("test accuracy in %")
  axes.set_title(title)
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
