"""Colours of classes that stay apart for the colour-blind.

The first are those of Okabe and Ito (2008). Each further one is, of a lattice
of colours, the farthest from all before it: in OKLab, as it is seen with full
colour vision, with protanopia or with deuteranopia, whichever is the least.
"""

import functools
import itertools

import numpy as np
from jaxtyping import Float, UInt8

# Pixels of no class, which all colours keep away from.
NO_CLASS = (200, 200, 200)
_FIRST = (
  (0, 114, 178),
  (230, 159, 0),
  (0, 158, 115),
  (204, 121, 167),
  (86, 180, 233),
  (213, 94, 0),
  (240, 228, 66),
)
_LEVELS = (0, 36, 73, 109, 146, 182, 219, 255)
# In lightness, from 0 to 1.
_DARKEST = 0.4
# Linear RGB as seen without one kind of cones (Machado et al., 2009, severity
# 1).
_PROTANOPIA = (
  (0.152286, 1.052583, -0.204868),
  (0.114503, 0.786281, 0.099216),
  (-0.003882, -0.048116, 1.051998),
)
_DEUTERANOPIA = (
  (0.367322, 0.860646, -0.227968),
  (0.280085, 0.672501, 0.047413),
  (-0.011820, 0.042940, 0.968881),
)
# From linear RGB to OKLab (Ottosson, 2020).
_TO_CONES = (
  (0.4122214708, 0.5363325363, 0.0514459929),
  (0.2119034982, 0.6806995451, 0.1073969566),
  (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
  (0.2104542553, 0.7936177850, -0.0040720468),
  (1.9779984951, -2.4285922050, 0.4505937099),
  (0.0259040371, 0.7827717662, -0.8086757660),
)


@functools.cache
def colors(number: int) -> UInt8[np.ndarray, "number 3"]:
  """Returns a colour for each class, the first of them for any number."""
  lattice = np.array([*itertools.product(_LEVELS, repeat=3)])
  # Near black, colours are hard to tell apart on most screens.
  is_bright = _as_seen(lattice)[0, :, 0] > _DARKEST
  lattice = np.concatenate([_FIRST, lattice[is_bright]])
  seen = _as_seen(lattice)
  away = np.array([NO_CLASS, (0, 0, 0), (255, 255, 255)])
  least = np.min(
    [_distances(seen, one) for one in _as_seen(away).swapaxes(0, 1)], axis=0
  )
  chosen = []
  for i in range(min(number, len(lattice))):
    best = i if i < len(_FIRST) else int(least.argmax())
    chosen.append(best)
    least = np.minimum(least, _distances(seen, seen[:, best]))
  shown = lattice[chosen].astype(np.uint8)
  return np.resize(shown, (number, 3))


def table(number: int, no_class: int) -> UInt8[np.ndarray, "256 3"]:
  """Returns the palette of an image of bytes, in which one means no class."""
  full = np.full((256, 3), NO_CLASS, np.uint8)
  full[:number] = colors(number)
  full[no_class] = NO_CLASS
  return full


def _as_seen(
  rgb: np.ndarray,
) -> Float[np.ndarray, "3 colors 3"]:
  """Returns colours in OKLab, as they are seen in three ways."""
  share = rgb / 255
  linear = np.where(
    share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4
  )
  ways = (np.eye(3), np.array(_PROTANOPIA), np.array(_DEUTERANOPIA))
  seen = np.stack([linear @ way.T for way in ways]).clip(0, 1)
  return np.cbrt(seen @ np.transpose(_TO_CONES)) @ np.transpose(_TO_LAB)


def _distances(
  seen: Float[np.ndarray, "3 colors 3"], one: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, " colors"]:
  """Returns how far colours are from one, in the way that tells them least."""
  return np.linalg.norm(seen - one[:, None], axis=-1).min(axis=0)
