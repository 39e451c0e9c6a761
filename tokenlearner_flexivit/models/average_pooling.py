"""Average pooling to S tokens, TokenLearner's baseline (its Section 5)."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64


def average_maps(
  num_tokens: int, grid: Sequence[int]
) -> Float64[np.ndarray, "S N"]:
  """Returns the maps of S rectangles that tile the grid.

  The numbers of rows and columns are as equal as S allows (2x4 for 8); the
  larger number runs along the longer side. A cell that several rectangles share
  is divided among them by area, so any grid will do. Each map sums to one.

  Args:
    num_tokens: S.
    grid: (h, w), N = h * w.

  Raises:
    ValueError: a rectangle would be narrower than a cell.
  """
  few = next(
    d for d in range(math.isqrt(num_tokens), 0, -1) if num_tokens % d == 0
  )
  many = num_tokens // few
  rows, columns = (few, many) if grid[0] <= grid[1] else (many, few)
  if rows > grid[0] or columns > grid[1]:
    raise ValueError(
      f"{num_tokens} averages in {rows} rows and {columns} columns need a grid"
      f" of as many patches; it is {grid[0]}x{grid[1]}. Use fewer tokens or a"
      " smaller patch size."
    )
  return np.kron(_averages(rows, grid[0]), _averages(columns, grid[1]))


def _averages(count: int, cells: int) -> Float64[np.ndarray, "{count} {cells}"]:
  """Returns the weights of equal intervals that tile a row of cells."""
  edges = np.linspace(0, cells, count + 1)[:, None]
  cell = np.arange(cells)
  overlap = np.minimum(edges[1:], cell + 1) - np.maximum(edges[:-1], cell)
  return np.maximum(overlap, 0) * (count / cells)
