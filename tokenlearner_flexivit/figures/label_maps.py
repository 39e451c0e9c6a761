"""Label maps beside their image: a row for each image, a column for each map.

Classes have the colours of `palette`. Pixels of no class are hatched.

Letters: H W image, h w label map.
"""

import collections
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.figures import drawing, palette

_CELL_INCHES = 1.7
_HEAD_INCHES = 0.8  # Of the titles.
# Height over width of the cells of a row; an image beyond has margins.
_RATIOS = (0.4, 2.0)
# Label maps are drawn with so many pixels on the longer side.
_PIXELS = 360
# Small images keep their pixels; others are smoothed.
_SMALL = 128
# Of the diagonal stripes, in such pixels.
_PERIOD, _STRIPE = 12, 3
_STRIPE_COLOR = (120, 120, 120)
_MAX_CLASSES = 24
_LETTERS_PER_INCH = 14


class Row(NamedTuple):
  """One row of the picture.

  Attributes:
    image: in [0, 1], see `overlay.displayable`.
    maps: class numbers, each of a size of its own.
  """

  image: Float[np.ndarray, "H W 3"]
  maps: Sequence[Integer[np.ndarray, "h w"]]


def figure(
  rows: Sequence[Row],
  headings: Sequence[str],
  names: Sequence[str],
  ignore: int,
  title: str = "",
) -> drawing.Figure:
  """Draws images and label maps, with a legend of the classes shown.

  Args:
    rows: with the same number of maps. Images are drawn with the ratio of the
      sides of their first map: that of the photo, where models see squares.
    headings: of the image's column, then of those of the maps.
    names: of all classes.
    ignore: the number of pixels of no class.
    title: of the picture.

  Returns:
    A figure to be saved, or shown by a notebook.
  """
  sizes = [row.maps[0].shape for row in rows]
  ratios = [height / width for height, width in sizes]
  heights = np.clip(ratios, *_RATIOS).tolist()
  handles = _legend(rows, names, ignore, len(headings))
  num_columns = min(len(handles), _legend_columns(handles, len(headings)))
  legend_lines = -(-len(handles) // num_columns)
  size = (
    _CELL_INCHES * len(headings),
    _CELL_INCHES * sum(heights) + _HEAD_INCHES + 0.18 * legend_lines,
  )
  drawn = drawing.Figure(figsize=size, layout="constrained")
  drawn.get_layout_engine().set(w_pad=0.025, h_pad=0.04, wspace=0, hspace=0)
  grid = drawn.subplots(
    len(rows), len(headings), squeeze=False, height_ratios=heights
  )
  shades = palette.colors(len(names))
  for cells, row, (height, width) in zip(grid, rows, sizes, strict=True):
    small = max(row.image.shape[:2]) < _SMALL
    kind = "nearest" if small else "antialiased"
    extent = 0, width, height, 0
    cells[0].imshow(row.image, interpolation=kind, extent=extent)
    for axes, classes in zip(cells[1:], row.maps, strict=True):
      axes.imshow(_colored(classes, shades, ignore), interpolation="nearest")
    for axes in cells:
      axes.set_axis_off()
  for axes, heading in zip(grid[0], headings, strict=True):
    axes.set_title(heading, fontsize=9)
  if title:
    letters = int(size[0] * _LETTERS_PER_INCH)
    drawn.suptitle(textwrap.fill(title, letters), fontsize=11)
  drawn.legend(
    handles=handles,
    loc="outside lower center",
    ncols=num_columns,
    fontsize=8,
    frameon=False,
    handlelength=1.4,
    columnspacing=1.4,
  )
  return drawn


def _colored(
  classes: np.ndarray, shades: np.ndarray, ignore: int
) -> np.ndarray:
  """Returns a label map as colours [height, width, 3], enlarged or reduced."""
  scale = _PIXELS / max(classes.shape)
  rows, columns = (
    np.minimum((np.arange(max(1, round(s * scale))) / scale).astype(int), s - 1)
    for s in classes.shape
  )
  classes = classes[rows][:, columns]
  is_none = classes == ignore
  colored = shades[np.where(is_none, 0, classes)]
  colored[is_none] = palette.NO_CLASS
  diagonal = np.add.outer(np.arange(len(rows)), np.arange(len(columns)))
  colored[is_none & (diagonal % _PERIOD < _STRIPE)] = _STRIPE_COLOR
  return colored


def _legend(
  rows: Sequence[Row], names: Sequence[str], ignore: int, num_cells: int
) -> list[drawing.patches.Patch]:
  """Returns entries for the classes shown, by number, the rarest left out."""
  counts = collections.Counter()
  for row in rows:
    for classes in row.maps:
      numbers, sizes = np.unique(classes, return_counts=True)
      shares = (sizes / classes.size).tolist()
      counts.update(dict(zip(numbers.tolist(), shares, strict=True)))
  has_none = counts.pop(ignore, None) is not None
  shown = sorted(number for number, _ in counts.most_common(_MAX_CLASSES))
  shades = palette.colors(len(names)) / 255
  letters = max(8, int(_CELL_INCHES * num_cells * _LETTERS_PER_INCH) // 4)
  handles = [
    drawing.patches.Patch(
      color=shades[i], label=terminal.shortened(names[i], letters)
    )
    for i in shown
  ]
  if len(counts) > len(shown):
    left = len(counts) - len(shown)
    handles.append(drawing.patches.Patch(alpha=0, label=f"and {left} more"))
  if has_none:
    handles.append(
      drawing.patches.Patch(
        facecolor=np.array(palette.NO_CLASS) / 255,
        edgecolor=np.array(_STRIPE_COLOR) / 255,
        hatch="/////",
        linewidth=0,
        label="no class",
      )
    )
  return handles


def _legend_columns(
  handles: Sequence[drawing.patches.Patch], num_cells: int
) -> int:
  """Returns how many columns of the legend fit below the cells."""
  longest = max(len(handle.get_label()) for handle in handles)
  inches = 0.5 + longest / _LETTERS_PER_INCH
  return max(1, int(_CELL_INCHES * num_cells / inches))
