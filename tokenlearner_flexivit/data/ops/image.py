"""Deterministic preprocessing ops on images, by OpenCV.

An image is an array [H, W, C] under `key`: uint8 in [0, 255] after `decode`,
float32 after `value_range` or `standardize`. All ops also take a video
[..., H, W, C] and change all its frames alike.
"""

import cv2
import numpy as np
from jaxtyping import Shaped

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data.preprocess import Example, register_op

_INTERPOLATIONS = {
  "nearest": cv2.INTER_NEAREST_EXACT,
  "bilinear": cv2.INTER_LINEAR,
  "bicubic": cv2.INTER_CUBIC,
  "area": cv2.INTER_AREA,
}
# 0.8 GB in colours, more than any model sees. A long strip may exceed this when
# its short side is enlarged to that of other images.
_MAX_PIXELS = 1 << 28


def get_image(example: Example, key: str) -> np.ndarray:
  """Returns the image [H, W, C] under `key`, on devices a JAX array.

  Raises:
    ValueError: the entry does not exist or is not a decoded image.
  """
  if key not in example:
    raise ValueError(f"the example has no {key!r}; it has {sorted(example)}")
  image = example[key]
  if isinstance(image, bytes):
    raise ValueError(f"{key!r} is still encoded: put decode before this op")
  if np.ndim(image) != 3:
    raise ValueError(
      f"{key!r} has shape {np.shape(image)} instead of [H, W, C]"
    )
  return image


def get_frames(example: Example, key: str) -> np.ndarray:
  """Returns the image [H, W, C] or video [..., H, W, C] under `key`.

  Raises:
    ValueError: the entry does not exist or is not decoded.
  """
  frames = example.get(key)
  if np.ndim(frames) < 4:
    return get_image(example, key)
  return frames


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
  if method not in _INTERPOLATIONS:
    raise ValueError(
      f"unknown method {method!r}; the methods are {list(_INTERPOLATIONS)}"
    )


def resize_image(
  image: Shaped[np.ndarray, "*frames H W C"],
  height: int,
  width: int,
  method: str,
) -> Shaped[np.ndarray, "*frames {height} {width} C"]:
  """Returns the image or video resized to height x width, of the same dtype."""
  check_resize((height, width), method)
  if image.dtype.kind in "bi" and method != "nearest":
    raise ValueError(
      f"the map has whole numbers ({image.dtype}), which have no mean: resize "
      "it with method='nearest'"
    )
  if height * width > _MAX_PIXELS:
    raise ValueError(
      f"the image of {image.shape[-3]} x {image.shape[-2]} pixels would become "
      f"{height} x {width}, more than {_MAX_PIXELS} pixels. Leave it out, or "
      "cut it before"
    )
  if image.ndim > 3:
    return np.stack([resize_image(i, height, width, method) for i in image])
  resized = cv2.resize(
    image, (width, height), interpolation=_INTERPOLATIONS[method]
  )
  # OpenCV drops an axis of one channel.
  return resized.reshape(height, width, image.shape[-1])


@register_op(check=check_resize)
def resize(
  example: Example,
  size: int | tuple | list,
  method: str = "bilinear",
  *,
  key: str = "image",
) -> Example:
  """Resizes to `size`, without keeping the aspect ratio.

  "bilinear" has half-pixel centres and no antialiasing, like the resize with
  which FlexiViT is trained and evaluated; "area" averages, which is better for
  strong reductions. uint8 images are rounded.

  Args:
    example: has an image under `key`.
    size: side of the result, or (height, width).
    method: nearest, bilinear, bicubic or area.
    key: where the image is.

  Returns:
    The example with the image [height, width, C], of the same dtype.
  """
  image = get_frames(example, key)
  return {**example, key: resize_image(image, *height_width(size), method)}


@register_op(check=check_resize)
def resize_small(
  example: Example, size: int, method: str = "area", *, key: str = "image"
) -> Example:
  """Resizes the smaller side to `size` and keeps the aspect ratio.

  Args:
    example: has an image under `key`.
    size: smaller side of the result.
    method: nearest, bilinear, bicubic or area; see `resize`.
    key: where the image is.

  Returns:
    The example with the image, of the same dtype.
  """
  image = get_frames(example, key)
  height, width = image.shape[-3:-1]
  small, _ = height_width(size)
  ratio = small / min(height, width)
  height, width = round(height * ratio), round(width * ratio)
  return {**example, key: resize_image(image, height, width, method)}


@register_op(check=check_size, moves=True)
def central_crop(
  example: Example, size: int | tuple | list, *, key: str = "image"
) -> Example:
  """Cuts a rectangle of `size` out of the middle.

  Args:
    example: has an image under `key`.
    size: side of the result, or (height, width).
    key: where the image is.

  Returns:
    The example with the image [height, width, C].

  Raises:
    ValueError: the image is smaller than `size`.
  """
  image = get_frames(example, key)
  height, width = height_width(size)
  full_height, full_width = image.shape[-3:-1]
  top, left = (full_height - height) // 2, (full_width - width) // 2
  if min(top, left) < 0:
    raise ValueError(
      f"the image has only {full_height} x {full_width} pixels: put "
      "resize_small before this op"
    )
  return {**example, key: cut(image, top, left, height, width)}


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
