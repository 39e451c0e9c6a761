"""Label maps: the class of every pixel of an image, and their files.

Letters: H W original image, h w prepared image, C classes.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.figures import palette

# So many classes fit in a PNG of one byte per pixel, and of two.
_BYTE, _TWO_BYTES = 1 << 8, 1 << 16
# Pixels that are compared at a time, so that they stay in the cache.
_BAND = 1 << 16


def best_classes(
  logits: Float[np.ndarray, "h w C"], place: geometry.Place, ignore: int
) -> Integer[np.ndarray, "H W"]:
  """Returns the most likely class of each pixel of the original image.

  Logits are interpolated bilinearly between the centres of pixels, without
  antialiasing and without those of padding, as evaluations do that compare at
  the original size. Pixels that the prepared image does not show, because they
  are cropped, have the class `ignore`, as those whose logits are not numbers.

  Args:
    logits: of the prepared image.
    place: where this shows the original one.
    ignore: the number that stands for no class.

  Returns:
    One byte per pixel where all numbers fit.

  Raises:
    ValueError: the preprocessing rotates or shears images.
  """
  down, across = _scales(place)
  height, width = place.size
  down, across = (
    _taps(old, new, scale, shift)
    for old, new, (scale, shift) in zip(
      logits.shape[:2],
      place.size,
      ((down, place.matrix[1, 2]), (across, place.matrix[0, 2])),
      strict=True,
    )
  )
  # Class by class: NumPy is slow along a short last axis.
  planes = np.ascontiguousarray(np.moveaxis(logits, -1, 0))
  classes = np.empty((height, width), _dtype(len(planes), ignore))
  step = max(1, _BAND // width)
  for start in range(0, height, step):
    rows = slice(start, start + step)
    classes[rows] = _best(planes, down.part(rows), across, ignore)
  classes[~down.is_shown] = ignore
  classes[:, ~across.is_shown] = ignore
  return classes


def nearest(
  numbers: Integer[np.ndarray, "h w"], place: geometry.Place, outside: int
) -> Integer[np.ndarray, "H W"]:
  """Returns a map of the original image, each pixel from the nearest one.

  Args:
    numbers: the map of the prepared image.
    place: where this shows the original one.
    outside: the number of pixels that the prepared image does not show.

  Raises:
    ValueError: the preprocessing rotates or shears images.
  """
  axes = []
  for old, new, scale, shift in zip(
    numbers.shape,
    place.size,
    _scales(place),
    place.matrix[::-1, 2].tolist(),
    strict=True,
  ):
    places = np.floor(scale * (np.arange(new) + 0.5) + shift).astype(int)
    axes.append((places.clip(0, old - 1), (places >= 0) & (places < old)))
  (rows, is_row), (columns, is_column) = axes
  result = numbers[rows][:, columns]
  result[~is_row] = outside
  result[:, ~is_column] = outside
  return result


def _scales(place: geometry.Place) -> tuple[float, float]:
  """Returns how many prepared pixels an original one is, down and across.

  Raises:
    ValueError: the preprocessing rotates or shears images.
  """
  (across, shear, _), (slant, down, _) = place.matrix
  if shear or slant or not (across and down):
    raise ValueError(
      "The preprocessing rotates or shears images, so that pixels of its "
      "results cannot be brought back to rows and columns of the original. "
      "Take such ops out of the evaluation."
    )
  return down, across


class _Taps(NamedTuple):
  """The logits beside pixels along an axis.

  Attributes:
    first: number of the first of two.
    second: number of the second.
    weight: of the second.
    is_shown: whether the logits reach the pixel.
  """

  first: np.ndarray
  second: np.ndarray
  weight: np.ndarray
  is_shown: np.ndarray

  def part(self, pixels: slice) -> "_Taps":
    """Returns those of some pixels."""
    return _Taps(*(values[pixels] for values in self))

  def between(self, values: np.ndarray, axis: int) -> np.ndarray:
    """Interpolates [h, w] along an axis."""
    low = values.take(self.first, axis)
    if not self.weight.any():
      return low
    weight = self.weight[:, None] if axis == 0 else self.weight[None]
    return low + (values.take(self.second, axis) - low) * weight


def _best(
  planes: Float[np.ndarray, "C h w"], down: _Taps, across: _Taps, ignore: int
) -> Integer[np.ndarray, "rows W"]:
  """Returns the most likely classes of some rows of pixels."""
  for number, plane in enumerate(planes):
    value = across.between(down.between(plane, 0), 1)
    if not number:
      best = np.zeros(value.shape, np.int32)
      highest = value
      continue
    is_higher = value > highest
    best[is_higher] = number
    highest = np.maximum(value, highest)  # NaN if either is.
  is_none = np.isnan(highest)
  return np.where(is_none, ignore, best) if is_none.any() else best


def _taps(old: int, new: int, scale: float, shift: float) -> _Taps:
  """Returns the taps of an axis.

  Args:
    old: number of logits.
    new: number of pixels.
    scale: logits per pixel, negative in mirror images.
    shift: the place of the first pixel's edge among the logits.
  """
  ends = np.clip(np.sort([shift, scale * new + shift]), 0, old)
  first, end = np.round(ends).astype(int)
  places = scale * (np.arange(new) + 0.5) + shift
  centres = np.clip(places - 0.5, first, max(first, end - 1)).clip(0, old - 1)
  low = np.floor(centres).astype(int)
  return _Taps(
    low,
    np.minimum(low + 1, old - 1),
    (centres - low).astype(np.float32),
    (places >= 0) & (places <= old),
  )


def _dtype(num_classes: int, ignore: int) -> type[np.integer]:
  fits = num_classes <= _BYTE and 0 <= ignore < _BYTE
  return np.uint8 if fits else np.int32


def write(
  classes: Integer[np.ndarray, "H W"],
  path: str | os.PathLike,
  num_classes: int,
  ignore: int,
) -> pathlib.Path:
  """Writes a label map as PATH.png; returns the file.

  Its pixels are class numbers, which the op `decode_ids` reads. Up to 256 of
  them are indices of a palette, so that viewers show classes in colours; more
  are 16-bit grey. A number of no class that a PNG cannot hold becomes the
  largest one.

  Args:
    classes: class numbers, and `ignore`.
    path: of the file without suffix.
    num_classes: C.
    ignore: the number that stands for no class.
  """
  path = pathlib.Path(path)
  path = path.with_name(f"{path.name}.png")
  limit = _BYTE
  if num_classes > limit or (
    num_classes == limit and (classes == ignore).any()
  ):
    limit = _TWO_BYTES
  absent = ignore if 0 <= ignore < limit else limit - 1
  numbers = np.where(classes == ignore, absent, classes)
  if limit == _BYTE:
    image = Image.fromarray(numbers.astype(np.uint8))
    image.putpalette(palette.table(num_classes, absent).tobytes())
  else:
    image = Image.fromarray(numbers.astype(np.uint16))
  with paths.whole(path) as partial, partial.open("wb") as file:
    image.save(file, format="PNG")
  return path
