"""The textures of the objects.

All have two tones of equal area and the same wavelengths, so neither the
mean colour nor coarse detail tells them apart: only the fine pattern does.
"""

from collections.abc import Callable

import numpy as np

# Shortest and longest waves of a texture, in shares of the image's side.
SCALES = {
  "fine": (1 / 16, 1 / 13),
  "medium": (1 / 10, 1 / 8),
  "coarse": (1 / 6.5, 1 / 5),
}
# Fewer pixels per wave cannot show the pattern.
MIN_PIXELS = 4
FINEST = min(low for low, _ in SCALES.values())
MIN_SIDE = round(MIN_PIXELS / FINEST)

_TAU = 2 * np.pi
_ROOT_HALF = np.sqrt(0.5)
# The median of three waves, so that the dots have half of the area.
_DOTS_MEDIAN = -0.416


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return np.sin(_TAU * u)


def _slashes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return _stripes(_ROOT_HALF * (u + v), v)


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  # The waves run along the diagonals.
  u, v = _TAU * _ROOT_HALF * u, _TAU * _ROOT_HALF * v
  return np.sin(u) * np.sin(v) * np.sqrt(2)


def _diamonds(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return _checks(_ROOT_HALF * (u + v), _ROOT_HALF * (u - v))


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  # Three waves, 60 degrees apart: a triangular lattice.
  a, b = _TAU * u, _TAU * (0.5 * u + np.sqrt(0.75) * v)
  return (np.cos(a) + np.cos(b) + np.cos(b - a) - _DOTS_MEDIAN) / 1.5


def _zigzag(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  # Stripes whose direction changes by 90 degrees.
  bend = np.abs(np.mod(v / 2, 1) - 0.5) * 2
  return np.sin(_TAU * _ROOT_HALF * (u + bend))


def _weave(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  # Squares of a wave and a half, striped across and along in turn.
  is_across = np.mod(np.floor(u / 1.5) + np.floor(v / 1.5), 2) > 0
  return np.sin(_TAU * np.where(is_across, u, v))


def _rings(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return np.sin(_TAU * np.sqrt(u * u + v * v))


_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "stripes": _stripes,
  "bars": lambda u, v: _stripes(v, u),
  "slashes": _slashes,
  "backslashes": lambda u, v: _slashes(-u, v),
  "checks": _checks,
  "diamonds": _diamonds,
  "dots": _dots,
  "net": lambda u, v: -_dots(u, v),
  "zigzag": lambda u, v: _zigzag(v, u),
  "chevrons": _zigzag,
  "weave": _weave,
  "rings": _rings,
}
NAMES = tuple(_PATTERNS)


def tones(
  texture: int, u: np.ndarray, v: np.ndarray, pixels: float
) -> np.ndarray:
  """Returns the share of the light tone in each pixel.

  Args:
    texture: index in `NAMES`.
    u: coordinates across the object, in wavelengths, an array of any shape.
    v: coordinates along the object, in wavelengths, an array of the same shape.
    pixels: length of a wave in pixels, for edges that are a pixel wide.

  Returns:
    An array of this shape in [0, 1].
  """
  wave = _PATTERNS[NAMES[texture]](u, v)
  # Near its zeros a wave of height 1 has the slope 2 pi per wavelength.
  return np.clip(0.5 + wave * (pixels / _TAU), 0, 1)
