"""Deterministic preprocessing ops on images.

An image is an array [H, W, C] under `key`: uint8 in [0, 255] after `decode`,
float32 after `value_range` or `standardize`. All ops also take a video
[..., H, W, C] and change all its frames alike. Ops that change the size move
masks and boxes along, see `geometry`.
"""

import numpy as np
from jaxtyping import Shaped

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data.ops import decode, geometry, resampling
from tokenlearner_flexivit.data.ops.geometry import get_frames
from tokenlearner_flexivit.data.ops.resampling import resize_image
from tokenlearner_flexivit.data.preprocess import Example, register_op


def cut(
  frames: Shaped[np.ndarray, "*frames H W C"],
  top: int,
  left: int,
  height: int,
  width: int,
) -> Shaped[np.ndarray, "*frames h w C"]:
  """Returns a rectangle of an image, or of all frames of a video."""
  return frames[..., top : top + height, left : left + width, :]


def height_width(size: int | tuple | list) -> tuple[int, int]:
  """Returns (height, width) of a size given as one number or as both."""
  sides = [size, size] if isinstance(size, int) else [*size]
  # In Python True is an int.
  if len(sides) != 2 or any(type(s) is not int or s < 1 for s in sides):
    raise ValueError(
      f"size must be one or two positive whole numbers, not {size}"
    )
  return sides[0], sides[1]


def check_size(size: int | tuple | list) -> None:
  """Raises ValueError for an impossible size of an image."""
  height_width(size)


def check_resize(size: int | tuple | list | None, method: str) -> None:
  """Raises ValueError for an impossible size or an unknown method."""
  if size is not None:
    height_width(size)
  resampling.check_method(method)


@register_op(entries=("key", "outkey"))
def image_size(
  example: Example, *, key: str = "image", outkey: str = "size"
) -> Example:
  """Returns the example with height and width of an image, in pixels.

  Args:
    example: has an image under `key`, or the bytes of a file, of which `decode`
      would make it; these stay encoded.
    key: the image.
    outkey: where int32 [2], height and width, go.
  """
  image = example.get(key)
  if isinstance(image, bytes):
    size = decode.decoded_size(image)
  else:
    size = geometry.sides(example, key)
  return {**example, outkey: np.asarray(size, np.int32)}


