"""Preprocessing ops on images without chance, by OpenCV.

An image is an array [H, W, C] under `key`: uint8 in [0, 255] after `decode`,
float32 after `value_range` or `standardize`. All ops but `decode` take a video
[..., H, W, C] as well, and do the same to all its frames.
"""

import cv2
import numpy as np

from tokenlearner_flexivit.data import jpeg
from tokenlearner_flexivit.data.preprocess import (
  Example,
  register_op,
  register_stand_in,
)

# The pipeline runs many examples at a time. OpenCV's own threads would fight
# with its threads and processes for the same cores.
cv2.setNumThreads(0)

_INTERPOLATIONS = {
  "nearest": cv2.INTER_NEAREST_EXACT,
  "bilinear": cv2.INTER_LINEAR,
  "bicubic": cv2.INTER_CUBIC,
  "area": cv2.INTER_AREA,
}


def get_image(example: Example, key: str) -> np.ndarray:
  """Returns the image [H, W, C] under `key` or says why there is none."""
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
    ValueError: there is none, or none that is decoded.
  """
  frames = example.get(key)
  if np.ndim(frames) < 4:
    return get_image(example, key)
  return frames


def cut(
  frames: np.ndarray, top: int, left: int, height: int, width: int
) -> np.ndarray:
  """Returns a rectangle of an image [H, W, C] or of all frames of a video.

  An image may also be one that is decoded when it is cut.
  """
  rectangle = slice(top, top + height), slice(left, left + width)
  return frames[
    rectangle if frames.ndim == 3 else (..., *rectangle, slice(None))
  ]


def height_width(size: int | tuple | list) -> tuple[int, int]:
  """Returns (height, width) of a size given as one number or as both."""
  sides = [size, size] if isinstance(size, int) else [*size]
  if len(sides) != 2 or any(not isinstance(s, int) or s < 1 for s in sides):
    raise ValueError(
      f"size must be one or two positive whole numbers, not {size}"
    )
  return sides[0], sides[1]


def resize_image(image: np.ndarray, height: int, width: int, method: str):
  """Returns the image or video resized to height x width, of the same dtype."""
  if method not in _INTERPOLATIONS:
    raise ValueError(
      f"unknown method {method!r}; the methods are {list(_INTERPOLATIONS)}"
    )
  if image.ndim > 3:
    return np.stack([resize_image(i, height, width, method) for i in image])
  resized = cv2.resize(
    image, (width, height), interpolation=_INTERPOLATIONS[method]
  )
  # OpenCV drops an axis of one channel.
  return resized.reshape(height, width, image.shape[-1])


@register_op
def decode(
  example: Example, channels: int = 3, *, key: str = "image"
) -> Example:
  """Decodes an image.

  An EXIF orientation is ignored, as TensorFlow's and torchvision's decoders
  do; transparency is dropped; 16 bits become 8.

  Args:
    example: has under `key` an encoded image (bytes: JPEG, PNG, WebP, BMP), or
      one decoded already (uint8 [H, W], [H, W, 1] or [H, W, 3]).
    channels: 3 for RGB, where grey is repeated, or 1 for grey.
    key: where the image is.

  Returns:
    The example with a uint8 [H, W, channels] under `key`.

  Raises:
    ValueError: the bytes are no image or a damaged one, or the array has
      another number of channels.
  """
  if channels not in (1, 3):
    raise ValueError(f"channels must be 1 or 3, not {channels}")
  if key not in example:
    raise ValueError(f"the example has no {key!r}; it has {sorted(example)}")
  image = example[key]
  if isinstance(image, bytes):
    return {**example, key: _decode_bytes(image, channels)}
  return {**example, key: _with_channels(image, channels)}


def decode_when_cut(
  example: Example, channels: int = 3, *, key: str = "image"
) -> Example:
  """Stands in for `decode` before an op that cuts a rectangle out.

  Args:
    example: as for `decode`.
    channels: as for `decode`.
    key: as for `decode`.

  Returns:
    The example with an `UndecodedJpeg` under `key` where that is possible, and
    otherwise what `decode` returns.
  """
  image = example.get(key)
  if isinstance(image, bytes) and channels in (1, 3):
    try:
      lazy = jpeg.UndecodedJpeg(image, channels, _decode_bytes)
      return {**example, key: lazy}
    except ValueError:
      pass
  return decode(example, channels, key=key)


def _decode_bytes(data: bytes | np.ndarray, channels: int) -> np.ndarray:
  """Returns the image [H, W, channels] or raises ValueError."""
  color = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
  flags = color | cv2.IMREAD_IGNORE_ORIENTATION
  # OpenCV has an assertion instead of a message for no bytes at all.
  decoded = (
    cv2.imdecode(np.frombuffer(data, np.uint8), flags) if len(data) else None
  )
  if decoded is None:
    raise ValueError(
      f"{len(data)} bytes starting with {bytes(data[:8])!r} are not an image "
      "that OpenCV can decode, or it is damaged"
    )
  return _with_channels(decoded, channels)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """Returns the image [H, W, channels], grey or in colours."""
  if image.ndim == 2:
    image = image[..., None]
  if image.ndim != 3 or image.shape[-1] not in (1, 3):
    raise ValueError(f"an array of shape {image.shape} is not an image")
  if image.shape[-1] == 1 and channels == 3:
    return np.repeat(image, 3, axis=-1)
  if image.shape[-1] == 3 and channels == 1:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
  return image


@register_op
def resize(
  example: Example,
  size: int | tuple | list,
  method: str = "bilinear",
  *,
  key: str = "image",
) -> Example:
  """Resizes to `size`, whatever the aspect ratio.

  "bilinear" has half-pixel centres and no antialiasing, the resize that
  FlexiViT is trained and evaluated with; "area" averages, which is better for
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


