"""The figure of `correspondence`: maps of similarity, and rates."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenlearner_flexivit.figures import drawing, heat_map, overlay

_BEST = "#d55e00"


def draw(
  images: np.ndarray,
  maps: Mapping[str, np.ndarray],
  measured: Any,
  *,
  source: str,
  grid: tuple[int, int],
  position: tuple[float, float],
) -> drawing.Figure:
  """Draws a row for each image, a column for each map, and the rates.

  Args:
    images: [B, H, W, C].
    maps: cosine similarity by name of the setting, [B, h', w'].
    measured: the `Matches` of these settings.
    source: name of the setting of the chosen token.
    grid: (h, w) of that setting.
    position: of the chosen token, from the top and from the left, in [0, 1).
  """
  rows, columns = len(images), 1 + len(maps)
  drawn = drawing.Figure(
    figsize=(1.3 * columns + 4.2, max(3.8, 1.35 * rows + 1)),
    layout="constrained",
  )
  left, right = drawn.subfigures(1, 2, width_ratios=(1.3 * columns + 0.6, 3.6))
  axes = left.subplots(rows, columns, squeeze=False)
  low = min(x.min() for x in maps.values())
  for i, image in enumerate(images):
    axes[i, 0].imshow(overlay.displayable(image), extent=(0, 1, 1, 0))
    for axis, setting_maps in zip(axes[i, 1:], maps.values(), strict=True):
      shown = axis.imshow(
        setting_maps[i],
        extent=(0, 1, 1, 0),
        vmin=low,
        vmax=1,
        cmap=heat_map.COLORS,
      )
      best = np.unravel_index(setting_maps[i].argmax(), setting_maps[i].shape)
      y, x = (np.array(best) + 0.5) / setting_maps[i].shape
      # Drawn above the square, which may be at the same place and smaller.
      axis.plot(x, y, "o", color=_BEST, mec="white", ms=7, zorder=3)
    for axis in axes[i]:
      _square(axis, grid, position)
      axis.set_xticks([])
      axis.set_yticks([])
  for axis, name in zip(axes[0], (f"token of\n{source}", *maps), strict=True):
    axis.set_title(name, fontsize=10)
  left.colorbar(shown, ax=axes, label="cosine similarity", shrink=0.8, pad=0.02)
  left.supxlabel(
    "square: the chosen token; dot: the most similar one at that setting",
    fontsize=10,
  )
  _rates(right.subplots(), measured, list(maps))
  return drawn


def _square(
  axis: Any, grid: tuple[int, int], position: tuple[float, float]
) -> None:
  """Marks the patch of a grid that contains a position."""
  (top, height), (left, width) = (
    (int(p * n) / n, 1 / n) for p, n in zip(position, grid, strict=True)
  )
  x = left + width * np.array([0, 1, 1, 0, 0])
  y = top + height * np.array([0, 0, 1, 1, 0])
  # White on black is visible on any colour.
  axis.plot(x, y, color="black", lw=2.6, zorder=2)
  axis.plot(x, y, color="white", lw=1.2, zorder=2)


def _rates(axes: Any, measured: Any, names: list[str]) -> None:
  rates, chance = 100 * measured.rates, 100 * measured.chance
  texts = [
    [f"{rates[i, j]:.0f}\n({chance[i, j]:.0f})" for j in range(len(names))]
    for i in range(len(names))
  ]
  # Every token is most similar to itself: these 100 % would make the other
  # cells all one colour.
  others = np.where(np.eye(len(names), dtype=bool), np.nan, rates)
  high = np.nanmax(others, initial=1)
  heat_map.draw(
    axes, others, names, names, texts, limits=(0, high), slanted=True
  )
  axes.set_xlabel("most similar token, of")
  axes.set_ylabel("token of")
  axes.set_title("at the same place, in %\n(by chance)", fontsize=10)
