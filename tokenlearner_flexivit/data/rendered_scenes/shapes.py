"""The outlines of the objects.

Each outline has one axis and a top, so that its orientation can be seen, and is
wide enough to show its texture.
"""

import functools

import cv2
import numpy as np

# OpenCV takes coordinates in units of 2^-6 pixels.
_SUBPIXEL_BITS = 6
_CURVE = np.linspace(0, 1, 49)


def _arrow() -> np.ndarray:
  half = [(0, -0.5), (0.47, 0.02), (0.22, 0.02), (0.22, 0.5)]
  return _with_mirror_image(half)


def _cross() -> np.ndarray:
  half = [(0.19, -0.5), (0.19, -0.24), (0.45, -0.24), (0.45, 0.12)]
  return _with_mirror_image([*half, (0.19, 0.12), (0.19, 0.5)])


def _crescent() -> np.ndarray:
  # Two arcs that meet in the horns, which point up.
  outer = np.pi * (-0.16 + 1.32 * _CURVE)
  x, y = 0.5 * np.cos(outer), 0.5 * np.sin(outer)
  t = 2 * _CURVE[1:-1] - 1
  depth = 0.24 * (1 - t**2)
  inner = np.stack([x[-1] + (x[0] - x[-1]) * (t + 1) / 2, y[0] + depth], 1)
  return np.concatenate([np.stack([x, y], 1), inner])


def _heart() -> np.ndarray:
  t = 2 * np.pi * _CURVE[:-1]
  x = 16 * np.sin(t) ** 3
  y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
  return np.stack([x, y - 2.5], 1) / 33


def _triangle() -> np.ndarray:
  return _with_mirror_image([(0, -0.5), (0.5, 0.42)])


def _with_mirror_image(half: list[tuple[float, float]]) -> np.ndarray:
  """Returns the outline of a right half, listed from the top down."""
  left = [(-x, y) for x, y in reversed(half) if x]
  return np.array([*half, *left], np.float64)


_OUTLINES = {
  "arrow": _arrow,
  "crescent": _crescent,
  "cross": _cross,
  "heart": _heart,
  "triangle": _triangle,
}
NAMES = tuple(_OUTLINES)


@functools.cache
def outline(shape: int) -> np.ndarray:
  """Returns the corners [N, 2] (x right, y down) in [-0.5, 0.5], upright."""
  return _OUTLINES[NAMES[shape]]()


def mask(
  shape: int,
  centre: tuple[float, float],
  extent: float,
  angle: float,
  side: int,
) -> np.ndarray:
  """Returns the mask of an object, with smooth edges.

  Args:
    shape: index in `NAMES`.
    centre: x and y as shares of the image's side.
    extent: side of the square around the upright outline, as a share of the
      image's side.
    angle: clockwise turn in radians.
    side: side of the image in pixels.

  Returns:
    uint8 [side, side], 255 inside.
  """
  turn = np.array(
    [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  )
  corners = np.asarray(centre) + extent * outline(shape) @ turn.T
  # OpenCV's coordinates are those of pixel centres.
  corners = (corners * side - 0.5) * 2**_SUBPIXEL_BITS
  canvas = np.zeros((side, side), np.uint8)
  corners = np.round(corners).astype(np.int32)
  cv2.fillPoly(canvas, [corners], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
  return canvas
