"""Preprocessing ops that decode image files, by OpenCV and Pillow.

OpenCV decodes all formats but GIF, AVIF, HEIC and some TIFF, which Pillow
decodes.
"""

import io

import cv2
import numpy as np
from jaxtyping import Int32, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from tokenlearner_flexivit.data.ops import exif as exif_lib
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.preprocess import Example, as_names, register_op

# The pipeline decodes many examples at a time. OpenCV's own threads would
# compete with its threads and processes for the same cores.
cv2.setNumThreads(0)

# Formats that store numbers without loss.
_EXACT_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
_TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Tags of TIFF 6.0 (section 8; 339: section 19), and values of 262.
_BITS, _PHOTOMETRIC, _PLANES, _EXTRA, _SAMPLE_FORMAT = 258, 262, 284, 338, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CIELAB = 0, 1, 2, 8
_SIGNED = 2  # A value of 339.
# 16-bit images without a greater value hold fewer bits, or are black.
_MAX_OF_12_BITS = (1 << 12) - 1


def _check_decode(channels: int, bits: int | None) -> None:
  if channels not in (1, 3):
    raise ValueError(f"channels must be 1 or 3, not {channels}")
  if bits is not None and not 8 <= bits <= 16:
    raise ValueError(f"bits must be in [8, 16], not {bits}")


@register_op(check=(_check_decode, geometry.check_names))
def decode(
  example: Example,
  channels: int = 3,
  *,
  exif: bool = True,
  bits: int | None = None,
  key: str = "image",
  masks: str | tuple | list = (),
  masks_exif: bool | None = None,
) -> Example:
  """Decodes an image, and masks of it.

  Formats are JPEG, PNG, WebP, BMP, GIF (the first image), TIFF, AVIF and, where
  the package pillow-heif is installed, HEIC. Transparency is dropped. CMYK and
  palettes become RGB. 16 bits become 8 by their upper half.

  Masks are decoded by `decode_ids`, and turned with their image if they were
  drawn on its pixels as stored. Their sizes must then be equal.

  Args:
    example: has under `key` an encoded image (bytes), or one decoded already
      (uint8 [H, W], [H, W, 1] or [H, W, 3]).
    channels: 3 for RGB, where grey is repeated, or 1 for grey.
    exif: whether to turn the image upright by its EXIF orientation, as viewers
      do. False leaves the pixels as stored, as TensorFlow's decoder does; TIFF
      and HEIC are upright either way.
    bits: number of bits of the values of 16-bit images, such as 12 for images
      of 12-bit cameras; the upper 8 of these bits are kept. None means 16, and
      an image without a value of more than 12 bits is refused, because it would
      be nearly black.
    key: where the image is.
    masks: names of masks, encoded or decoded already; see `decode_ids`.
    masks_exif: whether the image's EXIF orientation turns its masks, too. By
      default it does if only so the sizes are equal.

  Returns:
    The example with a uint8 [H, W, channels] under `key`, and an int32 [H, W]
    under the name of each mask.

  Raises:
    ValueError: the bytes are not an image or a damaged one, the values have
      another number of bits, the array has another number of channels, a mask
      has another size, or its size fits whether it is turned or not.
  """
  _check_decode(channels, bits)
  image = _get(example, key)
  number = 1
  if exif and masks and isinstance(image, bytes):
    number = exif_lib.orientation(image)
  if isinstance(image, bytes):
    image = decode_bytes(image, channels, exif=exif, bits=bits)
  elif hasattr(image, "dtype"):
    image = _with_channels(_to_uint8(image, bits), channels)
  else:
    raise ValueError(
      f"{key!r} is of the type {type(image).__name__}. An image is bytes, the "
      "content of a file, or a uint8 array"
    )
  decoded = {**example, key: image}
  for name in as_names(masks):
    ids = decode_ids(example, key=name)[name]
    is_stored = masks_exif
    if (
      isinstance(example[name], bytes)
      and exif_lib.orientation(example[name]) > 1
    ):
      is_stored = False  # It has been turned by its own orientation.
    decoded[name] = _turned(ids, name, image.shape, number, is_stored)
  return decoded


