"""Preprocessing of users' images to the images that a model was trained on.

The evaluation's decoder decodes the files, so that their pixels are the same.
"""

import io
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.data import splits
from tokenlearner_flexivit.data.ops import decode as decode_ops
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.ops import image as image_ops
from tokenlearner_flexivit.data.sources import image_listing

# Other formats, such as EPS, would start programs on files that may be hostile.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_ENCODED = (bytes, bytearray, memoryview)
_PATHS = (str, os.PathLike)
# Entries that ops of users may read beside an image or a video.
STAND_INS = {"label": np.int32(0), "id": np.int32(0)}
# The colour of padding, in the middle of all.
_GREY = 128
_FRAME = geometry.frame_key("image")


def listed(images: Any) -> list[Any]:
  """Returns a list of images, from a single image, an iterable or a batch.

  Args:
    images: one that `read` takes, several of them in any iterable, or a batch
      as an array [B, H, W, C].

  Raises:
    ValueError: there is no image.
  """
  if isinstance(images, jax.Array):
    images = np.asarray(images)
  if isinstance(images, np.ndarray) and images.dtype.kind in "UO":
    images = images.ravel().tolist()  # Paths, or images of several sizes.
  is_batch = isinstance(images, np.ndarray) and images.ndim == 4
  single_types = (*_ENCODED, *_PATHS, Image.Image, np.ndarray)
  if isinstance(images, single_types) and not is_batch:
    return [images]
  if not isinstance(images, Iterable):
    raise ValueError(f"{_no_image(images)} A list of such is fine, too.")
  images = list(images)
  if not images:
    raise ValueError("There is no image. Give at least one.")
  return images


def files(
  folder: str | os.PathLike, extensions: tuple[str, ...] | None = None
) -> list[str]:
  """Returns the image files in a folder and its subfolders, in order.

  Links to folders are followed, as in training. Left out are hidden files,
  files that operating systems leave behind (`data.splits.is_hidden`), and
  files that are no images by their names or their content.

  Args:
    folder: an existing folder.
    extensions: in lower case, of other files than images, which are told by
      these alone.

  Raises:
    ValueError: there is no such file.
  """
  known = _walk(os.fspath(folder), extensions)
  if not known:
    raise ValueError(
      f"The folder {folder} holds no file that the model reads "
      f"({', '.join(extensions or image_listing.EXTENSIONS)})."
    )
  return known


def _is_image(path: str) -> bool:
  """Tells whether a file is an image, by its name or its content.

  A HEIC is one even where it cannot be decoded, which its error then says.
  """
  known = (*image_listing.EXTENSIONS, *image_listing.HEIC)
  if path.lower().endswith(known):
    return True
  name = pathlib.Path(path)
  return name.is_file() and image_listing.why_no_image(name) is None


def _walk(
  folder: str,
  extensions: tuple[str, ...] | None,
  above: tuple[str, ...] = (),
) -> list[str]:
  """Returns the files below a folder; `above` are the folders that hold it."""
  above = (*above, os.path.realpath(folder))
  names = {True: [], False: []}
  for entry in splits.visible(folder):
    names[splits.is_folder(entry)].append(os.path.join(folder, entry.name))
  known = [
    name
    for name in names[False]
    if (name.lower().endswith(extensions) if extensions else _is_image(name))
  ]
  for name in names[True]:
    # A link to a folder above would never end.
    if os.path.realpath(name) not in above:
      known += _walk(name, extensions, above)
  return known


def read(
  image: Any, channels: int = 3, *, exif: bool = True, bits: int | None = None
) -> np.ndarray:
  """Reads one image like the op `decode`.

  Args:
    image: an array of NumPy or JAX, uint8 [H, W] or [H, W, C] with C of 1
      (grey), 3 (RGB) or 4 (RGBA); a Pillow image; a path; or a file's content
      as bytes. A HEIC needs the package pillow-heif.
    channels: of the result, 1 or 3.
    exif: as the op `decode` takes it.
    bits: as the op `decode` takes it.

  Returns:
    uint8 [H, W, channels].

  Raises:
    Exception: it cannot be read. Pillow raises errors of many types, also for
      an image of more pixels than its `Image.MAX_IMAGE_PIXELS`.
  """
  if isinstance(image, _PATHS):
    path = pathlib.Path(os.path.expanduser(image))
    if path.is_dir():
      raise ValueError("this is a folder. Give the images in it: see `files`")
    image = path.read_bytes()
  if isinstance(image, _ENCODED):
    image = bytes(image)
    _check_file(image)
  elif isinstance(image, np.ndarray | jax.Array):
    image = _from_array(np.asarray(image))
  elif isinstance(image, Image.Image):
    image = _from_pillow(image, exif)
  else:
    raise ValueError(_no_image(image))
  example = {"image": image}
  decoded = decode_ops.decode(example, channels, exif=exif, bits=bits)
  return decoded["image"]


