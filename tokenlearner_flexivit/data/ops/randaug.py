"""RandAugment, as FlexiViT's supervised ImageNet-21k recipe uses it.

Cubuk et al., RandAugment: Practical automated data augmentation with a reduced
search space (arXiv 1909.13719), with the operations, strengths and oddities of
big_vision's `randaug`, which differ from the paper's:

  - 16 operations, all equally likely and never skipped: the paper's without
    its Identity, with Invert, SolarizeAdd and Cutout.
  - One magnitude for all, on a linear scale that is meant to end at 10 but may
    exceed it. Only the sign of the geometric operations is drawn.
  - TranslateX, TranslateY and Cutout count pixels, 100 and 40 at magnitude 10,
    for any size of the image; they are meant for images of about 224 pixels.
  - Color, Contrast, Brightness and Sharpness weaken below a magnitude of 5 and
    strengthen above, by a factor of 1.9 at 10.
  - The threshold of Solarize is a uint8: at 10 the 256 becomes 0, and all
    pixels are inverted.
  - Geometric operations take the nearest pixel, and 128 outside of the image.
    They alone change masks and boxes: Cutout leaves these as they are.

The operations are Pillow's, which the original imitates in TensorFlow. Compared
with the original at magnitude 10, AutoContrast, Color, Contrast and Sharpness
differ by at most one grey level, from rounding; rotations and shears may take
another of two equally near pixels; all others are equal.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.ops.geometry import get_image
from tokenlearner_flexivit.data.preprocess import Example, register_op

# The value of pixels that are moved in or cut out.
_FILL = 128


def _fill(image: Image.Image) -> tuple[int, ...]:
  return (_FILL,) * len(image.getbands())


def _either_way(value: float, rng: np.random.Generator) -> float:
  return value if rng.random() < 0.5 else -value


@dataclasses.dataclass(frozen=True)
class _Warp:
  """A geometric operation after its draw.

  Attributes:
    matrix: the six numbers of a matrix: a pixel becomes that at
      matrix @ (x, y, 1), with (0, 0) for the corner of the image.
    degrees: the angle of a rotation, which Pillow has a function for.
  """

  matrix: tuple[float, ...]
  degrees: float | None = None

  def __call__(self, image: Image.Image, fill: int | tuple) -> Image.Image:
    """Returns the image with `fill` for pixels from outside."""
    nearest = Image.Resampling.NEAREST
    if self.degrees is not None:
      return image.rotate(self.degrees, nearest, fillcolor=fill)
    affine = Image.Transform.AFFINE
    return image.transform(
      image.size, affine, self.matrix, nearest, fillcolor=fill
    )

  def on_mask(self, mask: np.ndarray, ignore: int) -> np.ndarray:
    """Returns the mask [H, W, C] with `ignore` for pixels from outside."""
    geometry.check_fill(ignore, mask)
    # Pillow warps whole numbers of one channel of 8 or 32 bits.
    kind = mask.dtype if mask.dtype == np.uint8 else np.int32
    warped = [
      np.asarray(self(Image.fromarray(channel.astype(kind)), ignore))
      for channel in np.moveaxis(mask, -1, 0)
    ]
    return np.stack(warped, axis=-1).astype(mask.dtype)

  def forward(self) -> np.ndarray:
    """Returns the matrix that maps old places to new ones, see `geometry`."""
    square = np.array([*self.matrix, 0, 0, 1]).reshape(3, 3)
    return np.linalg.inv(square)[:2]


def _rotate(level, rng, size):
  degrees = _either_way(30 * level, rng)
  angle = math.radians(degrees)
  cos, sin = math.cos(angle), math.sin(angle)
  x, y = size[0] / 2, size[1] / 2
  # About the centre; y points down.
  matrix = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
  return _Warp(matrix, degrees)


def _shear_x(level, rng, size):
  del size
  shear = _either_way(0.3 * level, rng)
  # The row of pixels at the top stays; its centres have y = 1 / 2.
  return _Warp((1, shear, -shear / 2, 0, 1, 0))


def _shear_y(level, rng, size):
  del size
  shear = _either_way(0.3 * level, rng)
  return _Warp((1, 0, 0, shear, 1, -shear / 2))


def _translate_x(level, rng, size):
  del size
  return _Warp((1, 0, _either_way(100 * level, rng), 0, 1, 0))


def _translate_y(level, rng, size):
  del size
  return _Warp((1, 0, 0, 0, 1, _either_way(100 * level, rng)))


def _cutout(image, level, rng):
  """Fills a square around a random pixel, cut off at the edges."""
  x, y = (int(rng.integers(side)) for side in image.size)
  half = int(40 * level)
  image = image.copy()
  image.paste(_fill(image), (x - half, y - half, x + half, y + half))
  return image


def _posterize(image, level, rng):
  del rng
  # The original computes with uint8, where shifts of more than 7 bits are by 7.
  shift = min((8 - int(4 * level)) % 256, 7)
  return ImageOps.posterize(image, 8 - shift)


def _solarize(image, level, rng):
  del rng
  return ImageOps.solarize(image, int(256 * level) % 256)


def _solarize_add(image, level, rng):
  del rng
  added = [min(v + int(110 * level), 255) if v < 128 else v for v in range(256)]
  return image.point(added * len(image.getbands()))


def _plain(function):
  return lambda image, level, rng: function(image)


def _enhance(enhancer):
  return lambda image, level, rng: enhancer(image).enhance(1.8 * level + 0.1)


@dataclasses.dataclass(frozen=True)
class _Geometric:
  """A geometric operation.

  Attributes:
    draw: function of the magnitude over 10, the generator and the size of the
      image.
  """

  draw: Callable[[float, np.random.Generator, tuple[int, int]], _Warp]

  def __call__(self, image, level, rng):
    return self.draw(level, rng, image.size)(image, _fill(image))


# Each operation takes a Pillow image, the magnitude over 10 and the generator,
# and returns a new image.
OPERATIONS: dict[str, Callable[..., Image.Image]] = {
  "AutoContrast": _plain(ImageOps.autocontrast),
  "Equalize": _plain(ImageOps.equalize),
  "Invert": _plain(ImageOps.invert),
  "Rotate": _Geometric(_rotate),
  "Posterize": _posterize,
  "Solarize": _solarize,
  "SolarizeAdd": _solarize_add,
  "Color": _enhance(ImageEnhance.Color),
  "Contrast": _enhance(ImageEnhance.Contrast),
  "Brightness": _enhance(ImageEnhance.Brightness),
  "Sharpness": _enhance(ImageEnhance.Sharpness),
  "ShearX": _Geometric(_shear_x),
  "ShearY": _Geometric(_shear_y),
  "TranslateX": _Geometric(_translate_x),
  "TranslateY": _Geometric(_translate_y),
  "Cutout": _cutout,
}


def _check_randaug(num_layers: int, magnitude: float) -> None:
  if num_layers < 1:
    raise ValueError(f"num_layers must be at least 1, not {num_layers}")
  if not 0 <= magnitude <= 30:
    raise ValueError(f"magnitude must be in [0, 30], not {magnitude}")


@register_op(check=(_check_randaug, geometry.check), moves=True)
def randaug(
  example: Example,
  rng: np.random.Generator,
  num_layers: int = 2,
  magnitude: float = 10,
  ignore: int = geometry.IGNORE,
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Applies `num_layers` operations drawn from `OPERATIONS`, one by one.

  `randaug(2,10)` is the augmentation of FlexiViT's supervised training. The
  docstring of this module describes the operations.

  Args:
    example: has a uint8 image of 1 or 3 channels under `key`.
    rng: generator of the random numbers.
    num_layers: how many operations, drawn with replacement; the N of the paper.
    magnitude: strength of all of them, in [0, 30]; the M of the paper.
    ignore: value of the pixels that come into masks.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left by each operation.

  Returns:
    The example with the image, of the same shape, uint8.

  Raises:
    ValueError: the image has another dtype or number of channels, or an
      argument is out of range.
  """
  _check_randaug(num_layers, magnitude)
  image = get_image(example, key)
  if image.dtype != np.uint8:
    raise ValueError(
      f"{key!r} is {image.dtype} instead of uint8: put this op before "
      "value_range or standardize"
    )
  if image.shape[-1] not in (1, 3):
    raise ValueError(f"{key!r} has {image.shape[-1]} channels, not 1 or 3")

  # Pillow's grey images have no axis of channels.
  augmented = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  operations, level = list(OPERATIONS.values()), magnitude / 10
  for index in rng.integers(len(operations), size=num_layers).tolist():
    operation = operations[index]
    if not isinstance(operation, _Geometric):
      augmented = operation(augmented, level, rng)
      continue
    warp = operation.draw(level, rng, augmented.size)
    augmented = warp(augmented, _fill(augmented))
    example = geometry.follow(
      geometry.reframe(example, key, warp.forward()),
      lambda mask, _, warp=warp: warp.on_mask(mask, ignore),
      warp.forward(),
      image.shape,
      image.shape[:2],
      masks,
      boxes,
      min_visible,
    )
  return {**example, key: np.array(augmented).reshape(image.shape)}
