"""Finds the grid of a position embedding, which a file seldom stores."""

import math

Grid = tuple[int, ...]


def posemb_grid(
  num_positions: int,
  has_cls: bool,
  model_grid: Grid | None = None,
  known_grid: Grid | None = None,
  for_videos: bool | None = None,
  entries: int | None = None,
  registers: int = 0,
) -> tuple[Grid | None, int]:
  """Returns the grid of a position embedding, which a file does not store.

  It is the known one, else the model's if it has as many cells, else a square.
  What is more than cells are positions of cls and registers, which come first.

  For a model for videos it is the model's grid, or that of one of its frames. A
  square is the grid of an image, so none is guessed for a file that may be of
  videos: 196 cells are 14x14 or 4x7x7.

  Args:
    num_positions: entries.
    has_cls: whether the file has a cls token.
    model_grid: of the model, if there is one.
    known_grid: the file's grid, if the caller knows it.
    for_videos: whether the file is of a model for videos, if that is known.
    entries: how many entries are of cls and registers, if that is known.
    registers: how many the file has.

  Returns:
    the grid, None if there is none, and how many entries are of cls and
    registers.

  Raises:
    ValueError: `known_grid` has another number of cells.
  """
  counts = _counts(has_cls, entries, registers)
  roots = [math.isqrt(max(0, num_positions - count)) for count in counts]
  squares = [(root, root) for root in roots]
  if known_grid:
    grids = [known_grid]
  elif model_grid is None or len(model_grid) == 2:
    grids = ([model_grid] if model_grid else []) + squares
  elif for_videos is None:
    grids = [model_grid, model_grid[1:]]
  else:
    grids = [model_grid] if for_videos else [model_grid[1:], *squares]
  for grid in grids:
    for count in counts:
      if math.prod(grid) == num_positions - count > 0:
        return grid, count
  if known_grid:
    raise ValueError(
      f"posemb_grid={known_grid} has {math.prod(known_grid)} cells, but the"
      f" file's position embedding has {num_positions} entries."
    )
  return None, 0


def _counts(has_cls: bool, entries: int | None, registers: int) -> list[int]:
  """Returns how many entries may be of cls and registers, likely ones first."""
  if entries is not None:
    return [int(entries)]
  return sorted({0, int(has_cls), int(has_cls) + registers})


def possible_grids(
  num_positions: int,
  has_cls: bool,
  entries: int | None = None,
  registers: int = 0,
) -> set[Grid]:
  """Returns all grids for these positions with at least two rows and columns.

  Args:
    num_positions: entries of a position embedding.
    has_cls: whether the file has a cls token.
    entries: how many entries are of cls and registers, if that is known.
    registers: how many the file has.
  """
  cells = [num_positions - n for n in _counts(has_cls, entries, registers)]
  return {
    (rows, count // rows)
    for count in cells
    for rows in range(2, count // 2 + 1)
    if count % rows == 0
  }


def other_reading(
  num_positions: int,
  grid: Grid,
  has_cls: bool,
  entries: int | None = None,
) -> str:
  """Returns a warning if a square may be another grid and a cls entry.

  225 positions beside a cls token are 15x15 (FlexiViT, DeiT III) or, for images
  a little wider than high, 14x16 and one for the token.

  Args:
    num_positions: entries of a position embedding.
    grid: the square that they are taken as.
    has_cls: whether the file has a cls token.
    entries: how many entries are of cls and registers, if that is known.

  Returns:
    "" where the square is the only likely reading.
  """
  side = math.isqrt(num_positions)
  if not has_cls or entries is not None or side < 3:
    return ""
  if grid != (side, side) or side * side != num_positions:
    return ""
  return (
    f"posemb_grid={grid} and none for the cls token are what the"
    f" {num_positions} positions are taken as; {(side - 1, side + 1)} or"
    f" {(side + 1, side - 1)} and one for the cls token are as possible. Pass"
    " posemb_grid= (on the command line --posemb_grid) to say which"
  )
