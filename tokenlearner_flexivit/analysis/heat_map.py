"""A matrix as colours with a number in each cell."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Perceptually uniform, and the same for the colour-blind.
COLORS = "viridis"


def draw(
  axes: Any,
  values: np.ndarray,
  rows: Sequence[str],
  columns: Sequence[str],
  texts: Sequence[Sequence[str]] | None = None,
  limits: tuple[float, float] | None = None,
) -> None:
  """Draws a matrix.

  Args:
    axes: of Matplotlib.
    values: [rows, columns].
    rows: their names.
    columns: their names.
    texts: what stands in the cells, by default the values as whole numbers.
    limits: of the colours, by default the smallest and the largest value.
  """
  low, high = limits or (np.nanmin(values), np.nanmax(values))
  axes.imshow(values, vmin=low, vmax=high, cmap=COLORS, aspect="auto")
  for (y, x), value in np.ndenumerate(values):
    axes.text(
      x,
      y,
      f"{value:.0f}" if texts is None else texts[y][x],
      ha="center",
      va="center",
      fontsize=9,
      color="black" if value > (low + high) / 2 else "white",
    )
  axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
  axes.set_yticks(range(len(rows)), rows)