def _turned(
  ids: Int32[np.ndarray, "H W"],
  name: str,
  shape: tuple[int, ...],
  number: int,
  is_stored: bool | None,
) -> Int32[np.ndarray, "h w"]:
  """Returns a mask in the orientation of its image.

  Args:
    ids: the mask.
    name: of the mask, for errors.
    shape: of the upright image.
    number: the image's EXIF orientation.
    is_stored: whether the mask shows the image as stored; None if unknown.
  """
  turned = exif_lib.turn(ids, number)
  if is_stored is None:
    is_stored = turned.shape == shape[:2]
    if is_stored and ids.shape == shape[:2] and number != 1:
      raise ValueError(
        f"the image has the EXIF orientation {number}, and the size of its "
        f"mask {name!r} does not tell whether that shows the image as stored "
        "or upright: say masks_exif=True if it is as stored, as programs that "
        "ignore EXIF draw it, or masks_exif=False if it is upright"
      )
  if is_stored:
    ids = turned
  if ids.shape != shape[:2]:
    raise ValueError(
      f"the mask {name!r} has {ids.shape[0]} x {ids.shape[1]} pixels, and its "
      f"image {shape[0]} x {shape[1]}: they must be of one size"
    )
  return ids


def decode_bytes(
  data: bytes, channels: int, *, exif: bool = True, bits: int | None = None
) -> UInt8[np.ndarray, "H W {channels}"]:
  """Returns the decoded image of a file, for `decode`.

  Args:
    data: the file.
    channels: 1 or 3.
    exif: whether to turn the image upright.
    bits: number of bits of the values of a 16-bit image; None for 16.

  Raises:
    ValueError: the bytes are not an image or a damaged one, or the values have
      another number of bits.
  """
  is_tiff = data[:4] in _TIFF_HEADERS
  is_pillows = data[:4] == b"GIF8" or data[4:8] == b"ftyp"
  if is_pillows or (is_tiff and _is_for_pillow(data)):
    return _with_channels(_decode_by_pillow(data, exif), channels)
  color = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
  if is_tiff and channels == 3:
    # OpenCV 5.0 leaves memory unwritten for 16-bit TIFF in the order RGB.
    color = cv2.IMREAD_COLOR_BGR
  flags = color | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
  try:
    # For empty files OpenCV raises an assertion without a message.
    decoded = (
      cv2.imdecode(np.frombuffer(data, np.uint8), flags) if len(data) else None
    )
  except cv2.error as error:
    raise ValueError(f"OpenCV cannot decode the image: {error.err}") from error
  if decoded is None:
    raise ValueError(
      f"{len(data)} bytes starting with {data[:8]!r} are not an image that "
      "OpenCV can decode, or it is damaged; convert other formats to JPEG or "
      "PNG"
    )
  if color == cv2.IMREAD_COLOR_BGR:
    decoded = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
  image = _with_channels(_to_uint8(decoded, bits), channels)
  number = exif_lib.orientation(data) if exif else 1
  return exif_lib.turn(image, number)


def decoded_size(data: bytes) -> tuple[int, int]:
  """Returns height and width of the image that `decode` makes of a file.

  The beginning of a JPEG, PNG or WebP tells them; other files are decoded.

  Raises:
    ValueError: the bytes are not an image.
  """
  try:
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
      size = image.height, image.width
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
    return decode_bytes(data, 1).shape[:2]
  return size[::-1] if exif_lib.orientation(data) >= 5 else size


def _is_for_pillow(data: bytes) -> bool:
  """Tells whether Pillow must decode a TIFF that OpenCV would decode wrongly.

  OpenCV misreads the numbers of CIELAB, multiplies colours by the opacity,
  which must be dropped, and knows no grey of 2 and 4 bits.

  Raises:
    ValueError: the numbers have no known range, or both libraries would decode
      wrong pixels.
  """
  try:
    bits, formats, colours, planes, extra = (
      exif_lib.tag_values(data, tag)
      for tag in (_BITS, _SAMPLE_FORMAT, _PHOTOMETRIC, _PLANES, _EXTRA)
    )
  except IndexError:  # OpenCV raises an error for damaged files.
    return False
  depth = max(bits, default=1)
  kinds = {2: "int", 3: "float", 5: "complex int", 6: "complex float"}
  kind = kinds.get(max(formats, default=1), "uint")
  if kind != "uint" or depth > 16:
    raise ValueError(
      f"pixels of the type {kind}{depth} have no known range. Convert the "
      "image to 8 bits"
    )
  is_lab = colours == (_CIELAB,)
  if depth <= 8:
    is_grey = colours in ((_WHITE_IS_ZERO,), (_BLACK_IS_ZERO,))
    return (
      is_lab
      or (colours == (_RGB,) and extra in ((1,), (2,)))
      or (is_grey and depth in (2, 4))
    )
  layouts = {
    "planes, each channel after the other": len(bits) > 1 and planes == (2,),
    "white as zero": colours == (_WHITE_IS_ZERO,),
    "colours of CIELAB": is_lab,
  }
  for layout, is_there in layouts.items():
    if is_there:
      raise ValueError(
        f"this TIFF has {depth} bits and {layout}, which cannot be decoded. "
        "Convert the image to PNG, or to 8 bits"
      )
  return False


