"""Random geometric preprocessing ops: crops, shifts, warps and mirrors.

An image is an array [H, W, C] under `key`. Crops and `flip_lr` also take videos
and change all frames alike. Each op draws all its random numbers from `rng`.
"""

import math

import cv2
import numpy as np

from tokenlearner_flexivit.data.ops.image import (
  check_resize,
  check_size,
  cut,
  get_frames,
  get_image,
  height_width,
  resize_image,
)
from tokenlearner_flexivit.data.preprocess import Example, register_op


def _check_inception_crop(
  size: int | tuple | list | None,
  area_min: float,
  area_max: float,
  method: str,
) -> None:
  if not 0 < area_min <= area_max <= 100:
    raise ValueError(
      f"expected 0 < area_min <= area_max <= 100, got {area_min}, {area_max}"
    )
  if area_min < 1:
    raise ValueError(
      "areas are in percent of the image, and less than one is a few pixels: "
      f"write area_min={100 * area_min:g} for a share of {area_min:g}"
    )
  check_resize(size, method)


@register_op(check=_check_inception_crop, moves=True)
def inception_crop(
  example: Example,
  rng: np.random.Generator,
  size: int | tuple | list | None = None,
  area_min: float = 5,
  area_max: float = 100,
  method: str = "bilinear",
  *,
  key: str = "image",
) -> Example:
  """Cuts a random rectangle and resizes it to `size`, unless that is None.

  This is the crop of Szegedy et al., Going Deeper with Convolutions (arXiv
  1409.4842): the area is uniform, the aspect ratio log-uniform in [3/4, 4/3].
  Draws that do not fit are repeated; after ten the largest central rectangle
  with a permitted ratio is taken.

  Without a size the crop is not resized, so that a student and a teacher can
  see one crop at two resolutions:

      inception_crop|copy('image','teacher')|resize(240)|resize(384,key='teacher')

  Args:
    example: has an image under `key`.
    rng: generator of the random numbers.
    size: side of the result, or (height, width); None for no resize.
    area_min: least area in percent of the image.
    area_max: greatest area in percent of the image.
    method: nearest, bilinear, bicubic or area; see `resize`.
    key: where the image is.

  Returns:
    The example with the image [height, width, C], of the same dtype; without a
    size it is a view.
  """
  _check_inception_crop(size, area_min, area_max, method)
  image = get_frames(example, key)
  full_height, full_width = image.shape[-3:-1]
  max_log_ratio = math.log(4 / 3)
  for _ in range(10):
    area = full_height * full_width * rng.uniform(area_min, area_max) / 100
    ratio = math.exp(rng.uniform(-max_log_ratio, max_log_ratio))
    height, width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
    if 1 <= height <= full_height and 1 <= width <= full_width:
      top = int(rng.integers(full_height - height, endpoint=True))
      left = int(rng.integers(full_width - width, endpoint=True))
      break
  else:
    height = max(1, min(full_height, round(full_width * 4 / 3)))
    width = max(1, min(full_width, round(full_height * 4 / 3)))
    top, left = (full_height - height) // 2, (full_width - width) // 2
  crop = cut(image, top, left, height, width)
  if size is not None:
    crop = resize_image(crop, *height_width(size), method)
  return {**example, key: crop}


@register_op(check=check_size, moves=True)
def random_crop(
  example: Example,
  rng: np.random.Generator,
  size: int | tuple | list,
  *,
  key: str = "image",
) -> Example:
  """Cuts a rectangle of `size` at a uniformly random position.

  ViTs are fine-tuned with `resize_small(448)|random_crop(384)`.

  Args:
    example: has an image under `key`.
    rng: generator of the random numbers.
    size: side of the result, or (height, width).
    key: where the image is.

  Returns:
    The example with the image [height, width, C], a view.

  Raises:
    ValueError: the image is smaller than `size`.
  """
  image = get_frames(example, key)
  height, width = height_width(size)
  full_height, full_width = image.shape[-3:-1]
  down, right = full_height - height, full_width - width
  if min(down, right) < 0:
    raise ValueError(
      f"the image has only {full_height} x {full_width} pixels: put "
      "resize_small before this op"
    )
  top = int(rng.integers(down, endpoint=True))
  left = int(rng.integers(right, endpoint=True))
  return {**example, key: cut(image, top, left, height, width)}


def _check_fill(fill: float, image: np.ndarray) -> None:
  """Raises ValueError for a fill that the image's dtype cannot hold."""
  if image.dtype == np.uint8 and (fill != int(fill) or not 0 <= fill <= 255):
    raise ValueError(
      f"fill must be a whole number from 0 to 255 in an image of uint8, not "
      f"{fill}: after value_range this op may have others"
    )


