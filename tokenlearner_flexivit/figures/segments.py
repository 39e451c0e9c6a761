"""Pictures of panoptic segments: colours of classes, lines between segments.

Letters: H W map.
"""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.figures import drawing, palette

_CELL_INCHES = 1.7
_HEAD_INCHES = 0.9  # Of the titles.
_LETTERS_PER_INCH = 13
# Dots per inch of a picture of one image, and its least side in pixels.
_DPI, _LEAST = 100, 640
# Maps are drawn with so many pixels on the longer side, at least.
_PIXELS = 240
# Of the colours over an image.
_ALPHA = 0.55
# Smaller segments, as shares of the image, get no name.
_NAMED = 0.002


class Cell(NamedTuple):
  """A map of segments, over an image or alone.

  Attributes:
    segments: numbers, 0 for none.
    classes: of the segments 1, 2, ....
    image: of the map's size, uint8 or in [0, 1]; None for plain colours.
  """

  segments: Integer[np.ndarray, "H W"]
  classes: Integer[np.ndarray, " segments"]
  image: np.ndarray | None = None


def figure(
  rows: Sequence[tuple[np.ndarray, Sequence[Cell]]],
  headings: Sequence[str],
  names: Sequence[str],
  title: str = "",
) -> drawing.Figure:
  """Returns a figure of images and maps, with a legend of the classes shown.

  Args:
    rows: an image in [0, 1], and cells. Images are drawn with the ratio of the
      sides of their first cell: that of the photo, where models see squares.
    headings: of the images, then of the cells.
    names: of all classes.
    title: of the figure.
  """
  shown = sorted(
    {label for _, cells in rows for c in cells for label in c.classes.tolist()}
  )
  sizes = [cells[0].segments.shape for _, cells in rows]
  ratios = [height / width for height, width in sizes]
  heights = np.clip(ratios, 0.4, 2.0).tolist()
  columns = max(1, int(_CELL_INCHES * len(headings) / 1.3))
  lines = -(-len(shown) // columns)
  size = (
    _CELL_INCHES * len(headings),
    _CELL_INCHES * sum(heights) + _HEAD_INCHES + 0.18 * lines,
  )
  drawn = drawing.Figure(figsize=size, layout="constrained")
  drawn.get_layout_engine().set(w_pad=0.025, h_pad=0.04, wspace=0, hspace=0)
  grid = drawn.subplots(
    len(rows), len(headings), squeeze=False, height_ratios=heights
  )
  for axes_row, (image, cells), (height, width) in zip(
    grid, rows, sizes, strict=True
  ):
    extent = 0, width, height, 0
    axes_row[0].imshow(image, interpolation="nearest", extent=extent)
    for axes, cell in zip(axes_row[1:], cells, strict=True):
      axes.imshow(colored(cell, len(names)), interpolation="antialiased")
    for axes in axes_row:
      axes.set_axis_off()
  for axes, heading in zip(grid[0], headings, strict=True):
    axes.set_title(heading, fontsize=9)
  if title:
    letters = int(size[0] * _LETTERS_PER_INCH)
    drawn.suptitle(textwrap.fill(title, letters), fontsize=11)
  shades = palette.colors(len(names)) / 255
  handles = [
    drawing.patches.Patch(
      color=shades[i], label=terminal.shortened(names[i], 18)
    )
    for i in shown
  ]
  if handles:
    drawn.legend(
      handles=handles,
      loc="outside lower center",
      ncols=min(columns, len(handles)),
      fontsize=8,
      frameon=False,
      handlelength=1.4,
    )
  return drawn


def picture(cell: Cell, names: Sequence[str]) -> drawing.Figure:
  """Returns a figure of one map, with the names of the larger segments."""
  height, width = cell.segments.shape
  scale = max(1.0, _LEAST / max(height, width))
  size = width * scale / _DPI, height * scale / _DPI
  drawn = drawing.Figure(figsize=size, dpi=_DPI)
  axes = drawn.add_axes((0, 0, 1, 1))
  pixels = colored(cell, len(names), _LEAST)
  axes.imshow(pixels, interpolation="antialiased")
  axes.set_axis_off()
  larger = len(pixels) / height
  areas = np.bincount(cell.segments.ravel()).tolist()
  windows = ndimage.find_objects(cell.segments)
  for number, (label, window) in enumerate(
    zip(cell.classes.tolist(), windows, strict=True), start=1
  ):
    if areas[number] < _NAMED * cell.segments.size:
      continue
    y, x = np.nonzero(cell.segments[window] == number)
    # The pixel of the segment nearest to its centre lies in it.
    nearest = ((y - y.mean()) ** 2 + (x - x.mean()) ** 2).argmin()
    axes.text(
      (window[1].start + x[nearest] + 0.5) * larger,
      (window[0].start + y[nearest] + 0.5) * larger,
      terminal.shortened(names[label], 24),
      fontsize=9,
      color="black",
      ha="center",
      va="center",
      clip_on=True,
      bbox=dict(facecolor="white", edgecolor="none", pad=0.8, alpha=0.7),
    )
  return drawn


def colored(
  cell: Cell, num_classes: int, pixels: int = _PIXELS
) -> Float[np.ndarray, "height width 3"]:
  """Returns a map in the colours of its classes, in [0, 1].

  Segments are parted by white lines; pixels of none are grey, or show the
  image.

  Args:
    cell: the map.
    num_classes: of the data, for the colours.
    pixels: the least number of the longer side; a smaller map is enlarged.
  """
  larger = -(-pixels // max(cell.segments.shape))
  segments = cell.segments.repeat(larger, 0).repeat(larger, 1)
  shades = palette.colors(num_classes)[cell.classes]
  none = np.array([palette.NO_CLASS], np.uint8)
  shades = np.concatenate([none, shades.reshape(-1, 3)]) / 255
  result = shades[segments]
  if cell.image is not None:
    image = np.asarray(cell.image)
    image = image / 255 if image.dtype == np.uint8 else image
    image = image.repeat(larger, 0).repeat(larger, 1)
    mixed = _ALPHA * result + (1 - _ALPHA) * image
    result = np.where((segments > 0)[..., None], mixed, image)
  result[_borders(segments)] = 1
  return result


def _borders(
  segments: Integer[np.ndarray, "H W"],
) -> Bool[np.ndarray, "H W"]:
  """Returns the pixels whose lower or right neighbour is another segment."""
  is_border = np.zeros(segments.shape, bool)
  is_border[:-1] |= segments[:-1] != segments[1:]
  is_border[:, :-1] |= segments[:, :-1] != segments[:, 1:]
  return is_border