def _decode_by_pillow(data: bytes, exif: bool) -> UInt8[np.ndarray, "H W 3"]:
  """Returns the first image of a file of a format that Pillow decodes."""
  formats = ["GIF", "AVIF", "TIFF"]
  if data[4:8] == b"ftyp":
    try:
      import pillow_heif

      pillow_heif.register_heif_opener()
      formats.append("HEIF")
    except ImportError:
      pass
  try:
    with Image.open(io.BytesIO(data), formats=formats) as opened:
      # TIFF's orientation is not EXIF; OpenCV always turns such images, too.
      is_turned = exif or opened.format == "TIFF"
      image = ImageOps.exif_transpose(opened) if is_turned else opened
      # Pillow warns if transparent palettes are converted to RGB directly.
      image = image.convert("RGBA").convert("RGB")
      return np.asarray(image)
  except UnidentifiedImageError:
    if data[:4] in _TIFF_HEADERS:
      raise ValueError(
        "this TIFF is of a kind that cannot be decoded, or it is damaged; "
        "convert it to PNG"
      ) from None
    kind = data[8:12].decode("latin-1").strip().upper()
    raise ValueError(
      f"this is a file of the kind {kind!r}, which this Pillow cannot decode, "
      "or it is damaged. For HEIC, the photos of iPhones, install the package "
      "pillow-heif, or convert the files to JPEG (with ImageMagick: magick "
      "mogrify -format jpg *.heic)"
    ) from None
  except Image.DecompressionBombError as error:
    raise ValueError(f"the image is too large: {error}") from error
  except (OSError, SyntaxError, EOFError) as error:
    raise ValueError(f"the image is damaged: {error}") from error


def _to_uint8(image: np.ndarray, bits: int | None) -> np.ndarray:
  """Returns an image of 8 or 16 bits as one of 8 bits."""
  if image.dtype != np.uint16:
    if image.dtype != np.uint8:
      raise ValueError(
        f"pixels of the type {image.dtype} have no known range. Convert the "
        "image to 8 bits"
      )
    return image
  peak = int(image.max(initial=0))
  if bits is None:
    if 0 < peak <= _MAX_OF_12_BITS:
      raise ValueError(
        f"the image has 16 bits, but no value above {peak}: it would be nearly "
        f"black. If its values have fewer bits, say how many, as in "
        "decode(bits=12); if it is that dark, decode(bits=16). If these are "
        "ids of classes or instances, use decode_ids"
      )
    bits = 16
  if peak >> bits:
    raise ValueError(
      f"the value {peak} has more than the {bits} bits asked for"
    )
  return (image >> (bits - 8)).astype(np.uint8)