@register_op(check=(check_resize, geometry.check))
def resize(
  example: Example,
  size: int | tuple | list,
  method: str = "bilinear",
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Resizes to `size`, without keeping the aspect ratio.

  "bilinear" has half-pixel centres and no antialiasing, like the resize with
  which FlexiViT is trained and evaluated; "area" averages, which is better for
  strong reductions. Those of Pillow, "pillow_bilinear", "pillow_bicubic",
  "pillow_lanczos", "pillow_box" and "pillow_hamming", have antialiasing: timm
  and Hugging Face prepare images so. uint8 images are rounded.

  Args:
    example: has an image under `key`.
    size: side of the result, or (height, width).
    method: nearest, bilinear, bicubic, area, or one of Pillow's.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image [height, width, C], of the same dtype.
  """
  followers = (masks, boxes, min_visible)
  return _resized(example, key, height_width(size), method, *followers)


@register_op(check=(check_resize, geometry.check))
def resize_small(
  example: Example,
  size: int,
  method: str = "area",
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Resizes the smaller side to `size` and keeps the aspect ratio.

  The longer side is rounded, by Pillow's methods down, as in timm and Hugging
  Face.

  Args:
    example: has an image under `key`.
    size: smaller side of the result.
    method: as `resize` takes it.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image, of the same dtype.
  """
  height, width = geometry.sides(example, key)
  small, _ = height_width(size)
  ratio = small / min(height, width)
  new = round(height * ratio), round(width * ratio)
  if method.startswith("pillow"):
    least = min(height, width)
    new = small * height // least, small * width // least
  return _resized(example, key, new, method, masks, boxes, min_visible)


@register_op(check=(check_resize, geometry.check))
def resize_keep(
  example: Example,
  size: int | tuple | list,
  method: str = "area",
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Resizes to the largest size that fits into `size`, of the same aspect.

  `resize_keep(512)|pad_to(512)` shows whole images of any aspect ratio.

  Args:
    example: has an image under `key`.
    size: the longer side of the result, or the greatest (height, width).
    method: as `resize` takes it.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image, of the same dtype.
  """
  height, width = geometry.sides(example, key)
  most = height_width(size)
  ratio = min(most[0] / height, most[1] / width)
  new = max(1, round(height * ratio)), max(1, round(width * ratio))
  return _resized(example, key, new, method, masks, boxes, min_visible)


def _resized(
  example: Example, key: str, new: tuple[int, int], method: str, *followers
) -> Example:
  """Returns the example with its image and what follows it of a new size."""
  matrix = geometry.window(0, 0, *geometry.sides(example, key), *new)

  def change(frames: np.ndarray, is_mask: bool) -> np.ndarray:
    return resize_image(frames, *new, "nearest" if is_mask else method)

  return geometry.move(example, key, change, matrix, *followers)


@register_op(check=(check_size, geometry.check), moves=True)
def central_crop(
  example: Example,
  size: int | tuple | list,
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Cuts a rectangle of `size` out of the middle.

  Args:
    example: has an image under `key`.
    size: side of the result, or (height, width).
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image [height, width, C].

  Raises:
    ValueError: the image is smaller than `size`.
  """
  height, width = height_width(size)
  full_height, full_width = geometry.sides(example, key)
  top, left = (full_height - height) // 2, (full_width - width) // 2
  if min(top, left) < 0:
    raise ValueError(
      f"the image has only {full_height} x {full_width} pixels: put "
      "resize_small or pad_to before this op"
    )
  place = top, left, height, width
  return crop(example, key, place, masks, boxes, min_visible)


def crop(
  example: Example,
  key: str,
  place: tuple[int, int, int, int],
  *followers,
  size: int | tuple | list | None = None,
  method: str = "nearest",
) -> Example:
  """Returns the example with an image, its masks and boxes cut and resized.

  Args:
    example: has an image under `key`.
    key: where the image is.
    place: top, left, height and width of the rectangle.
    *followers: the last arguments of `geometry.move`.
    size: side of the result, or (height, width); None for no resize.
    method: how images are resized.
  """
  new = place[2:] if size is None else height_width(size)

  def change(frames: np.ndarray, is_mask: bool) -> np.ndarray:
    frames = cut(frames, *place)
    if size is None:
      return frames
    return resize_image(frames, *new, "nearest" if is_mask else method)

  matrix = geometry.window(*place, *new)
  return geometry.move(example, key, change, matrix, *followers)


@register_op(check=(check_size, geometry.check), moves=True)
def pad_to(
  example: Example,
  size: int | tuple | list,
  value: float = 0,
  ignore: int = geometry.IGNORE,
  *,
  key: str = "image",
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0,
) -> Example:
  """Pads below and on the right to at least `size`.

  `valid` becomes the shares of height and width that the image has in the
  result, so that predictions can be brought back to it.

  Args:
    example: has an image under `key`.
    size: side of the result, or (height, width). A longer side stays.
    value: value of the padding.
    ignore: value of the padding of masks.
    key: where the image is.
    masks: masks to move along.
    boxes: boxes to move along.
    min_visible: least share of a box that must be left.

  Returns:
    The example with the image, of the same dtype, and with float32 [2] under
    `valid`.
  """
  old = geometry.sides(example, key)
  least = height_width(size)
  new = max(old[0], least[0]), max(old[1], least[1])

  def change(frames: np.ndarray, is_mask: bool) -> np.ndarray:
    fill = ignore if is_mask else value
    geometry.check_fill(fill, frames)
    shape = (*frames.shape[:-3], *new, frames.shape[-1])
    padded = np.full(shape, fill, frames.dtype)
    padded[..., : old[0], : old[1], :] = frames
    return padded

  matrix = geometry.window(0, 0, *new, *new)
  moved = geometry.move(example, key, change, matrix, masks, boxes, min_visible)
  return {**moved, geometry.VALID: np.divide(old, new, dtype=np.float32)}


def _check_range(
  vmin: float, vmax: float, in_min: float, in_max: float
) -> None:
  if vmin == vmax or in_min == in_max:
    raise ValueError(
      f"both ranges need two different ends, not [{in_min}, {in_max}] to "
      f"[{vmin}, {vmax}]"
    )


@register_op(check=_check_range, on_device=True)
def value_range(
  example: Example,
  vmin: float = -1,
  vmax: float = 1,
  in_min: float = 0,
  in_max: float = 255,
  *,
  key: str = "image",
) -> Example:
  """Maps values linearly from [in_min, in_max] to [vmin, vmax].

  Args:
    example: has an image under `key`.
    vmin: the result for in_min.
    vmax: the result for in_max.
    in_min: lower end of the original range.
    in_max: upper end of the original range.
    key: where the image is.

  Returns:
    The example with the image in float32. Nothing is clipped.
  """
  _check_range(vmin, vmax, in_min, in_max)
  image = get_frames(example, key)
  scale = (vmax - vmin) / (in_max - in_min)
  mapped = image.astype(np.float32)
  mapped *= np.float32(scale)
  mapped += np.float32(vmin - in_min * scale)
  return {**example, key: mapped}


def _check_statistics(
  mean: float | tuple | list, std: float | tuple | list
) -> None:
  sizes = {1}
  for name, value in (("mean", mean), ("std", std)):
    values = np.ravel(value).tolist()
    # In Python True is a number.
    if not values or any(type(v) not in (int, float) for v in values):
      raise ValueError(f"{name} must be one or several numbers, not {value}")
    if name == "std" and min(values) <= 0:
      raise ValueError(f"std must be above 0, not {value}")
    sizes.add(len(values))
  if len(sizes) > 2:
    raise ValueError(
      f"mean and std are of {np.size(mean)} and {np.size(std)} channels"
    )


@register_op(check=_check_statistics, on_device=True)
def standardize(
  example: Example,
  mean: float | tuple | list,
  std: float | tuple | list,
  *,
  key: str = "image",
) -> Example:
  """Subtracts the mean and divides by the standard deviation.

  The image is not scaled before: for statistics of images in [0, 1] put
  value_range(0, 1) before this op.

  Args:
    example: has an image under `key`.
    mean: one number, or one per channel.
    std: one number, or one per channel, above 0.
    key: where the image is.

  Returns:
    The example with the image in float32.
  """
  _check_statistics(mean, std)
  image = get_frames(example, key).astype(np.float32)
  for name, value in (("mean", mean), ("std", std)):
    if np.size(value) not in (1, image.shape[-1]):
      raise ValueError(
        f"{name} has {terminal.counted(np.size(value), 'value')}, the image "
        f"has {terminal.counted(image.shape[-1], 'channel')}"
      )
  # JAX may be configured to broadcast only between arrays of the same rank.
  shape = (1,) * (image.ndim - 1) + (-1,)
  mean = np.asarray(mean, np.float32).reshape(shape)
  std = np.asarray(std, np.float32).reshape(shape)
  return {**example, key: (image - mean) / std}
