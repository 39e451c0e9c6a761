"""Random geometric preprocessing ops: crops, shifts, warps and mirrors.

An image is an array [H, W, C] under `key`. Crops, `scale_jitter` and `flip_lr`
also take videos and change all frames alike. Each op draws all its random
numbers from `rng`, once for the image and the masks and boxes that move along,
see `geometry`.
"""

import math

import cv2
import numpy as np

from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.ops.image import (
  check_resize,
  check_size,
  crop,
  cut,
  height_width,
)
from tokenlearner_flexivit.data.preprocess import Example, as_names, register_op

# Draws of a crop with `cat_max_ratio`, as in mmsegmentation.
_CROPS = 10


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


@register_op(check=(_check_inception_crop, geometry.check), moves=True)
def inception_crop(
  example: Example,
  rng: np.random.Generator,
  size: int | tuple | list | None = None,
  area_min: float = 5,
  area_max: float = 100,
  method: str = "bilinear",
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
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
    method: as `resize` takes it.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image [height, width, C], of the same dtype; without a
    size it is a view.
  """
  _check_inception_crop(size, area_min, area_max, method)
  full_height, full_width = geometry.sides(example, key)
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
  place, followers = (top, left, height, width), (masks, boxes, min_visible)
  return crop(example, key, place, *followers, size=size, method=method)


def _check_random_crop(
  size: int | tuple | list, cat_max_ratio: float, masks: str | tuple | list
) -> None:
  check_size(size)
  if not 0 < cat_max_ratio <= 1:
    raise ValueError(
      f"cat_max_ratio is the greatest share of one class, above 0 and up to 1, "
      f"not {cat_max_ratio}"
    )
  if cat_max_ratio < 1 and not masks:
    raise ValueError(
      "cat_max_ratio is about the classes of a mask: name it, as in "
      "masks=('semantic',)"
    )


@register_op(check=(_check_random_crop, geometry.check), moves=True)
def random_crop(
  example: Example,
  rng: np.random.Generator,
  size: int | tuple | list,
  cat_max_ratio: float = 1,
  ignore: int = geometry.IGNORE,
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Cuts a rectangle of `size` at a uniformly random position.

  ViTs are fine-tuned with `resize_small(448)|random_crop(384)`. Segmenter and
  mmsegmentation train with

      scale_jitter(0.5,2,size=512,masks='semantic')
      |pad_to(512,masks='semantic')
      |random_crop(512,cat_max_ratio=0.75,masks='semantic')

  Args:
    example: has an image under `key`.
    rng: generator of the random numbers.
    size: side of the result, or (height, width).
    cat_max_ratio: share of the labelled pixels of the first mask that no class
      may reach. A crop in which one does, or is alone, is drawn again, up to
      nine times. 1 takes any crop.
    ignore: value of the pixels of the first mask that have no label.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image [height, width, C], a view.

  Raises:
    ValueError: the image is smaller than `size`.
  """
  height, width = height_width(size)
  full_height, full_width = geometry.sides(example, key)
  down, right = full_height - height, full_width - width
  if min(down, right) < 0:
    raise ValueError(
      f"the image has only {full_height} x {full_width} pixels: put "
      "resize_small or pad_to before this op"
    )
  names = as_names(masks)
  for _ in range(_CROPS):
    top = int(rng.integers(down, endpoint=True))
    left = int(rng.integers(right, endpoint=True))
    place = top, left, height, width
    moved = crop(example, key, place, masks, boxes, min_visible)
    if cat_max_ratio == 1 or not names:
      break
    if _is_mixed(moved[names[0]], cat_max_ratio, ignore):
      break
  return moved


def _is_mixed(mask: np.ndarray, cat_max_ratio: float, ignore: int) -> bool:
  """Tells whether a mask has several classes, none of too large a share."""
  classes, counts = np.unique(mask, return_counts=True)
  counts = counts[classes != ignore]
  return counts.size > 1 and counts.max() < cat_max_ratio * counts.sum()


def _check_scale_jitter(
  lo: float, hi: float, size: int | None, method: str
) -> None:
  if not 0 < lo <= hi:
    raise ValueError(f"expected 0 < lo <= hi, got {lo}, {hi}")
  check_resize(size, method)


@register_op(check=(_check_scale_jitter, geometry.check))
def scale_jitter(
  example: Example,
  rng: np.random.Generator,
  lo: float,
  hi: float,
  size: int | None = None,
  method: str = "bilinear",
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Magnifies an image by a factor that is uniform in [lo, hi].

  Put `pad_to` and `random_crop` behind this op, as `random_crop` shows.

  Args:
    example: has an image under `key`.
    rng: generator of the random numbers.
    lo: least factor.
    hi: greatest factor.
    size: smaller side of the image at a factor of 1; None for its own.
    method: as `resize` takes it.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image, of the same aspect ratio and dtype.
  """
  _check_scale_jitter(lo, hi, size, method)
  height, width = geometry.sides(example, key)
  factor = float(rng.uniform(lo, hi))
  if size is not None:
    factor *= size / min(height, width)
  place = 0, 0, height, width
  new = max(1, round(height * factor)), max(1, round(width * factor))
  followers = (masks, boxes, min_visible)
  return crop(example, key, place, *followers, size=new, method=method)


def _check_translate(pixels: int) -> None:
  if pixels < 0:
    raise ValueError(f"pixels must not be negative, got {pixels}")


@register_op(check=(_check_translate, geometry.check), moves=True)
def random_translate(
  example: Example,
  rng: np.random.Generator,
  pixels: int,
  fill: float = 0,
  ignore: int = geometry.IGNORE,
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Shifts an image vertically and horizontally by up to `pixels`, uniformly.

  This is the same as a random crop after padding by `pixels`.

  Args:
    example: has an image under `key`.
    rng: generator of the random numbers.
    pixels: largest shift, at most the side of the image.
    fill: value of the pixels that come in, black by default.
    ignore: value of the pixels that come into masks.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image, of the same shape and dtype.
  """
  height, width = geometry.sides(example, key)
  if not 0 <= pixels <= min(height, width):
    raise ValueError(
      f"cannot shift an image of {height} x {width} by {pixels} pixels"
    )
  down, right = rng.integers(-pixels, pixels, size=2, endpoint=True).tolist()

  def change(image: np.ndarray, is_mask: bool) -> np.ndarray:
    value = ignore if is_mask else fill
    geometry.check_fill(value, image)
    shifted = np.full_like(image, value)
    shifted[
      ...,
      max(down, 0) : height + min(down, 0),
      max(right, 0) : width + min(right, 0),
      :,
    ] = cut(
      image,
      max(-down, 0),
      max(-right, 0),
      height - abs(down),
      width - abs(right),
    )
    return shifted

  matrix = geometry.window(-down, -right, height, width, height, width)
  return geometry.move(example, key, change, matrix, masks, boxes, min_visible)


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


@register_op(check=(_check_affine, geometry.check), moves=True)
def random_affine(
  example: Example,
  rng: np.random.Generator,
  degrees: float = 0,
  translate: float = 0,
  scale: tuple | list = (1, 1),
  shear: float = 0,
  fill: float = 0,
  ignore: int = geometry.IGNORE,
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
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
    ignore: value of the pixels that come into masks.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image, of the same shape and dtype.
  """
  _check_affine(degrees, translate, scale, shear)
  height, width = geometry.sides(example, key)
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

  def change(image: np.ndarray, is_mask: bool) -> np.ndarray:
    value = ignore if is_mask else fill
    geometry.check_fill(value, image)
    if image.ndim > 3:
      return np.stack([change(frame, is_mask) for frame in image])
    # Ids have no mean; pixels are uint8 or floating-point numbers.
    is_nearest = is_mask or image.dtype.kind in "bi"
    moved = cv2.warpAffine(
      image,
      matrix,
      (width, height),
      flags=cv2.INTER_NEAREST if is_nearest else cv2.INTER_LINEAR,
      borderMode=cv2.BORDER_CONSTANT,
      borderValue=(value,) * 4,
    )
    return moved.reshape(image.shape)

  edges = geometry.from_centres(matrix)
  return geometry.move(example, key, change, edges, masks, boxes, min_visible)


@register_op(check=geometry.check, moves=True, mirrors=True)
def flip_lr(
  example: Example,
  rng: np.random.Generator,
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Mirrors an image left and right with a probability of one half.

  Args:
    example: has an image under `key`.
    rng: generator of the random numbers.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image, of the same shape and dtype.
  """
  _, width = geometry.sides(example, key)
  is_mirrored = rng.random() < 0.5

  def change(frames: np.ndarray, is_mask: bool) -> np.ndarray:
    del is_mask  # No pixel is between others.
    return _mirror(frames) if is_mirrored else frames

  matrix = (
    np.array([[-1.0, 0, width], [0, 1, 0]]) if is_mirrored else np.eye(2, 3)
  )
  return geometry.move(example, key, change, matrix, masks, boxes, min_visible)


def _mirror(image: np.ndarray) -> np.ndarray:
  """Returns the image, or all frames of a video, mirrored left and right."""
  if image.ndim > 3:
    return np.stack([_mirror(frame) for frame in image])
  # Many times faster than a copy of image[:, ::-1].
  return cv2.flip(image, 1).reshape(image.shape)
