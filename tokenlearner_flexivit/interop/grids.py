"""Finds the grid of a position embedding, which a file seldom tells."""

import math

Grid = tuple[int, ...]


def posemb_grid(
  num_positions: int,
  has_cls: bool,
  model_grid: Grid | None = None,
  given: Grid | None = None,
  of_video: bool | None = None,
  cls_entry: bool | None = None,
) -> tuple[Grid | None, bool]:
  """Finds the grid of a position embedding, which a file does not tell.

  It is the given one, else the model's if it has as many cells, else a square.
  One entry more than cells is that of the cls token, and comes first.

  For a model for videos it is the model's, or that of one of its frames. A
  square is one of an image, and no guess where it may be one of a video: 196
  cells are 14x14 or 4x7x7.

  Args:
    num_positions: entries.
    has_cls: whether the file has a cls token.
    model_grid: of the model, if there is one.
    given: by the caller, if it is known.
    of_video: whether the file is of a model for videos, if that is known.
    cls_entry: whether there is an entry for the cls token, if that is known.

  Returns:
    the grid, None if there is none, and whether there is an entry for cls.

  Raises:
    ValueError: the given grid has another number of cells.
  """
  root = math.isqrt(num_positions)
  root_without = math.isqrt(max(0, num_positions - 1))
  squares = [(root, root), (root_without, root_without)]
  if given:
    grids = [given]
  elif model_grid is None or len(model_grid) == 2:
    grids = ([model_grid] if model_grid else []) + squares
  elif of_video is None:
    grids = [model_grid, model_grid[1:]]
  else:
    grids = [model_grid] if of_video else [model_grid[1:], *squares]
  for grid in grids:
    if math.prod(grid) == num_positions and not cls_entry:
      return grid, False
    entry = has_cls if cls_entry is None else cls_entry
    if entry and math.prod(grid) == num_positions - 1 > 0:
      return grid, True
  if given:
    raise ValueError(
      f"posemb_grid={given} has {math.prod(given)} cells, but the file's"
      f" position embedding has {num_positions} entries."
    )
  return None, False


def possible_grids(
  num_positions: int, has_cls: bool, cls_entry: bool | None = None
) -> set[Grid]:
  """Returns the grids of two rows and columns or more with so many cells.

  Args:
    num_positions: entries of a position embedding.
    has_cls: whether the file has a cls token.
    cls_entry: whether there is an entry for it, if that is known.
  """
  counts = [] if cls_entry else [num_positions]
  if has_cls if cls_entry is None else cls_entry:
    counts.append(num_positions - 1)
  return {
    (rows, count // rows)
    for count in counts
    for rows in range(2, count // 2 + 1)
    if count % rows == 0
  }


def other_reading(
  num_positions: int,
  grid: Grid,
  has_cls: bool,
  cls_entry: bool | None = None,
) -> str:
  """Returns the warning that a square may be another grid and a cls entry.

  225 positions beside a cls token are 15x15 (FlexiViT, DeiT III) or, of images
  a little wider than high, 14x16 and one for the token.

  Args:
    num_positions: entries of a position embedding.
    grid: what they are taken as.
    has_cls: whether the file has a cls token.
    cls_entry: whether there is an entry for it, if that is known.

  Returns:
    "" where the square is the only likely reading.
  """
  side = math.isqrt(num_positions)
  if not has_cls or cls_entry is not None or side < 3:
    return ""
  if grid != (side, side) or side * side != num_positions:
    return ""
  return (
    f"posemb_grid={grid} and none for the cls token are what the"
    f" {num_positions} positions are taken as; {(side - 1, side + 1)} or"
    f" {(side + 1, side - 1)} and one for the cls token are as possible. Pass"
    " posemb_grid= (on the command line --posemb_grid) to say which"
  )
