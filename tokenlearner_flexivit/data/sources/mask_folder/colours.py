"""Masks in colours, which a legend gives the numbers of classes."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32

from tokenlearner_flexivit.data import mask_classes
from tokenlearner_flexivit.data.ops import decode

# Pascal VOC's colour around objects.
_VOID = (224, 224, 192)
# Colour types of PNGs: RGB, and RGB with opacity.
_RGB = (2, 6)


def code(red: int, green: int, blue: int) -> int:
  """Returns the number of a colour as `decode_ids(rgb=True)` has it."""
  return red + 256 * green + 256**2 * blue


def has_colours(data: bytes) -> bool:
  """Tells whether a PNG has colours that are no positions in a palette."""
  return data[:4] == b"\x89PNG" and data[25] in _RGB


def to_ids(data: bytes, legend: Mapping[int, int]) -> Int32[np.ndarray, "H W"]:
  """Returns the classes of a mask in colours.

  Args:
    data: the file.
    legend: numbers of classes by the codes of colours. The colour that Pascal
      VOC has around objects is no class unless it is listed.

  Raises:
    ValueError: the file is damaged, or has a colour that is not listed.
  """
  legend = {code(*_VOID): mask_classes.IGNORE, **legend}
  codes = decode.decode_ids({"mask": data}, rgb=True, key="mask")["mask"]
  listed = np.array(sorted(legend), np.int32)
  numbers = np.array([legend[colour] for colour in listed.tolist()], np.int32)
  places = np.searchsorted(listed, codes).clip(max=len(listed) - 1)
  unknown = codes[listed[places] != codes]
  if unknown.size:
    first = int(unknown[0])
    colour = (first % 256, first // 256 % 256, first // 256**2)
    raise ValueError(f"has the colour {colour}, which no class has")
  return numbers[places]
