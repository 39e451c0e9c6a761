"""Maps drawn over images: a row per image, a column per map.

A map is shown as shares of its own largest weight, so that a wide one is as
visible as a narrow one. The number in its corner tells how narrow it is: the
largest weight as a multiple of the mean, as in "3.2x". It is 1 for a map that
weighs all positions alike and h * w for a map with a single patch. So maps can
be compared across grids, and whether they sum to one (TokenLearner v1.1) or
each weight is in [0, 1] (v1.0).

Letters: H W image, C channels, h w grid, S maps.
"""

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenlearner_flexivit.figures import drawing

# Perceptually uniform, and the same for the colour-blind.
COLORS = "viridis"
_ALPHA = 0.65
_CELL_INCHES = 1.0
_GAP = 0.06  # Between cells, as a share of their size.
_GROUP_GAP = 0.3  # Between the rows of one image and those of the next.
_POINTS_PER_INCH = 16  # Letters of the caption per inch, roughly.
_CAPTION = (
  "3.0x in a corner: the largest weight is 3 times the mean. Colours as over "
  "mid-grey."
)


class Row(NamedTuple):
  """One row of the picture.

  Attributes:
    label: text before the row.
    image: [H, W, 3] in [0, 1], see `displayable`.
    maps: S arrays [h, w], not negative; h and w divide H and W.
    caption: text in the image's corner, such as its class.
    notes: S words, each behind the number in the corner of a map, such as the
      class that the map is for.
  """

  label: str
  image: np.ndarray
  maps: np.ndarray | Sequence[np.ndarray]
  caption: str = ""
  notes: Sequence[str] = ()


def peak(weights: np.ndarray) -> float:
  """Returns the largest weight of a map [h, w] over the mean; 0 for zeros."""
  mean = weights.mean(dtype=np.float64)
  return float(weights.max() / mean) if mean else 0.0


def displayable(image: np.ndarray) -> np.ndarray:
  """Returns an image [H, W, C] of any range as [H, W, 3] in [0, 1].

  Preprocessing may have standardised it, so its own darkest value becomes 0
  and its brightest 1. Images without three channels become grey. Frames of a
  video are passed together, [T, H, W, C], so that they keep their brightness.
  """
  image = np.asarray(image, np.float64)
  if image.shape[-1] != 3:
    image = image.mean(axis=-1, keepdims=True)
  image = image - image.min()
  image = image / (image.max() or 1.0)
  return np.broadcast_to(image, (*image.shape[:-1], 3))


