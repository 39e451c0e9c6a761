"""The figure of `agreement`: cost, same answers, and an attribute."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from tokenlearner_flexivit.analysis import heat_map

_BLUE, _ORANGE = "#0072b2", "#d55e00"


def draw(found: Mapping[str, Any]) -> mpl_figure.Figure:
  """Draws what `agreement.summary` gives; of attributes the first."""
  panels = 3 if found["attributes"] else 2
  drawn = mpl_figure.Figure(figsize=(3.6 * panels, 3.9), layout="constrained")
  axes = drawn.subplots(1, panels)
  _costs(axes[0], found)
  names = [row["name"] for row in found["settings"]]
  same = 100 * np.array(found["same_answer"])
  heat_map.draw(axes[1], same, names, names, slanted=True)
  axes[1].set_title("same answer, in % of the images", fontsize=10)
  if found["attributes"]:
    _attribute(axes[2], found["attributes"][0], names)
  return drawn


def _costs(axes: Any, found: Mapping[str, Any]) -> None:
  """Accuracy by cost of settings alone and together."""
  for rows, style, color, label in (
    (found["settings"], "o-", _BLUE, "one setting"),
    (found["ensembles"], "^", _ORANGE, "ensemble, all its members' cost"),
  ):
    axes.plot(
      [1000 * row["gmacs"] for row in rows],
      [100 * row["accuracy"] for row in rows],
      style,
      color=color,
      label=label,
    )
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  axes.set_xlabel("multiply-adds per image in 10⁶")
  axes.set_ylabel("accuracy in %")
  axes.set_title("alone and together", fontsize=10)
  _finish(axes)


def _attribute(axes: Any, of: Mapping[str, Any], names: list[str]) -> None:
  """Accuracy of each setting, and who only fine ones get right, by value."""
  parts = of["parts"]
  x = np.arange(len(parts))
  colors = matplotlib.colormaps[heat_map.COLORS](
    np.linspace(0, 0.85, len(names))
  )
  for i, (name, color) in enumerate(zip(names, colors, strict=True)):
    values = [100 * part["accuracy"][i] for part in parts.values()]
    axes.plot(x, values, "o-", color=color, label=name)
  fine = [100 * part["only_fine"] for part in parts.values()]
  axes.bar(x, fine, 0.4, color=_ORANGE, label="right only at fine settings")
  axes.set_xticks(x, list(parts))
  axes.set_xlabel(of["attribute"])
  axes.set_ylabel("% of the images with that value")
  axes.set_ylim(0, 100)
  axes.set_title(f"accuracy by {of['attribute']}", fontsize=10)
  _finish(axes)


def _finish(axes: Any) -> None:
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize=8)