def _check_translate(pixels: int) -> None:
  if pixels < 0:
    raise ValueError(f"pixels must not be negative, got {pixels}")


@register_op(check=_check_translate, moves=True)
def random_translate(
  example: Example,
  rng: np.random.Generator,
  pixels: int,
  fill: float = 0,
  *,
  key: str = "image",
) -> Example:
  """Shifts an image vertically and horizontally by up to `pixels`, uniformly.

  This is the same as a random crop after padding by `pixels`.

  Args:
    example: has an image under `key`.
    rng: generator of the random numbers.
    pixels: largest shift, at most the side of the image.
    fill: value of the pixels that come in, black by default.
    key: where the image is.

  Returns:
    The example with the image, of the same shape and dtype.
  """
  image = get_image(example, key)
  height, width, _ = image.shape
  if not 0 <= pixels <= min(height, width):
    raise ValueError(
      f"cannot shift an image of {height} x {width} by {pixels} pixels"
    )
  _check_fill(fill, image)
  down, right = rng.integers(-pixels, pixels, size=2, endpoint=True).tolist()
  shifted = np.full_like(image, fill)
  shifted[
    max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)
  ] = image[
    max(-down, 0) : height - max(down, 0),
    max(-right, 0) : width - max(right, 0),
  ]
  return {**example, key: shifted}


def _check_affine(
  degrees: float, translate: float, scale: tuple | list, shear: float
) -> None:
  # In Python True is a number.
  numbers = all(type(end) in (int, float) for end in scale)
  if len(scale) != 2 or not numbers or not 0 < scale[0] <= scale[1]:
    raise ValueError(
      f"scale must be (least, greatest), both above 0, not {scale}"
    )
  if degrees < 0 or not 0 <= translate <= 1 or not 0 <= shear < 90:
    raise ValueError(
      "degrees, translate and shear go either way, so they must not be "
      "negative, translate at most 1 and shear below 90, not "
      f"{degrees}, {translate}, {shear}"
    )


@register_op(check=_check_affine, moves=True)
def random_affine(
  example: Example,
  rng: np.random.Generator,
  degrees: float = 0,
  translate: float = 0,
  scale: tuple | list = (1, 1),
  shear: float = 0,
  fill: float = 0,
  *,
  key: str = "image",
) -> Example:
  """Rotates, scales, shears and shifts an image, in one interpolation.

  All draws are uniform. Rotation, scale and shear are about the image's centre,
  as in torchvision's RandomAffine.

  Args:
    example: has an image under `key`.
    rng: generator of the random numbers.
    degrees: largest rotation either way.
    translate: largest shift either way, as a fraction of each side.
    scale: least and greatest magnification.
    shear: largest horizontal shear either way, in degrees.
    fill: value of the pixels that come in, black by default.
    key: where the image is.

  Returns:
    The example with the image, of the same shape and dtype.
  """
  _check_affine(degrees, translate, scale, shear)
  image = get_image(example, key)
  _check_fill(fill, image)
  height, width, _ = image.shape
  draws = rng.random(5).tolist()
  turn, lean, right, down = (2 * draw - 1 for draw in draws[:4])
  turn = math.radians(degrees * turn)
  lean = math.tan(math.radians(shear * lean))
  zoom = scale[0] + (scale[1] - scale[0]) * draws[4]
  cos, sin = zoom * math.cos(turn), zoom * math.sin(turn)
  # Rotation and scaling after the shear x + lean * y, about the centre.
  a, b, c, d = cos, cos * lean - sin, sin, sin * lean + cos
  x, y = (width - 1) / 2, (height - 1) / 2
  matrix = np.array(
    [
      [a, b, x - a * x - b * y + translate * right * width],
      [c, d, y - c * x - d * y + translate * down * height],
    ]
  )
  moved = cv2.warpAffine(
    image,
    matrix,
    (width, height),
    flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_CONSTANT,
    borderValue=(fill,) * 4,
  )
  return {**example, key: moved.reshape(image.shape)}


@register_op(moves=True)
def flip_lr(
  example: Example, rng: np.random.Generator, *, key: str = "image"
) -> Example:
  """Mirrors an image left and right with a probability of one half."""
  image = get_frames(example, key)
  if rng.random() < 0.5:
    image = _mirror(image)
  return {**example, key: image}


def _mirror(image: np.ndarray) -> np.ndarray:
  """Returns the image, or all frames of a video, mirrored left and right."""
  if image.ndim > 3:
    return np.stack([_mirror(frame) for frame in image])
  # Many times faster than a copy of image[:, ::-1].
  return cv2.flip(image, 1).reshape(image.shape)
