"""The study's figures: accuracy by patch size, and accuracy by speed."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import seeds, study
from experiments.flexivit_curves import curves, letters
from tokenlearner_flexivit.figures import drawing

_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777")
_HIGHLIGHT = "#0072b2"


def file_name(outcome: study.Outcome, key: str) -> str:
  """Returns the PNG of an item, in the folder of the study."""
  return f"figures{outcome.suffix}/{key}.png"


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns a figure for each letter, and that of speed, by file."""
  measured = curves.from_rows(outcome.rows)
  drawn = {
    letter.key: draw(letter)
    for letter in letters.letters(outcome.scale, measured)
  }
  drawn["speed"] = draw_speed(
    measured.speed,
    {
      "FlexiViT": measured.trained["flexi"],
      "distilled FlexiViT": measured.trained["distilled_from_teacher"],
      "a ViT for each size": measured.fixed(outcome.scale),
    },
  )
  return {file_name(outcome, key): figure for key, figure in drawn.items()}


def draw(letter: letters.Letter) -> drawing.Figure:
  """Returns the curves of an item; bars are standard deviations of seeds."""
  figure = drawing.Figure(figsize=(8.5, 4.2), layout="constrained")
  axes = figure.subplots()
  sizes = sorted({s for c in letter.curves.values() for s in c}, reverse=True)
  colours = _colours(letter)
  for label, curve in letter.curves.items():
    known = [size for size in sizes if size in curve]
    axes.errorbar(
      [sizes.index(size) for size in known],
      [curves.percent(curve, size) for size in known],
      yerr=seeds.bars(curves.deviation(curve, size) for size in known),
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
  return figure


def _colours(letter: letters.Letter) -> dict[str, str]:
  """Returns a colour per label; a model has one, however it is resized."""
  models = dict.fromkeys(
    label.split(",")[0] if letter.key == "a" else label
    for label in letter.curves
    if label not in letter.highlighted
  )
  by_model = dict(zip(models, _COLOURS, strict=False))
  return {
    label: _HIGHLIGHT
    if label in letter.highlighted
    else by_model[label.split(",")[0] if letter.key == "a" else label]
    for label in letter.curves
  }


def draw_speed(
  rows: Sequence[Mapping[str, Any]],
  series: Mapping[str, curves.Curve],
) -> drawing.Figure:
  """Returns accuracy by measured throughput.

  Args:
    rows: `size` and `images_per_s` of FlexiViT; fixed models are as fast.
    series: curves by label.
  """
  figure = drawing.Figure(figsize=(7, 4.5), layout="constrained")
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
      [curves.percent(curve, size) for size in speed],
      yerr=seeds.bars(curves.deviation(curve, size) for size in speed),
      fmt=style,
      mfc="none",
      color=colour,
      capsize=3,
      label=label,
    )
  for size, x in speed.items():
    low = min(curves.percent(curve, size) for curve in series.values())
    axes.annotate(
      f"patch {size}",
      (x, low),
      textcoords="offset points",
      xytext=(0, -18),
      ha="center",
      fontsize=9,
    )
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(drawing.ticker.LogLocator(subs=(1, 2, 3, 5, 7)))
  axes.xaxis.set_major_formatter(drawing.ticker.StrMethodFormatter("{x:,.0f}"))
  axes.xaxis.set_minor_formatter(drawing.ticker.NullFormatter())
  axes.set_xlabel("images per second, measured (log scale)")
  _finish(axes, "Accuracy by speed: the patch size is a dial")
  axes.margins(y=0.12)
  axes.legend(frameon=False, fontsize=9)
  return figure


def _finish(axes: Any, title: str) -> None:
  axes.set_ylabel("test accuracy in %")
  axes.set_title(title)
  study.tidy(axes)