def _with_channels(
  image: np.ndarray, channels: int
) -> Shaped[np.ndarray, "H W {channels}"]:
  """Returns the image with one or three channels."""
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
def decode_ids(
  example: Example, rgb: bool = False, *, exif: bool = True, key: str
) -> Example:
  """Decodes a map of whole numbers, such as classes or instances.

  The numbers are those of the file: 1, 2, 4, 8 or 16 bits of grey, whether a
  viewer shows 0 black or white, or the positions in a palette, not its colours
  (as in Pascal VOC). Resize the result with method="nearest".

  Masks of photos are better decoded by `decode(masks=...)`, which compares the
  sizes and knows the image's EXIF orientation. With `rgb`, put this op before.

  Args:
    example: has under `key` an encoded PNG, TIFF, BMP or GIF (bytes), or a map
      decoded already (integers [H, W] or [H, W, 1]; with `rgb`, [H, W, 3]).
    rgb: whether the colours code the numbers as R + 256 G + 256^2 B (as in
      COCO's panoptic segmentation).
    exif: whether to turn the map upright by its own EXIF orientation.
    key: where the map is.

  Returns:
    The example with an int32 [H, W] under `key`.

  Raises:
    ValueError: the format does not store numbers without loss, the file is
      damaged, or it has colours without `rgb` or several channels of 16 bits.
  """
  ids = _get(example, key)
  if isinstance(ids, bytes):
    ids = _decode_numbers(ids, exif)
  ids = np.asarray(ids)
  if ids.ndim not in (2, 3) or ids.dtype.kind not in "bui":
    raise ValueError(
      f"an array of {ids.dtype} of shape {ids.shape} is no map of ids"
    )
  outside = ids[ids.astype(np.int32) != ids]
  if outside.size:
    raise ValueError(
      f"the map has the id {outside[0]}, and ids are stored in 32 bits, from "
      "-2^31 to 2^31 - 1"
    )
  ids = ids.astype(np.int32).reshape(*ids.shape[:2], -1)
  if rgb:
    if ids.shape[-1] != 3:
      raise ValueError(
        f"the map has {ids.shape[-1]} channels, no colours: leave out rgb=True"
      )
    ids = ids @ np.array([1, 256, 256**2], np.int32)
    return {**example, key: ids}
  if (ids != ids[..., :1]).any():
    raise ValueError(
      "the map is in colours. If they code the ids as R + 256 G + 256^2 B, use "
      f"decode_ids(rgb=True, key={key!r}); if they are those of a legend, "
      "map_labels behind it makes classes of these numbers"
    )
  return {**example, key: np.ascontiguousarray(ids[..., 0])}


def _decode_numbers(data: bytes, exif: bool) -> np.ndarray:
  """Returns the numbers of a file, [H, W] or [H, W, 3]."""
  try:
    with Image.open(io.BytesIO(data), formats=_EXACT_FORMATS) as image:
      if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
      elif image.mode == "RGBA":
        image = image.convert("RGB")
      numbers = np.asarray(image)
  except UnidentifiedImageError:
    what = f"{len(data)} bytes starting with {data[:8]!r}"
    if data[:2] == b"\xff\xd8":
      what = "a JPEG"
    raise ValueError(
      f"this is {what} and none of {', '.join(_EXACT_FORMATS)}. Other formats, "
      "such as JPEG, do not keep the numbers of a map"
    ) from None
  except Image.DecompressionBombError as error:
    raise ValueError(f"the map is too large: {error}") from error
  except (OSError, SyntaxError, EOFError) as error:
    raise ValueError(f"the map is damaged: {error}") from error
  is_tiff = data[:4] in _TIFF_HEADERS
  if is_tiff:
    bits = exif_lib.tag_values(data, _BITS) or (1,)
    is_grey = len(bits) == 1 and image.mode in ("1", "L")
  else:
    bits = (data[24],) if data[:4] == b"\x89PNG" else (8,)
    is_grey = data[25] == 0
  if is_grey and bits[0] in (2, 4):
    # Pillow scales such numbers to 8 bits.
    numbers = numbers // (255 // (2 ** bits[0] - 1))
  if is_tiff and is_grey:
    # Pillow turns grey around where 0 is white, and takes int8 for uint8.
    if exif_lib.tag_values(data, _PHOTOMETRIC) == (_WHITE_IS_ZERO,):
      numbers = (2 ** bits[0] - 1) - numbers.astype(np.uint8)
    if exif_lib.tag_values(data, _SAMPLE_FORMAT) == (_SIGNED,):
      numbers = numbers.view(np.int8)
  if max(bits, default=1) > 8 and numbers.dtype == np.uint8:
    raise ValueError(
      "the map has 16 bits in each of several channels, and only 8 of them "
      "would be kept. Store it as grey of 16 bits, or in colours of 8"
    )
  return exif_lib.turn(numbers, exif_lib.orientation(data)) if exif else numbers


def _get(example: Example, key: str) -> bytes | np.ndarray:
  """Returns the entry under `key`, or raises ValueError without one."""
  if key not in example:
    raise ValueError(f"the example has no {key!r}; it has {sorted(example)}")
  return example[key]
