"""Reads the sizes of images from the beginnings of their files."""

import concurrent.futures
import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from tokenlearner_flexivit.data.ops import exif
from tokenlearner_flexivit.data.sources import base as sources

# Almost all files tell their size in so many bytes.
_BYTES = 1 << 16
# Threads wait for the disk or the network, not for the processor.
_THREADS, _CHUNK = 32, 64
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# Markers of a JPEG from 0xC0 to 0xCF that do not begin a frame.
_NO_FRAME = (0xC4, 0xC8, 0xCC)
_EXIF_ORIENTATION = 0x0112
# Of TIFF 6.0, section 8.
_WIDTH, _HEIGHT = 256, 257


_MISSING = f"cannot be read ({os.strerror(errno.ENOENT)})"


class Header(NamedTuple):
  """Holds what the beginning of an image's file tells.

  Attributes:
    format: "PNG", "JPEG" or another name of Pillow's.
    height: of the pixels as stored.
    width: of the pixels as stored.
    orientation: the EXIF orientation, 1 to 8.
    has_colours: whether pixels are colours, and no positions in a palette.
  """

  format: str
  height: int
  width: int
  orientation: int
  has_colours: bool

  @property
  def stored(self) -> tuple[int, int]:
    """Returns (height, width) as stored."""
    return self.height, self.width

  @property
  def upright(self) -> tuple[int, int]:
    """Returns (height, width) of the image turned upright by its EXIF data."""
    sides = (self.height, self.width)
    return sides[::-1] if self.orientation >= 5 else sides


def read_all(paths: Sequence[str | os.PathLike]) -> list[Header | str]:
  """Returns the header of each file, or in words why it has none."""

  def read_chunk(chunk: Sequence[str | os.PathLike]) -> list[Header | str]:
    headers = []
    for path in chunk:
      try:
        headers.append(read(path))
      except ValueError as error:
        headers.append(str(error))
    return headers

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    starts = range(0, len(paths), _CHUNK)
    parts = pool.map(read_chunk, [paths[i : i + _CHUNK] for i in starts])
    headers = list(itertools.chain.from_iterable(parts))
  folders = {}
  for i, header in enumerate(headers):
    if header == _MISSING:
      folder, name = os.path.split(paths[i])
      if folder not in folders:
        folders[folder] = sources.similar_names(folder)
      if other := folders[folder].get(sources.spelling(name)):
        headers[i] += (
          f"; {other!r} is there, which differs in case, in blanks or in how "
          "letters are encoded: write the name as it is there"
        )
  return headers


def read(path: str | os.PathLike) -> Header:
  """Returns the header of an image's file.

  Raises:
    ValueError: the file cannot be read, or is no image; the message does not
      name the file.
  """
  try:
    with open(path, "rb", buffering=0) as file:
      data = file.read(_BYTES)
      if data.startswith(_PNG) and len(data) > 25:
        header = _png(data)
        if len(data) == _BYTES and b"eXIf" not in data:
          # EXIF data may stand behind the pixels.
          file.seek(max(_BYTES, os.fstat(file.fileno()).st_size - _BYTES))
          number = exif.orientation_at_end(file.read(_BYTES))
          header = header._replace(orientation=number)
        return header
      if data.startswith(_JPEG):
        try:
          return _jpeg(data)
        except IndexError:  # Large EXIF data, or a broken file.
          return _jpeg(data + file.read())
  except IndexError:
    raise ValueError("is a JPEG that ends before its size is told") from None
  except OSError as error:
    raise ValueError(f"cannot be read ({error.strerror})") from error
  return _by_pillow(path, len(data))


def _png(data: bytes) -> Header:
  width, height = (int.from_bytes(data[i : i + 4]) for i in (16, 20))
  # Colour types of the PNG specification: 2 is RGB, 6 is RGB and opacity.
  colours = data[25] in (2, 6)
  return Header("PNG", height, width, exif.orientation(data), colours)


def _jpeg(data: bytes) -> Header:
  """Returns the header, or raises IndexError if the data end before it."""
  for marker, position in _markers(data):
    if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
      height, width = (
        (data[i] << 8) + data[i + 1] for i in (position + 5, position + 7)
      )
      colours = data[position + 9] > 1
      return Header("JPEG", height, width, exif.orientation(data), colours)
  raise IndexError("no frame begins")


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
  """Yields the markers of a JPEG, and the positions of their first bytes."""
  position = 2
  while data[position] == 0xFF:
    marker = data[position + 1]
    if marker == 0xFF:  # Markers may be padded.
      position += 1
      continue
    yield marker, position
    position += 2 + (data[position + 2] << 8) + data[position + 3]


def _by_pillow(path: str | os.PathLike, size: int) -> Header:
  """Returns the header of a file in one of the rarer formats."""
  try:
    import pillow_heif

    pillow_heif.register_heif_opener()
  except ImportError:
    pass
  try:
    with Image.open(path) as image:
      number = image.getexif().get(_EXIF_ORIENTATION, 1)
      colours = image.mode not in ("1", "L", "P", "LA", "PA", "I", "I;16", "F")
      number = number if number in range(1, 9) else 1
      height, width = image.height, image.width
      if image.format == "TIFF":  # Pillow tells the size of the turned image.
        height, width = (image.tag_v2[tag] for tag in (_HEIGHT, _WIDTH))
      return Header(image.format, height, width, number, colours)
  except Image.DecompressionBombError as error:
    raise ValueError(f"is too large to be decoded: {error}") from None
  except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
    what = "is empty" if not size else "is no image that can be read"
    raise ValueError(what) from None
