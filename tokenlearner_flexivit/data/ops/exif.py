"""The EXIF orientation of image files, and turning images by it.

A camera stores the pixels in its sensor's order and notes how it was held.
Viewers turn the image accordingly. EXIF is a small TIFF file inside of a JPEG,
PNG or WebP (CIPA DC-008, section 4.6.4); the tag is 0x0112.
"""

import zlib

import numpy as np
from jaxtyping import Shaped

# Pillow's names of the formats whose orientation is read and taken away here.
FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION = 0x0112
# Bytes of a whole number, by the entry's type.
_SHORT_AND_LONG = {3: 2, 4: 4}
_START_OF_SCAN = 0xDA
_PNG = b"\x89PNG\r\n\x1a\n"
_APP1 = 0xE1
# Steps that turn an image upright, by orientation: whether to mirror it upside
# down, to mirror it left to right, and then to exchange rows and columns.
_TURNS = {
  1: (False, False, False),
  2: (False, True, False),
  3: (True, True, False),
  4: (True, False, False),
  5: (False, False, True),
  6: (True, False, True),
  7: (True, True, True),
  8: (False, True, True),
}


def orientation(data: bytes) -> int:
  """Returns the EXIF orientation of a JPEG, PNG or WebP file.

  Args:
    data: the file.

  Returns:
    1 to 8; 1, which is upright, for files of other formats, without EXIF, or
    with damaged EXIF.
  """
  try:
    exif = _find_exif(data)
    numbers = tag_values(exif.removeprefix(b"Exif\0\0"), _ORIENTATION)
  except IndexError:
    return 1
  return numbers[0] if numbers and numbers[0] in _TURNS else 1


def orientation_at_end(data: bytes) -> int:
  """Returns the EXIF orientation that the last bytes of a PNG file tell.

  Args:
    data: the end of the file, from anywhere on.

  Returns:
    1 to 8; 1 without EXIF.
  """
  start = data.find(b"eXIf")
  while start >= 0:
    end = start + 4 + int.from_bytes(data[max(start - 4, 0) : start])
    # Compressed pixels may look like a name, but have no such checksum.
    if zlib.crc32(data[start:end]).to_bytes(4) == data[end : end + 4]:
      size = data[start - 4 : start]
      return orientation(_PNG + size + data[start : end + 4])
    start = data.find(b"eXIf", start + 1)
  return 1


def as_stored(data: bytes) -> bytes:
  """Returns a file whose EXIF data no longer ask to turn the image.

  The pixels are the same. Files without an orientation are returned as they
  are.

  Args:
    data: a JPEG, PNG or WebP file.
  """
  if orientation(data) == 1:
    return data
  exif = _find_exif(data)
  tiff = exif.removeprefix(b"Exif\0\0")
  start, size, _, order = _find_tag(tiff, _ORIENTATION)
  start += data.index(exif) + len(exif) - len(tiff)
  upright = (1).to_bytes(size, order)
  data = data[:start] + upright + data[start + size :]
  if data.startswith(_PNG):  # A checksum ends the part of the file.
    begin = data.index(b"eXIf")
    end = begin + 4 + len(exif)
    checksum = zlib.crc32(data[begin:end]).to_bytes(4)
    data = data[:end] + checksum + data[end + 4 :]
  return data


def turn(
  image: Shaped[np.ndarray, "H W *rest"], number: int
) -> Shaped[np.ndarray, "h w *rest"]:
  """Returns an image turned upright from its orientation."""
  flip_rows, flip_columns, transpose = _TURNS[number]
  if number == 1:
    return image
  image = image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
  return np.ascontiguousarray(image.swapaxes(0, 1) if transpose else image)


def _find_exif(data: bytes) -> bytes:
  """Returns the EXIF of a file; b"" without it.

  Raises:
    IndexError: the file ends in the middle.
  """
  if data[:2] == b"\xff\xd8":
    position = 2
    while data[position] == 0xFF:
      marker = data[position + 1]
      if marker == 0xFF:  # Markers may be padded.
        position += 1
        continue
      size = int.from_bytes(data[position + 2 : position + 4])
      content = data[position + 4 : position + 10]
      if marker == _APP1 and content == b"Exif\0\0":
        return data[position + 4 : position + 2 + size]
      if marker == _START_OF_SCAN:
        break
      position += 2 + size
  elif data.startswith(_PNG) and b"eXIf" in data:
    position = 8
    while position + 8 <= len(data):
      size = int.from_bytes(data[position : position + 4])
      if data[position + 4 : position + 8] == b"eXIf":
        return data[position + 8 : position + 8 + size]
      position += 12 + size
  elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
    position = 12
    while position + 8 <= len(data):
      size = int.from_bytes(data[position + 4 : position + 8], "little")
      if data[position : position + 4] == b"EXIF":
        return data[position + 8 : position + 8 + size]
      position += 8 + size + size % 2
  return b""


def tag_values(tiff: bytes, tag: int) -> tuple[int, ...]:
  """Returns the whole numbers under a tag in the first directory of a TIFF.

  Args:
    tiff: a TIFF file, or EXIF.
    tag: the number of the tag.

  Returns:
    The numbers; () without the tag, or if its values have another type.

  Raises:
    IndexError: the file ends in the middle.
  """
  place = _find_tag(tiff, tag)
  if place is None:
    return ()
  start, size, count, order = place
  # The tags that are read here have at most one value per channel.
  return tuple(
    _read(tiff, start + size * i, size, order) for i in range(min(count, 16))
  )


def _find_tag(tiff: bytes, tag: int) -> tuple[int, int, int, str] | None:
  """Returns where a tag's numbers are in a TIFF, or None without them.

  Returns:
    The position of the first number, the bytes of each, how many there are, and
    the order of their bytes.

  Raises:
    IndexError: the file ends in the middle.
  """
  order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
  if order is None:
    return None

  def read(position: int, size: int) -> int:
    return _read(tiff, position, size, order)

  # BigTIFF has wider numbers.
  is_big = read(2, 2) == 43
  word, entry_size, count_size = (8, 20, 8) if is_big else (4, 12, 2)
  directory = read(word, word)
  for entry in range(read(directory, count_size)):
    position = directory + count_size + entry_size * entry
    size = _SHORT_AND_LONG.get(read(position + 2, 2))
    if read(position, 2) == tag and size:
      count, start = read(position + 4, word), position + 4 + word
      if count * size > word:
        start = read(start, word)
      return start, size, count, order
  return None


def _read(tiff: bytes, position: int, size: int, order: str) -> int:
  if position + size > len(tiff):
    raise IndexError("the TIFF ends in the middle")
  return int.from_bytes(tiff[position : position + size], order)
