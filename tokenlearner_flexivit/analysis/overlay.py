"""Maps drawn over images: a row per image, a column per map.

A map is shown as shares of its own largest weight, so that a wide one is as
visible as a narrow one; how narrow it is says the number in its corner, the
largest weight as a multiple of the mean, as in "3.2x". It is 1 for a map that
weighs all positions alike and h * w for one that takes a single patch. So maps
can be compared whatever the grid, and whether they sum to one (TokenLearner
v1.1) or each weight is in [0, 1] by itself (v1.0).

Letters: H W image, C channels, h w grid, S maps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import cm
from matplotlib import colors as mpl_colors
from matplotlib import figure as mpl_figure

# Perceptually uniform, and the same for the colour-blind.
COLORS = "viridis"
_ALPHA = 0.65
_CELL_INCHES = 1.0
_GAP = 0.06  # Between cells, as a part of their size.


class Row(NamedTuple):
  """What a row of the picture shows.

  Attributes:
    label: stands before the row.
    image: [H, W, 3] in [0, 1], see `displayable`.
    maps: S of [h, w], not negative; h and w divide H and W.
  """

  label: str
  image: np.ndarray
  maps: np.ndarray | Sequence[np.ndarray]


def peak(weights: np.ndarray) -> float:
  """Returns the largest weight of a map [h, w] by their mean; 0 if all are."""
  mean = weights.mean(dtype=np.float64)
  return float(weights.max() / mean) if mean else 0.0


def displayable(image: np.ndarray) -> np.ndarray:
  """Returns an image [H, W, C] of any range as [H, W, 3] in [0, 1].

  Preprocessing may have standardised it, so its own darkest value becomes 0
  and its brightest 1. What has not three channels is shown in grey. Frames of a
  video are given together, [T, H, W, C], so that they keep their brightness.
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
  colors = matplotlib.colormaps[COLORS](shares)[..., :3]
  grey = image.mean(axis=-1, keepdims=True)
  return (1 - _ALPHA) * grey + _ALPHA * colors


def figure(
  rows: Sequence[Row], title: str = "", names: Sequence[str] | None = None
) -> mpl_figure.Figure:
  """Draws rows of an image and its maps.

  Args:
    rows: of images of one size, with the same number of maps.
    title: of the picture.
    names: of the maps; None numbers them as tokens.

  Returns:
    A figure to be saved, or shown by a notebook.

  Raises:
    ValueError: no rows, rows that differ, or as `overlay`.
  """
  shapes = {(*row.image.shape[:2], len(row.maps)) for row in rows}
  if len(shapes) != 1:
    raise ValueError(
      "A figure needs rows of one image size and number of maps, got (height, "
      f"width, maps) {sorted(shapes)}."
    )
  height, width, num_maps = shapes.pop()
  down, across = (round(side * (1 + _GAP)) for side in (height, width))
  # One canvas: hundreds of axes would take many seconds to lay out.
  canvas = np.ones((len(rows) * down, (1 + num_maps) * across, 3))
  for i, row in enumerate(rows):
    cells = [row.image]
    cells += [overlay(row.image, weights) for weights in row.maps]
    for j, cell in enumerate(cells):
      top, left = i * down, j * across
      canvas[top : top + height, left : left + width] = cell
  shown = canvas[: down * len(rows) - down + height]
  shown = shown[:, : across * num_maps + width]

  # Without pyplot: a notebook keeps its backend, and no window is needed.
  size = (
    _CELL_INCHES * (1 + num_maps) * width / max(height, width) + 1.6,
    _CELL_INCHES * len(rows) * height / max(height, width) + 0.9,
  )
  drawn = mpl_figure.Figure(figsize=size, layout="constrained")
  axes = drawn.subplots()
  axes.imshow(shown)
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0)
  axes.xaxis.tick_top()
  names = names or [f"token {s}" for s in range(1, num_maps + 1)]
  names = ["image", *names]
  axes.set_xticks([j * across + width / 2 for j in range(len(names))], names)
  axes.set_yticks(
    [i * down + height / 2 for i in range(len(rows))],
    [row.label for row in rows],
  )
  for i, row in enumerate(rows):
    for j, weights in enumerate(row.maps, start=1):
      axes.text(
        j * across + 0.03 * width,
        i * down + 0.03 * height,
        f"{peak(weights):.1f}x",
        color="white",
        fontsize=6,
        va="top",
        bbox=dict(boxstyle="square,pad=0.15", fc="black", ec="none", alpha=0.5),
      )
  bar = drawn.colorbar(
    cm.ScalarMappable(cmap=_as_laid_over_grey()),
    ax=axes,
    shrink=min(0.9, 4 / len(rows)),
    anchor=(0, 1),
    pad=0.01,
  )
  bar.set_ticks([0, 1], labels=["0", "max"])
  bar.set_label("weight (over mid-grey)", labelpad=-12)
  if title:
    drawn.suptitle(title)
  axes.set_xlabel(
    "3.0x in a corner: the largest weight is 3 times the mean", fontsize=8
  )
  return drawn


def _as_laid_over_grey() -> mpl_colors.Colormap:
  """The colours as they are over an image that is neither dark nor bright."""
  pure = matplotlib.colormaps[COLORS](np.linspace(0, 1, 256))[:, :3]
  return mpl_colors.ListedColormap((1 - _ALPHA) * 0.5 + _ALPHA * pure)
