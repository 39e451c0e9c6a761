"""Masks are decoded with their image: ids as stored, of its orientation."""

import io

import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.ops import exif

RNG = np.random.default_rng(0)
STORED = RNG.integers(0, 9, (12, 16), np.uint8)
PP = data.parse("decode(masks='semantic')")


def encode(image, kind="PNG", orientation=None, **options):
  if orientation:
    tags = Image.Exif()
    tags[0x0112] = orientation
    options["exif"] = tags
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def photo(orientation, shape=STORED.shape):
  return encode(np.zeros((*shape, 3), np.uint8), "JPEG", orientation)


def decoded(mask, orientation=1, pp=PP):
  """Returns the mask of a photo, whose size it must have."""
  result = pp({"image": photo(orientation), "semantic": mask})
  assert result["semantic"].shape == result["image"].shape[:2]
  assert result["semantic"].dtype == np.int32
  return result["semantic"]


def test_ids_are_those_of_the_file():
  palette = Image.fromarray(STORED)
  palette.putpalette(RNG.integers(0, 256, 27, np.uint8).tobytes())
  wide = STORED.astype(np.uint16) * 4000
  for expected, mask in (
    (STORED, encode(palette)),
    (STORED, encode(palette, bits=4)),
    (STORED, encode(STORED)),
    (STORED, STORED),
    (STORED, STORED[..., None].astype(np.int64)),
    (wide, encode(wide)),
  ):
    np.testing.assert_array_equal(decoded(mask), expected)


def test_ids_in_colours_are_decoded_before():
  numbers = RNG.integers(0, 1 << 24, STORED.shape)
  colours = np.stack([numbers, numbers >> 8, numbers >> 16], -1) & 255
  pp = data.parse(
    "decode_ids(rgb=True,key='semantic')|decode(masks='semantic')"
  )
  file = encode(colours.astype(np.uint8))
  np.testing.assert_array_equal(decoded(file, pp=pp), numbers)
  turned = decoded(file, 6, pp)
  np.testing.assert_array_equal(turned, exif.turn(numbers, 6))
  with pytest.raises(ValueError, match=r"in colours.*legend.*map_labels"):
    decoded(file)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_with_their_image(orientation):
  upright = exif.turn(STORED, orientation)
  told = {
    is_stored: data.parse(f"decode(masks='semantic',masks_exif={is_stored})")
    for is_stored in (True, False)
  }
  for is_stored, mask in ((True, STORED), (False, upright)):
    for file in (encode(mask), mask.copy()):
      result = decoded(file, orientation, told[is_stored])
      np.testing.assert_array_equal(result, upright)
      # Where rows and columns are exchanged, the size tells.
      if orientation in (1, 5, 6, 7, 8):
        result = decoded(file, orientation)
        np.testing.assert_array_equal(result, upright)
      else:
        with pytest.raises(ValueError, match=f"orientation {orientation}, and"):
          decoded(file, orientation)
  # A mask of an orientation of its own is turned by that alone.
  own = encode(STORED, orientation=orientation)
  if orientation > 1:
    np.testing.assert_array_equal(decoded(own, orientation), upright)


def test_without_exif_the_image_and_its_mask_are_as_stored():
  pp = data.parse("decode(exif=False,masks='semantic')")
  np.testing.assert_array_equal(decoded(encode(STORED), 3, pp), STORED)


def test_a_square_photo_on_its_side_needs_to_be_told():
  square = encode(STORED[:, :12])
  example = {"image": photo(6, (12, 12)), "semantic": square}
  with pytest.raises(ValueError, match="masks_exif=True if it is as stored"):
    PP(example)


@pytest.mark.parametrize(
  "mask, words",
  [
    (
      encode(STORED[:-1]),
      "'semantic' has 11 x 16 pixels, and its image 12 x 16",
    ),
    (encode(STORED, "JPEG"), "this is a JPEG and none of PNG"),
    (encode(STORED)[:60], "damaged"),
    (np.zeros((12, 16), np.float32), "no map of ids"),
  ],
)
def test_what_is_no_mask_of_the_image_is_refused(mask, words):
  with pytest.raises(ValueError, match=words):
    decoded(mask)
  with pytest.raises(ValueError, match="no 'semantic'; it has"):
    PP({"image": photo(1)})
