"""JPEGs that are decoded from the top as far down as a crop needs.

A JPEG is decoded row by row, and most of a crop's cost is decoding, so what
lies below a crop is better left out. OpenCV has no way to ask for that. But
libjpeg, which it uses, decodes as many rows as the header announces; with a
smaller height there, the rows above are the same to the last bit.
"""

import contextlib
from collections.abc import Callable

import numpy as np

from tokenlearner_flexivit.data.ops import exif

_START_OF_SCAN, _RESTART_INTERVAL = 0xDA, 0xDD
_BASELINE, _EXTENDED = 0xC0, 0xC1
# All frame headers; 0xC4, 0xC8 and 0xCC are tables and an extension.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class UndecodedJpeg:
  """A JPEG that is decoded when it is cut, like an array [H, W, C].

  `shape` is there at once. `image[top:bottom, left:right]` decodes the rows
  above `bottom` and is equal to the same part of the decoded image.
  """

  ndim = 3

  def __init__(
    self,
    data: bytes,
    channels: int,
    decode: Callable[..., np.ndarray],
    orientation: int = 1,
  ):
    """Reads the header.

    Args:
      data: the file.
      channels: of the decoded image, 1 or 3.
      decode: decodes (a file as bytes or uint8 [n], channels) to an image
        [H, W, channels] as it is stored, or raises ValueError.
      orientation: how the stored image lies; see `exif.orientation`. The shape
        and what is cut are those of the upright image.

    Raises:
      ValueError: this is no JPEG of the usual kind: rows one after another in
        one scan, with an end. Others must be decoded as a whole.
    """
    try:
      frame, scan = _find_headers(data)
      num_components = data[frame + 9]
      vertical = [data[frame + 11 + 3 * i] & 15 for i in range(num_components)]
      if data[scan + 4] != num_components:
        raise ValueError("the JPEG has several scans")
    except IndexError:
      raise ValueError("the header has no end") from None
    # Without its end marker the decoder stops where the rows asked for end;
    # otherwise it would go through the rest in search of it, and complain.
    array = np.frombuffer(data, np.uint8)
    # Five times as fast as data.find.
    ends = (array[scan:-1] == 0xFF) & (array[scan + 1 :] == 0xD9)
    self._upper = array[: scan + ends.argmax()]
    if not ends.any():
      raise ValueError("the JPEG has no end")
    self._data, self._channels, self._decode = data, channels, decode
    self._frame = frame
    self._stored = (
      int.from_bytes(data[frame + 5 : frame + 7]),
      int.from_bytes(data[frame + 7 : frame + 9]),
    )
    self._orientation = orientation
    self.shape = (*exif.turned_shape(self._stored, orientation), channels)
    self._unit = 8 * max(vertical)
    if not all(self.shape) or not self._unit:
      raise ValueError("the JPEG has an empty side")

  def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
    stored = exif.turn_back(part, self._stored, self._orientation)
    return exif.turn(self._cut(stored), self._orientation)

  def _cut(self, part: tuple[slice, slice]) -> np.ndarray:
    """Returns a part of the stored image."""
    # Colours are stored for several rows at a time and mixed with those of the
    # rows below; without blocks to spare, nothing is gained.
    height = part[0].stop + self._unit // 4
    if -(-height // self._unit) < -(-self._stored[0] // self._unit):
      upper = self._upper.copy()
      upper[self._frame + 5 : self._frame + 7] = divmod(height, 256)
      # It may be damaged, as the whole will tell, or too few bytes are left.
      with contextlib.suppress(ValueError):
        return self._decode(upper, self._channels)[part]
    return self._decode(self._data, self._channels)[part]


def _find_headers(data: bytes) -> tuple[int, int]:
  """Returns the positions of the frame's and of the first scan's marker.

  Raises:
    ValueError: this is no JPEG, or not of the usual kind; see `UndecodedJpeg`.
    IndexError: the file ends before the scan.
  """
  if data[:2] != b"\xff\xd8":
    raise ValueError("this is no JPEG")
  position, frame = 2, 0
  while data[position] == 0xFF:
    marker = data[position + 1]
    if marker == _START_OF_SCAN and frame:
      return frame, position
    if marker in (_BASELINE, _EXTENDED) and not frame:
      frame = position
      if data[frame + 4] != 8:
        raise ValueError("the JPEG has more than 8 bits per sample")
    elif marker in _FRAMES or marker in (_START_OF_SCAN, _RESTART_INTERVAL):
      break
    position += 2 + int.from_bytes(data[position + 2 : position + 4])
  raise ValueError("the JPEG is progressive, has restarts or is damaged")
