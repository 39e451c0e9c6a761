"""EXIF orientations of files, without decoding them."""

import io

import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit.data.ops import exif as exif_lib


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6])
def test_a_file_as_stored_has_the_same_pixels_and_no_orientation(
  format, orientation
):
  exif = Image.Exif()
  exif[0x010E] = "A description before it"
  if orientation:
    exif[0x0112] = orientation
  pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
  content = io.BytesIO()
  Image.fromarray(pixels).save(content, format, exif=exif)
  data = content.getvalue()
  stored = exif_lib.as_stored(data)
  assert exif_lib.orientation(stored) == 1 and len(stored) == len(data)
  if format == "BMP" or orientation in (None, 1):
    assert stored == data
  with (
    Image.open(io.BytesIO(data)) as before,
    Image.open(io.BytesIO(stored)) as after,
  ):
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    assert after.getexif().get(0x0112, 1) == 1
    assert after.getexif().get(0x010E) == before.getexif().get(0x010E)
