"""JPEGs that are decoded from the top as far down as a crop needs.

A JPEG is decoded row by row, and decoding is most of a crop's cost, so rows
below the crop should be left out. OpenCV has no option for this. But libjpeg,
which it uses, decodes as many rows as the header announces; with a smaller
height in the header, the rows above are the same to the last bit.
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

  `shape` needs no decoding. `image[top:bottom, left:right]` decodes the rows
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
      channels: channels of the decoded image, 1 or 3.
      decode: function of (a file as bytes or uint8 [n], channels) that returns
        the image [H, W, channels] as stored, or raises ValueError.
      orientation: the stored image's orientation, see `exif.orientation`. The
        shape and cut parts are those of the upright image.

    Raises:
      ValueError: the file is not a JPEG with rows in order, one scan and an end
        marker. Other files must be decoded as a whole.
    """
    try:
      frame, scan = _find_headers(data)
      num_components = data[frame + 9]
      vertical = [data[frame + 11 + 3 * i] & 15 for i in range(num_components)]
      if data[scan + 4] != num_components:
        raise ValueError("the JPEG has several scans")
    except IndexError:
      raise ValueError("the header has no end") from None
    # Without an end marker the decoder stops after the announced rows; with
    # one it would read the rest in search of it, and warn.
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
    # rows below. If no block of rows can be left out, nothing is gained.
    height = part[0].stop + self._unit // 4
    if -(-height // self._unit) < -(-self._stored[0] // self._unit):
      upper = self._upper.copy()
      upper[self._frame + 5 : self._frame + 7] = divmod(height, 256)
      # The file may be damaged, which decoding the whole tells, or too short.
      with contextlib.suppress(ValueError):
        return self._decode(upper, self._channels)[part]
    return self._decode(self._data, self._channels)[part]


def _find_headers(data: bytes) -> tuple[int, int]:
  """Returns the positions of the frame's and of the first scan's marker.

  Raises:
    ValueError: the file is not a JPEG, or not of the kind that `UndecodedJpeg`
      needs.
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