@register_op
def resize_small(
  example: Example, size: int, method: str = "area", *, key: str = "image"
) -> Example:
  """Resizes the smaller side to `size` and keeps the aspect ratio.

  Args:
    example: has an image under `key`.
    size: smaller side of the result.
    method: as for `resize`.
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


@register_op
def central_crop(
  example: Example, size: int | tuple | list, *, key: str = "image"
) -> Example:
  """Cuts `size` out of the middle.

  Args:
    example: has an image under `key`.
    size: side of the result, or (height, width).
    key: where the image is.

  Returns:
    The example with the image [height, width, C].

  Raises:
    ValueError: the image is smaller than that.
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


register_stand_in(decode, decode_when_cut, before=central_crop)


@register_op
def value_range(
  example: Example,
  vmin: float = -1,
  vmax: float = 1,
  in_min: float = 0,
  in_max: float = 255,
  *,
  key: str = "image",
) -> Example:
  """Maps [in_min, in_max] to [vmin, vmax], linearly.

  Args:
    example: has an image under `key`.
    vmin: what in_min becomes.
    vmax: what in_max becomes.
    in_min: see vmin.
    in_max: see vmax.
    key: where the image is.

  Returns:
    The example with the image in float32. Nothing is clipped.
  """
  image = get_frames(example, key)
  scale = (vmax - vmin) / (in_max - in_min)
  mapped = image.astype(np.float32)
  mapped *= np.float32(scale)
  mapped += np.float32(vmin - in_min * scale)
  return {**example, key: mapped}


@register_op
def standardize(
  example: Example,
  mean: float | tuple | list,
  std: float | tuple | list,
  *,
  key: str = "image",
) -> Example:
  """Subtracts the mean and divides by the standard deviation.

  The values are taken as they stand: with the statistics of [0, 1] images put
  value_range(0, 1) before.

  Args:
    example: has an image under `key`.
    mean: one number, or one per channel.
    std: likewise.
    key: where the image is.

  Returns:
    The example with the image in float32.
  """
  image = get_frames(example, key).astype(np.float32)
  for name, value in (("mean", mean), ("std", std)):
    if np.size(value) not in (1, image.shape[-1]):
      raise ValueError(
        f"{name} has {np.size(value)} values, the image has "
        f"{image.shape[-1]} channels"
      )
  return {
    **example,
    key: (image - np.asarray(mean, np.float32)) / np.asarray(std, np.float32),
  }