def _check_file(data: bytes) -> None:
  """Raises for files of other formats or too many pixels, before decoding."""
  try:
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
      _check_size(*opened.size)
  except UnidentifiedImageError:
    if data[4:8] == b"ftyp":
      return  # HEIC or similar, which the decoder checks.
    raise ValueError(
      f"this is no image of the formats {', '.join(FORMATS)}, or its header is "
      "damaged"
    ) from None


def _check_size(width: int, height: int) -> None:
  """Raises if an image has more pixels than Pillow's limit against attacks."""
  # Pillow itself only warns above this limit, and raises above twice as much.
  limit = Image.MAX_IMAGE_PIXELS
  if limit is not None and width * height > limit:
    raise ValueError(
      f"the image has {width} x {height} pixels, more than Pillow's limit of "
      f"{limit}. If it is no attack, raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _no_image(value: Any) -> str:
  return (
    f"{type(value).__name__} is no image. Give a uint8 array [H, W, C], a "
    "Pillow image, a path, or a file's content as bytes."
  )


def _from_array(array: np.ndarray) -> np.ndarray:
  if array.dtype != np.uint8:
    raise ValueError(
      f"the array is {array.dtype}, not uint8. Give pixels from 0 to 255, such "
      "as np.uint8(np.round(255 * x)) of an x in [0, 1]"
    )
  if array.ndim == 2:
    array = array[..., None]
  if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
    raise ValueError(
      f"an array of shape {list(array.shape)} is no image. Give [H, W], or "
      "[H, W, C] with C of 1, 3 or 4; a batch is [B, H, W, C]"
    )
  return np.ascontiguousarray(array[..., :3])


def _from_pillow(image: Image.Image, exif: bool) -> np.ndarray:
  """Returns a Pillow image as uint8, or uint16, [H, W, 1 or 3]."""
  _check_size(*image.size)  # Pillow may have opened it without reading it.
  if 0 in image.size:
    raise ValueError(f"the image has {image.width} x {image.height} pixels")
  if exif:
    image = ImageOps.exif_transpose(image)
  if image.mode.startswith("I;16"):
    return np.asarray(image).astype(np.uint16)[..., None]
  if image.mode in ("I", "F"):
    raise ValueError(
      f"pixels of Pillow's mode {image.mode!r} (32 bits) have no known range. "
      "Convert the image to 8 bits"
    )
  if image.mode in ("1", "L", "LA"):
    return np.asarray(image.convert("L"))[..., None]
  if image.mode in ("P", "PA"):
    image = image.convert("RGBA")  # Converting to RGB directly gives a warning.
  return np.asarray(image.convert("RGB"))


def common_shape(pp: str, channels: int) -> tuple[int, int, int] | None:
  """Returns the shape of preprocessed images if it is the same for all sizes.

  Args:
    pp: the preprocessing string.
    channels: of the images.

  Returns:
    (H, W, C); None if it depends on the image, or if no image is large enough.
  """
  preprocess = data_lib.parse(pp).only("image")
  shapes = set()
  for size in ((1531, 2047), (2049, 1537)):  # The sizes have nothing in common.
    example = {**STAND_INS, "image": np.zeros((*size, channels), np.uint8)}
    try:
      example = preprocess(example, np.random.default_rng(0))
    except ValueError:
      return None
    shapes.add(example["image"].shape)
  return shapes.pop() if len(shapes) == 1 else None


def _decoding(preprocess: Any) -> dict[str, Any]:
  """Returns the arguments `exif` and `bits` of the op that decodes images."""
  for step in preprocess.steps:
    if step.fn is decode_ops.decode and step.entries == ("image",):
      return {k: v for k, v in step.kwargs.items() if k in ("exif", "bits")}
  return {}


class Preparation:
  """A preparation of images as model inputs, by an evaluation's preprocessing.

  A preprocessing may keep the size of images, because all of its data have the
  same, or crop more than an image has. Then an image is first brought to the
  model's size: resized until it just covers it, then cropped at its centre; or,
  with `whole`, resized until it fits into it, then padded with grey below or on
  the right.

  Attributes:
    shape: (H, W, C) of a prepared image.
  """

  def __init__(
    self,
    pp: str,
    image_shape: tuple[int, int, int],
    *,
    whole: bool = False,
    any_size: bool = False,
  ):
    """Parses the preprocessing.

    Args:
      pp: the preprocessing string.
      image_shape: (H, W, C) of the images that the model was trained on.
      whole: whether nothing may be cropped from images of other sizes.
      any_size: whether prepared images may have any size, as those that windows
        slide over.

    Raises:
      ValueError: an invalid preprocessing.
    """
    self._preprocess = data_lib.parse(pp).only("image")
    self.shape = tuple(image_shape)
    self._decoding = _decoding(self._preprocess)
    self._fit = contain if whole else cover
    self._any_size = any_size

  listed = staticmethod(listed)

  def __call__(self, image: Any) -> np.ndarray:
    """Returns one image as float32 [H, W, C].

    Args:
      image: as `read` takes it.

    Raises:
      Exception: any of `read`; ValueError if it cannot be preprocessed.
    """
    prepared, _, _ = self._prepared(image)
    return prepared

  def with_place(self, image: Any) -> tuple[np.ndarray, geometry.Place]:
    """Returns one image as float32 [H, W, C], and where it shows the original.

    The original is the image as `original` returns it.

    Args:
      image: as `read` takes it.

    Raises:
      Exception: any of `read`; ValueError if it cannot be preprocessed, or if
        an op does not say where it moves the pixels.
    """
    prepared, size, frame = self._prepared(image)
    if isinstance(frame, str):
      raise ValueError(
        f"{frame} in the preprocessing {self._preprocess.text!r} does not say "
        "where it moves the pixels of images, so answers cannot be brought "
        "back to them. Let it change images by `ops.geometry.move`"
      )
    return prepared, geometry.Place(size, frame, prepared.shape[:2])

  def original(self, image: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Returns an image in colours, decoded as the preprocessing decodes it.

    It is the image as viewers show it, upright by its EXIF orientation, unless
    the preprocessing has decode(exif=False).

    Args:
      image: as `read` takes it.

    Raises:
      Exception: any of `read`.
    """
    return read(image, **self._decoding)

  def _prepared(
    self, image: Any
  ) -> tuple[np.ndarray, tuple[int, int], np.ndarray | str]:
    """Returns the prepared image, the original's size, and `_apply`'s frame."""
    *size, channels = self.shape
    pixels = read(image, channels, **self._decoding)
    check_aspect(pixels, size)
    example = {**STAND_INS, "image": pixels, _FRAME: np.eye(2, 3)}
    try:
      prepared, frame = self._apply(example)
    except ValueError:
      prepared = None
    if prepared is None or not self._suits(prepared):
      prepared, frame = self._apply(self._fit(example, *size))
    if not self._suits(prepared):
      raise ValueError(
        f"the preprocessing {self._preprocess.text!r} gives "
        f"{list(prepared.shape)} where the model takes {list(self.shape)}"
      )
    return prepared.astype(np.float32), pixels.shape[:2], frame

  def _suits(self, prepared: np.ndarray) -> bool:
    if self._any_size:
      return prepared.ndim == 3 and prepared.shape[-1] == self.shape[-1]
    return prepared.shape == self.shape

  def _apply(self, example: dict[str, Any]) -> tuple[np.ndarray, Any]:
    """Returns the image, and its frame or the op that has left none."""
    unknown = []

    def watch(step, before, after):
      old, new = before["image"], after.get("image")
      moves = step.moves or np.shape(old)[:2] != np.shape(new)[:2]
      if old is not new and moves and before.get(_FRAME) is after.get(_FRAME):
        unknown.append(step.text)

    # Random ops draw the same numbers for each image.
    example = self._preprocess(example, np.random.default_rng(0), watch)
    frame = example.get(_FRAME)
    if unknown or frame is None:
      frame = [*unknown, "An op"][0]
    return example["image"], frame


def check_aspect(pixels: np.ndarray, size: list[int]) -> None:
  """Raises for a narrow strip, which would be huge when it is enlarged."""
  height, width, _ = pixels.shape
  ratio = max(height, width) / min(height, width)
  limit = Image.MAX_IMAGE_PIXELS
  if limit is not None and ratio * size[0] * size[1] > limit:
    raise ValueError(
      f"an image of {height} x {width} pixels is too narrow: as large as the "
      f"model needs it, it would have more than {limit} pixels"
    )


def fit(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes an image until it covers a size, and crops it to that size."""
  return cover({"image": pixels}, height, width)["image"]


def cover(example: dict[str, Any], height: int, width: int) -> dict[str, Any]:
  """Resizes the image until it covers a size, and crops it to that size."""
  old_height, old_width, _ = example["image"].shape
  ratio = max(height / old_height, width / old_width)
  size = (
    max(height, round(old_height * ratio)),
    max(width, round(old_width * ratio)),
  )
  resized = image_ops.resize(example, size, _method(ratio))
  return image_ops.central_crop(resized, (height, width))


def contain(example: dict[str, Any], height: int, width: int) -> dict[str, Any]:
  """Resizes the image until it fits into a size, and pads it to that size."""
  old_height, old_width, _ = example["image"].shape
  ratio = min(height / old_height, width / old_width)
  resized = image_ops.resize_keep(example, (height, width), _method(ratio))
  return image_ops.pad_to(resized, (height, width), _GREY)


def _method(ratio: float) -> str:
  return "area" if ratio < 1 else "bilinear"
