"""Heat maps: a matrix as colours with a number in each cell."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Perceptually uniform, and the same for the colour-blind.
COLORS = "viridis"
_NONE = "#cccccc"


def draw(
  axes: Any,
  values: np.ndarray,
  rows: Sequence[Any],
  columns: Sequence[Any],
  texts: str | Sequence[Sequence[str]] = "{:.0f}",
  *,
  limits: tuple[float | None, float | None] = (None, None),
  cmap: str = COLORS,
  slanted: bool = False,
) -> Any:
  """Draws a matrix.

  Args:
    axes: Matplotlib axes.
    values: [rows, columns]; cells that are NaN are grey, for no value.
    rows: names of the rows.
    columns: names of the columns.
    texts: a format for the values, or the text of each cell.
    limits: values of the first and the last colour, by default the smallest and
      the largest value.
    cmap: Matplotlib's name of the colours.
    slanted: whether the names of the columns are slanted, so that long ones
      fit.

  Returns:
    The image, for a colour bar.
  """
  from tokenlearner_flexivit.figures import drawing

  low, high = limits
  colors = drawing.colormaps[cmap].with_extremes(bad=_NONE)
  image = axes.imshow(values, vmin=low, vmax=high, cmap=colors, aspect="auto")
  for (y, x), value in np.ndenumerate(values):
    axes.text(
      x,
      y,
      texts.format(value) if isinstance(texts, str) else texts[y][x],
      ha="center",
      va="center",
      fontsize=9,
      color=_readable_on(image.cmap(image.norm(value))),
    )
  slant = dict(rotation=40, ha="right") if slanted else {}
  axes.set_xticks(range(len(columns)), columns, **slant)
  axes.set_yticks(range(len(rows)), rows)
  return image


def _readable_on(color: tuple[float, ...]) -> str:
  """Returns white or black, by the higher contrast (WCAG 2.1, 1.4.3)."""
  luminance = np.power(color[:3], 2.2) @ (0.2126, 0.7152, 0.0722)
  over_black, under_white = (luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05)
  return "white" if under_white > over_black else "black"
