"""JPEGs decoded in part: equal to the whole, and the whole where they must."""

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.ops import decode as decode_ops
from tokenlearner_flexivit.data.ops import jpeg

CROPS = (
  "inception_crop(24)",
  "inception_crop",
  "random_crop(40)",
  "central_crop((30, 50))",
)
SAMPLINGS = {
  "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
  "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
  "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
  "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
  "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


def make_image(height=150, width=203, channels=3):
  """Returns noise of large and small scale, uint8."""
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (height // 9, width // 9, channels), np.uint8)
  large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
  noise = rng.integers(-20, 21, (height, width, channels))
  image = large.reshape(noise.shape) + noise
  return image.clip(0, 255).astype(np.uint8)


def stored(data, channels):
  """Decodes a file as it is stored."""
  return decode_ops.decode_bytes(data, channels, exif=False)


def encode(image, *options):
  return cv2.imencode(".jpg", image, list(options))[1].tobytes()


def sampled(name):
  return encode(make_image(), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[name])


def assert_same_as_apart(file, crop, channels=3, seeds=range(20)):
  """Compares the ops in one string with one after the other."""
  together = data.parse(f"decode({channels})|{crop}|flip_lr")
  assert together.steps[0].fn is decode_ops.decode_when_cut
  decode = data.parse(f"decode({channels})")
  after = data.parse(f"{crop}|flip_lr")
  for seed in seeds:
    got = together({"image": file}, np.random.default_rng(seed))
    expected = after(decode({"image": file}), np.random.default_rng(seed))
    np.testing.assert_array_equal(got["image"], expected["image"])


@pytest.fixture
def decoded_heights(monkeypatch):
  """Heights of what OpenCV decodes."""
  heights, imdecode = [], cv2.imdecode

  def spy(*args):
    image = imdecode(*args)
    heights.append(None if image is None else image.shape[0])
    return image

  monkeypatch.setattr(cv2, "imdecode", spy)
  return heights


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_equal_to_the_last_bit(sampling, crop, capfd):
  assert_same_as_apart(sampled(sampling), crop)
  assert capfd.readouterr().err == ""  # libjpeg has nothing to complain about.


@pytest.mark.parametrize("channels", [1, 3])
def test_grey(channels):
  file = encode(make_image(channels=1))
  assert_same_as_apart(file, CROPS[0], channels)
  assert_same_as_apart(sampled("420"), CROPS[0], 1)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_bottom(sampling):
  file = sampled(sampling)
  whole = decode_ops.decode({"image": file})["image"]
  undecoded = jpeg.UndecodedJpeg(file, 3, stored)
  assert undecoded.shape == whole.shape
  for bottom in range(1, len(whole) + 1):
    part = undecoded[max(0, bottom - 3) : bottom, 2:200]
    expected = whole[max(0, bottom - 3) : bottom, 2:200]
    np.testing.assert_array_equal(part, expected)


def test_decodes_no_more_than_it_must(decoded_heights):
  file = sampled("420")
  undecoded = jpeg.UndecodedJpeg(file, 3, stored)
  assert undecoded[10:40, 5:9].shape == (30, 4, 3)
  assert decoded_heights == [44]


def test_black_images_leave_few_bytes():
  for height in (17, 33, 40, 150):
    file = encode(np.zeros((height, 40, 3), np.uint8))
    assert_same_as_apart(file, "inception_crop(8)")


def test_data_after_the_end(capfd):
  file = sampled("420")
  for tail in (b"\0" * 9, b"trailer", file, b"\xff\xd9"):
    assert_same_as_apart(file + tail, CROPS[0], seeds=range(5))
  assert capfd.readouterr().err == ""


def test_thumbnail_and_orientation_in_the_header():
  exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
  exif += encode(make_image(16, 16))
  segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif
  file = sampled("420")
  assert_same_as_apart(file[:2] + segment + file[2:], CROPS[0])


@pytest.mark.parametrize(
  "file",
  [
    encode(make_image(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    encode(make_image(), cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    cv2.imencode(".png", make_image())[1].tobytes(),
    cv2.imencode(".webp", make_image())[1].tobytes(),
  ],
  ids=["progressive", "restarts", "png", "webp"],
)
def test_others_are_decoded_as_a_whole(file, decoded_heights):
  with pytest.raises(ValueError):
    jpeg.UndecodedJpeg(file, 3, stored)
  assert_same_as_apart(file, CROPS[0])
  assert set(decoded_heights) == {150}


def test_arrays_are_cut_as_they_are():
  assert_same_as_apart(make_image(), CROPS[0])


def test_damage_has_the_error_of_decode():
  file = sampled("420")
  for damaged in (b"", file[:2], file[:40], file[:300], file[:-300]):
    for crop in CROPS:
      with pytest.raises(ValueError, match=r"decode.*not an image.*damaged"):
        data.parse(f"decode|{crop}")(
          {"image": damaged}, np.random.default_rng(0)
        )


def test_header_cut_anywhere():
  file = sampled("420")
  for length in range(700):
    example = {"image": file[:length]}
    with pytest.raises(ValueError):
      data.parse("decode|central_crop(20)")(example)


def test_only_where_the_next_op_cuts_the_same_image():
  decode = decode_ops.decode
  for pp in (
    "decode|resize(8)|inception_crop(4)",
    "decode|copy('image','b')|inception_crop(4)",
    "decode|inception_crop(4,key='b')",
  ):
    assert data.parse(pp).steps[0].fn is decode
  pp = data.parse("decode(key='b')|inception_crop(4,key='b')")
  assert pp.steps[0].fn is decode_ops.decode_when_cut
