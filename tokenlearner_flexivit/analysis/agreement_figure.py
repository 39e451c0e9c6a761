"""The figure of `agreement`: cost, same answers, and an attribute."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenlearner_flexivit.figures import drawing, heat_map

_BLUE, _ORANGE = "#0072b2", "#d55e00"


def draw(summary: Mapping[str, Any]) -> drawing.Figure:
  """Draws the result of `agreement.summary`, with its first attribute."""
  panels = 3 if summary["attributes"] else 2
  drawn = drawing.Figure(figsize=(3.6 * panels, 4.4), layout="constrained")
  # The last two panels share a column.
  grid = drawn.add_gridspec(2, panels, height_ratios=(3, 1))
  _costs(drawn.add_subplot(grid[:, 0]), summary)
  names = [row["name"] for row in summary["settings"]]
  same = 100 * np.array(summary["same_answer"])
  texts = [[f"{value:.0f}" for value in row] for row in same]
  # A setting always agrees with itself, so colours span the other cells.
  np.fill_diagonal(same, np.nan)
  axes = drawn.add_subplot(grid[:, 1])
  heat_map.draw(axes, same, names, names, texts, slanted=True)
  axes.set_xlabel("setting")
  axes.set_ylabel("other setting")
  axes.set_title("same answer, in % of the images", fontsize=10)
  if summary["attributes"]:
    above = drawn.add_subplot(grid[0, 2])
    below = drawn.add_subplot(grid[1, 2], sharex=above)
    _attribute(above, below, summary["attributes"][0], names)
  return drawn


def _costs(axes: Any, summary: Mapping[str, Any]) -> None:
  """Draws accuracy by cost, of single settings and ensembles."""
  for rows, style, color, label in (
    (summary["settings"], "o-", _BLUE, "one setting"),
    (summary["ensembles"], "^", _ORANGE, "ensemble, all its members' cost"),
  ):
    axes.plot(
      [1000 * row["gmacs"] for row in rows],
      [100 * row["accuracy"] for row in rows],
      style,
      color=color,
      label=label,
    )
  drawing.log_axis(
    axes,
    [1000 * row["gmacs"] for row in summary["settings"] + summary["ensembles"]],
  )
  axes.set_xlabel("multiply-adds per image in 10⁶")
  axes.set_ylabel("accuracy in %")
  axes.set_title("alone and together", fontsize=10)
  axes.margins(y=0.25)  # For the legend.
  axes.legend(frameon=False, fontsize=9, loc="lower right")
  _finish(axes)


def _attribute(
  above: Any, below: Any, attribute: Mapping[str, Any], names: list[str]
) -> None:
  """Draws accuracies and the share of `only fine` examples, by value."""
  parts = attribute["parts"]
  x = np.arange(len(parts))
  colors = drawing.colormaps[heat_map.COLORS](np.linspace(0, 0.85, len(names)))
  for i, (name, color) in enumerate(zip(names, colors, strict=True)):
    values = [100 * part["accuracy"][i] for part in parts.values()]
    above.plot(x, values, "o-", color=color, label=name)
  above.set_ylabel("accuracy in %")
  above.set_title(f"by {attribute['attribute']}", fontsize=10)
  above.tick_params(labelbottom=False)
  above.margins(y=0.3)
  above.legend(frameon=False, fontsize=9, ncols=1 + (len(names) > 4))
  # On a separate scale, since among accuracies a few % would be invisible.
  fine = [100 * part["only_fine"] for part in parts.values()]
  bars = below.bar(x, fine, 0.4, color=_ORANGE)
  below.bar_label(bars, fmt="%.1f", fontsize=9)
  below.margins(y=0.35)
  below.set_title("right only at fine settings", fontsize=10)
  below.set_ylabel("% of\nthe images")
  texts = [attribute.get("names", {}).get(part, part) for part in parts]
  below.set_xticks(x, texts, fontsize=9 if len(texts) < 5 else 8)
  below.set_xlabel(attribute["attribute"])
  if max(map(len, texts)) > 10:  # For example names of quarters.
    below.tick_params(axis="x", labelrotation=20)
  for axes in (above, below):
    _finish(axes)


def _finish(axes: Any) -> None:
  axes.grid(alpha=0.3)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