def overlay(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Lays a map over an image.

  Args:
    image: [H, W, 3] in [0, 1], see `displayable`.
    weights: [h, w], not negative; h and w divide H and W.

  Returns:
    [H, W, 3] in [0, 1]: the image in grey under the colour of each patch, from
    violet (weight 0) over green to yellow (the largest of this map).

  Raises:
    ValueError: the grid does not divide the image, or a weight is negative.
  """
  (height, width), (h, w) = image.shape[:2], weights.shape
  if height % h or width % w:
    raise ValueError(
      f"A map of {h} x {w} patches does not divide an image of {height} x "
      f"{width} pixels."
    )
  if not weights.min() >= 0:
    raise ValueError(f"A map has weights >= 0, this one {weights.min()}.")
  shares = np.asarray(weights, np.float64) / (weights.max() or 1.0)
  # Each patch keeps its borders: no interpolation between weights.
  shares = np.kron(shares, np.ones((height // h, width // w)))
  colors = drawing.colormaps[COLORS](shares)[..., :3]
  grey = image.mean(axis=-1, keepdims=True)
  return (1 - _ALPHA) * grey + _ALPHA * colors


def figure(
  rows: Sequence[Row],
  title: str = "",
  names: Sequence[str] | None = None,
  first: str = "image",
) -> drawing.Figure:
  """Draws rows of an image and its maps.

  Rows of one image stand close together, apart from those of the next.

  Args:
    rows: rows with images of one size and the same number of maps.
    title: title of the picture.
    names: names of the maps; None numbers them as tokens.
    first: heading of the column of images.

  Returns:
    A figure to be saved, or shown by a notebook.

  Raises:
    ValueError: there are no rows, their sizes differ, or a map does not suit
      its image.
  """
  shapes = {(*row.image.shape[:2], len(row.maps)) for row in rows}
  if len(shapes) != 1:
    raise ValueError(
      "A figure needs rows of one image size and number of maps, got (height, "
      f"width, maps) {sorted(shapes)}."
    )
  height, width, num_maps = shapes.pop()
  across = round(width * (1 + _GAP))
  tops = _tops(rows, height)
  # One canvas: hundreds of axes would take many seconds to lay out.
  shown = np.ones((tops[-1] + height, across * num_maps + width, 3))
  for top, row in zip(tops, rows, strict=True):
    cells = [row.image]
    cells += [overlay(row.image, weights) for weights in row.maps]
    for j, cell in enumerate(cells):
      left = j * across
      shown[top : top + height, left : left + width] = cell

  # Without pyplot: a notebook keeps its backend, and no window is needed.
  inch = _CELL_INCHES / max(height, width)
  size = (
    max(3.6, inch * shown.shape[1] + 1.6),
    max(2.4, inch * shown.shape[0] + 1.2),
  )
  drawn = drawing.Figure(figsize=size, layout="constrained")
  axes = drawn.subplots()
  axes.imshow(shown)
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0)
  axes.xaxis.tick_top()
  names = [first, *(names or [f"token {s + 1}" for s in range(num_maps)])]
  axes.set_xticks([j * across + width / 2 for j in range(len(names))], names)
  axes.set_yticks(
    [top + height / 2 for top in tops], [row.label for row in rows]
  )
  for top, row in zip(tops, rows, strict=True):
    notes = row.notes or [""] * num_maps
    texts = [row.caption]
    texts += [
      f"{peak(weights):.1f}x {note}".rstrip()
      for weights, note in zip(row.maps, notes, strict=True)
    ]
    for j, text in enumerate(texts):
      if text:
        _write(axes, text, j * across + 0.03 * width, top + 0.03 * height)
  bar = drawn.colorbar(
    drawing.cm.ScalarMappable(cmap=_as_laid_over_grey()),
    ax=axes,
    shrink=min(0.9, 4 / len(rows)),
    anchor=(0, 1),
    pad=0.01,
  )
  bar.set_ticks([0, 1], labels=["0", "max"])
  bar.set_label("weight", labelpad=-12)
  if title:
    letters = int(size[0] * _POINTS_PER_INCH * 0.7)
    drawn.suptitle(textwrap.fill(title, letters), fontsize=11)
  letters = int(size[0] * _POINTS_PER_INCH)
  drawn.supxlabel(textwrap.fill(_CAPTION, letters), fontsize=8)
  return drawn


def _tops(rows: Sequence[Row], height: int) -> list[int]:
  """Returns where each row begins, in pixels of the images."""
  same = [a.image is b.image for a, b in itertools.pairwise(rows)]
  tops = [0]
  for is_same in same:
    # Without two rows of one image there are no groups to keep apart.
    gap = _GAP if is_same or not any(same) else _GROUP_GAP
    tops.append(tops[-1] + round(height * (1 + gap)))
  return tops


def _write(axes: Any, text: str, x: float, y: float) -> None:
  """Writes a text in the corner of a cell, readable on any image."""
  axes.text(
    x,
    y,
    text,
    color="white",
    fontsize=6,
    va="top",
    bbox=dict(boxstyle="square,pad=0.15", fc="black", ec="none", alpha=0.5),
  )


def _as_laid_over_grey() -> drawing.colors.Colormap:
  """Returns the colours as they appear over a mid-grey image."""
  pure = drawing.colormaps[COLORS](np.linspace(0, 1, 256))[:, :3]
  return drawing.colors.ListedColormap((1 - _ALPHA) * 0.5 + _ALPHA * pure)
