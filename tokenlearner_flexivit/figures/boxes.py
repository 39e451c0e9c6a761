"""Pictures of images with boxes around things."""

import dataclasses
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.figures import drawing, palette

_CELL_INCHES = 2.6
_LETTERS_PER_INCH = 13
# Dots per inch of a picture of one image, and its least side in pixels.
_DPI, _LEAST = 100, 640
# Width over height of the images, at the ends of what is shown undistorted.
_RATIOS = (0.4, 2.0)


@dataclasses.dataclass(frozen=True)
class Cell:
  """An image and the boxes in it.

  Attributes:
    image: [H, W, 3], uint8 or in [0, 1].
    boxes: (xmin, ymin, xmax, ymax) in pixels.
    labels: classes.
    scores: in [0, 1]; None for true boxes.
  """

  image: np.ndarray
  boxes: Float[np.ndarray, "n 4"]
  labels: Int[np.ndarray, " n"]
  scores: Float[np.ndarray, " n"] | None = None


def figure(
  rows: Sequence[Sequence[Cell]],
  headings: Sequence[str],
  names: Sequence[str],
  title: str = "",
) -> drawing.Figure:
  """Returns a figure of images, each row of them with the same headings.

  Args:
    rows: of cells.
    headings: of the columns.
    names: of the classes.
    title: of the figure.
  """
  ratios = [cells[0].image.shape[0] / cells[0].image.shape[1] for cells in rows]
  heights = np.clip(ratios, *_RATIOS).tolist()
  size = _CELL_INCHES * len(headings), _CELL_INCHES * sum(heights) + 0.9
  drawn = drawing.Figure(figsize=size, layout="constrained")
  drawn.get_layout_engine().set(w_pad=0.025, h_pad=0.04, wspace=0, hspace=0)
  grid = drawn.subplots(
    len(rows), len(headings), squeeze=False, height_ratios=heights
  )
  for axes_row, cells in zip(grid, rows, strict=True):
    for axes, cell in zip(axes_row, cells, strict=True):
      _draw(axes, cell, names, 6)
  for axes, heading in zip(grid[0], headings, strict=True):
    axes.set_title(heading, fontsize=9)
  if title:
    letters = int(size[0] * _LETTERS_PER_INCH)
    drawn.suptitle(textwrap.fill(title, letters), fontsize=11)
  return drawn


def picture(cell: Cell, names: Sequence[str]) -> drawing.Figure:
  """Returns a figure of one image, of its size if that is large enough.

  Args:
    cell: the image and its boxes.
    names: of the classes.
  """
  height, width = cell.image.shape[:2]
  scale = max(1.0, _LEAST / max(height, width))
  size = width * scale / _DPI, height * scale / _DPI
  drawn = drawing.Figure(figsize=size, dpi=_DPI)
  axes = drawn.add_axes((0, 0, 1, 1))
  _draw(axes, cell, names, 9)
  return drawn


def _draw(axes, cell: Cell, names: Sequence[str], letters: float) -> None:
  """Draws an image, its boxes and, on top, their names."""
  small = max(cell.image.shape[:2]) < 128
  axes.imshow(cell.image, interpolation="nearest" if small else "antialiased")
  shades = palette.colors(len(names)) / 255
  # The best box comes last, on top of the others.
  for i in reversed(range(len(cell.boxes))):
    # Pixel 0 of `imshow` reaches from -0.5 to 0.5.
    xmin, ymin, xmax, ymax = (cell.boxes[i] - 0.5).tolist()
    shade = shades[cell.labels[i]]
    axes.add_patch(
      drawing.patches.Rectangle(
        (xmin, ymin),
        xmax - xmin,
        ymax - ymin,
        fill=False,
        edgecolor=shade,
        linewidth=1.5,
      )
    )
    text = terminal.shortened(names[cell.labels[i]], 30)
    if cell.scores is not None:
      text += f" {100 * cell.scores[i]:.0f} %"
    axes.text(
      max(xmin, -0.5),
      max(ymin, -0.5),
      text,
      fontsize=letters,
      color="black",
      verticalalignment="top",
      clip_on=True,
      bbox=dict(facecolor=shade, edgecolor="none", pad=0.8, alpha=0.8),
    )
  axes.set_axis_off()
