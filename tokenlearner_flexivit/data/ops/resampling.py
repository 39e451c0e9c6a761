"""Resizes the pixels of images, by OpenCV or by Pillow."""

import cv2
import numpy as np
from jaxtyping import Shaped
from PIL import Image

_BY_OPENCV = {
  "nearest": cv2.INTER_NEAREST_EXACT,
  "bilinear": cv2.INTER_LINEAR,
  "bicubic": cv2.INTER_CUBIC,
  "area": cv2.INTER_AREA,
}
# These have antialiasing, and their own cubic kernel.
_BY_PILLOW = {
  f"pillow_{name.lower()}": getattr(Image.Resampling, name)
  for name in ("BILINEAR", "BICUBIC", "LANCZOS", "BOX", "HAMMING")
}
METHODS = (*_BY_OPENCV, *_BY_PILLOW)
# 0.8 GB in colours, more than any model sees. A long strip may exceed this when
# its short side is enlarged to that of other images.
_MAX_PIXELS = 1 << 28


def check_method(method: str) -> None:
  """Raises ValueError for an unknown method, listing the known ones."""
  if method not in METHODS:
    raise ValueError(
      f"unknown method {method!r}; the methods are {list(METHODS)}"
    )


def resize_image(
  image: Shaped[np.ndarray, "*frames H W C"],
  height: int,
  width: int,
  method: str,
) -> Shaped[np.ndarray, "*frames {height} {width} C"]:
  """Returns the image or video resized to height x width, of the same dtype.

  Args:
    image: to resize.
    height: of the result.
    width: of the result.
    method: one of `METHODS`.

  Raises:
    ValueError: an unknown method, a map of whole numbers with another method
      than "nearest", or a result of too many pixels.
  """
  check_method(method)
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
  if method in _BY_PILLOW:
    return _by_pillow(image, height, width, _BY_PILLOW[method])
  resized = cv2.resize(image, (width, height), interpolation=_BY_OPENCV[method])
  # OpenCV drops an axis of one channel.
  return resized.reshape(height, width, image.shape[-1])


def _by_pillow(
  image: Shaped[np.ndarray, "H W C"],
  height: int,
  width: int,
  method: Image.Resampling,
) -> Shaped[np.ndarray, "{height} {width} C"]:
  """Returns an image resized channel by channel, as Pillow does."""
  is_byte = image.dtype == np.uint8
  channels = np.moveaxis(image if is_byte else image.astype(np.float32), -1, 0)
  resized = np.stack(
    [
      np.asarray(Image.fromarray(channel).resize((width, height), method))
      for channel in np.ascontiguousarray(channels)
    ],
    axis=-1,
  )
  if image.dtype.kind == "u" and not is_byte:
    # Cubic kernels go beyond the values around them.
    limits = np.iinfo(image.dtype)
    resized = np.clip(np.round(resized), limits.min, limits.max)
  return resized.astype(image.dtype)
