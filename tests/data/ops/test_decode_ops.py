"""Files as the ops see them: upright, of 8 or 16 bits, maps of numbers."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.ops import exif
from tokenlearner_flexivit.inference import images

RNG = np.random.default_rng(0)
IMAGE = cv2.resize(
  RNG.integers(0, 256, (6, 8, 3), np.uint8), (90, 60), interpolation=2
)
FORMATS = {
  "JPEG": dict(quality=90),
  "PNG": {},
  "WEBP": dict(lossless=True),
  "TIFF": {},
}


def encode(image, kind, **options):
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def photo(kind, orientation, image=IMAGE, **options):
  tags = Image.Exif()
  tags[0x010F], tags[0x0112] = "maker", orientation
  return encode(image, kind, exif=tags, **FORMATS[kind], **options)


def run(pp, file, seed=0, **more):
  example = {"image": file, **more}
  return data.parse(pp)(example, np.random.default_rng(seed))["image"]


def viewed(file):
  """Returns the image as viewers show it."""
  with Image.open(io.BytesIO(file)) as image:
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


# Orientation


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright_in_training_evaluation_and_prediction(
  kind, orientation
):
  file = photo(kind, orientation)
  expected = viewed(file)
  assert expected.shape[:2] == ((60, 90) if orientation < 5 else (90, 60))
  np.testing.assert_array_equal(run("decode", file), expected)
  np.testing.assert_array_equal(images.read(file), expected)
  grey = run("decode(1)", file)
  assert grey.shape == (*expected.shape[:2], 1)
  np.testing.assert_array_equal(images.read(file, 1), grey)


@pytest.mark.parametrize("kind", [*FORMATS, "BMP", "GIF"])
def test_the_size_of_a_file_is_that_of_its_decoded_image(kind):
  if kind in FORMATS:
    files = [photo(kind, orientation) for orientation in range(1, 9)]
  else:
    files = [encode(IMAGE, kind)]
  sizes = [
    data.parse("image_size")({"image": file})["size"].tolist() for file in files
  ]
  expected = [list(run("decode", file).shape[:2]) for file in files]
  assert sizes == expected
  assert len({*map(tuple, sizes)}) == (2 if kind in FORMATS else 1)
  # Its beginning tells it.
  if kind in ("JPEG", "PNG"):
    begin = {"image": files[5][:1000]}
    assert data.parse("image_size")(begin)["size"].tolist() == [90, 60]
  with pytest.raises(ValueError, match=r"image_size.*are not an image that"):
    data.parse("image_size")({"image": b"no image"})


def test_folders_of_photos_are_read_upright(tmp_path):
  for name in "ab":
    (tmp_path / name).mkdir()
    (tmp_path / name / "photo.jpg").write_bytes(photo("JPEG", 6))
  config = {
    "name": f"folder:{tmp_path}",
    "split": "train",
    "pp": "decode|central_crop((80,50))|keep('image')",
    "num_threads": 0,
  }
  expected = viewed(photo("JPEG", 6))[5:85, 5:55]
  batches = data.train_batches(config, batch_size=2, seed=0)
  for batch in (*data.eval_batches(config, batch_size=2), next(batches)):
    for image in batch["image"]:
      np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_photos_are_those_of_the_upright_image(orientation, channels):
  image = IMAGE if channels == 3 else IMAGE[..., 0]
  file = photo("JPEG", orientation, image)
  for crop in ("inception_crop(24)", "random_crop(30)", "central_crop(20)"):
    for seed in range(8):
      whole = run(f"decode({channels})", file)
      np.testing.assert_array_equal(
        run(f"decode({channels})|{crop}", file, seed), run(crop, whole, seed)
      )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_stored_pixels_on_request(kind):
  upright = run("decode", photo(kind, 1))
  file = photo(kind, 6)
  for pp in ("decode(exif=False)", "decode(exif=False)|central_crop((60,90))"):
    np.testing.assert_array_equal(run(pp, file), upright)
    prepare = images.Preparation(pp, (60, 90, 3))
    np.testing.assert_array_equal(prepare(file), upright)
  prepare = images.Preparation("decode|resize((60,90))", (60, 90, 3))
  turned = cv2.resize(viewed(file), (90, 60))
  np.testing.assert_array_equal(prepare(file), turned)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_no_orientation(kind):
  file = photo(kind, 6)
  at = file.index(b"MM\0*")
  for garbage in (b"XX", b"MM\0*\x7f\xff\xff\xff", b"MM\0*\0\0\0\x08\0\0"):
    damaged = file[:at] + garbage + file[at + len(garbage) :]
    assert exif.orientation(damaged) == 1
    if kind != "PNG":  # Whose checksum is wrong now.
      assert run("decode", damaged).shape == (60, 90, 3)
  for number in (0, 9, 255):
    assert exif.orientation(photo(kind, number)) == 1
  rng = np.random.default_rng(0)
  for length in rng.integers(1, len(file), 200).tolist():
    changed = bytearray(file[:length])
    for place in rng.integers(0, min(length, 150), 3).tolist():
      changed[place] = rng.integers(256)
    assert exif.orientation(bytes(changed)) in range(1, 9)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_an_orientation_may_be_a_long_number(kind):
  file, number = photo(kind, 6), b"\x01\x12\0%c\0\0\0\x01"
  short, long = number % 3 + b"\0\6\0\0", number % 4 + b"\0\0\0\6"
  assert file.count(short) == 1
  file = file.replace(short, long)
  assert viewed(file).shape == (90, 60, 3)
  np.testing.assert_array_equal(run("decode", file), viewed(file))


def test_padded_markers_hide_no_orientation():
  file = photo("JPEG", 6)
  assert exif.orientation(file[:2] + b"\xff\xff" + file[2:]) == 6
  assert exif.orientation(file[:2] + 200 * b"\xff") == 1


def test_frames_of_videos_lie_as_they_are_stored():
  frames = [photo("JPEG", 6), photo("JPEG", 3)]
  video = data.parse("decode_video")({"video": frames})["video"]
  assert video.shape == (2, 60, 90, 3)


# Formats


def test_formats_go_by_their_content():
  for kind in ("GIF", "AVIF", "TIFF"):
    file = encode(IMAGE, kind)
    np.testing.assert_array_equal(run("decode", file), viewed(file))
    np.testing.assert_array_equal(images.read(file), run("decode", file))
  frames = [Image.new("RGB", (3, 2), color) for color in ("red", "blue")]
  file = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
  assert (run("decode", file) == [255, 0, 0]).all()
  assert run("decode(1)", file).shape == (2, 3, 1)


def test_an_avif_stands_upright():
  tags = Image.Exif()
  tags[0x0112] = 6
  file = encode(IMAGE, "AVIF", exif=tags, quality=90)
  np.testing.assert_array_equal(run("decode", file), viewed(file))
  assert run("decode", file).shape == (90, 60, 3)
  assert run("decode(exif=False)", file).shape == (60, 90, 3)


def test_what_is_too_large_for_pillow_is_told(monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with pytest.raises(ValueError, match=r"the image is too large: Image size"):
    run("decode", encode(IMAGE, "GIF"))
  with pytest.raises(ValueError, match=r"the map is too large: Image size"):
    run("decode_ids(key='image')", encode(IMAGE[..., 0], "PNG"))


def test_heic_is_told_to_be_converted():
  file = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
  for read in (images.read, lambda file: run("decode", file)):
    with pytest.raises(ValueError, match=r"HEIC.*pillow-heif.*convert"):
      read(file)


def test_colours_of_other_kinds():
  cmyk = encode(Image.fromarray(IMAGE).convert("CMYK"), "JPEG", quality=95)
  assert np.abs(run("decode", cmyk).astype(int) - IMAGE).mean() < 3
  palette = Image.fromarray(IMAGE).quantize(16)
  colours = np.asarray(palette.convert("RGB"))
  for transparency in (3, bytes([0, 128] * 8)):
    file = encode(palette, "PNG", transparency=transparency)
    np.testing.assert_array_equal(run("decode", file), colours)
  bits = Image.fromarray(IMAGE[..., 0] > 128)
  np.testing.assert_array_equal(
    run("decode(1)", encode(bits, "PNG"))[..., 0], 255 * np.asarray(bits)
  )


@pytest.mark.parametrize("kind", ["lab", "transparent"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_tiff_whose_colours_opencv_takes_for_others(kind, orientation):
  image = Image.fromarray(IMAGE)
  if kind == "lab":
    image = image.convert("LAB")
  else:
    image.putalpha(Image.fromarray(IMAGE[..., 0]))
  file = photo("TIFF", orientation, image)
  expected = viewed(file)
  np.testing.assert_array_equal(run("decode", file), expected)
  np.testing.assert_array_equal(run("decode(exif=False)", file), expected)
  np.testing.assert_array_equal(images.read(file), expected)
  assert kind == "lab" or orientation == 6 or (expected == IMAGE).all()


def tiff_16(image=IMAGE, **changed):
  """Returns a TIFF of 16 bits with changed values of tags."""
  values = image.astype(np.uint16) * 257
  file = cv2.imencode(".tiff", values[..., ::-1])[1].tobytes()
  for tag, (old, new) in changed.items():
    tag = int(tag.removeprefix("tag_"))
    entries = [struct.pack("<HHIH", tag, 3, 1, x) for x in (old, new)]
    assert file.count(entries[0]) == 1
    file = file.replace(*entries)
  return file


def test_tiff_of_16_bits_in_colours():
  np.testing.assert_array_equal(run("decode", tiff_16()), IMAGE)
  grey = cv2.cvtColor(IMAGE, cv2.COLOR_RGB2GRAY).astype(int)
  assert np.abs(run("decode(1)", tiff_16())[..., 0] - grey).max() <= 1


@pytest.mark.parametrize(
  ("file", "message"),
  [
    (encode(IMAGE[..., 0] / np.float32(255), "TIFF"), "type float32 have no"),
    (encode(IMAGE[..., 0].astype(np.int32), "TIFF"), "type int32 have no"),
    (tiff_16(tag_284=(1, 2)), "16 bits and planes, .* Convert"),
    (tiff_16(tag_262=(2, 8)), "16 bits and colours of CIELAB"),
    (tiff_16(IMAGE[..., :1], tag_262=(1, 0)), "16 bits and white as zero"),
    (encode(IMAGE, "TIFF")[:9], "not an image"),
  ],
)
def test_tiff_that_would_be_decoded_wrongly(file, message):
  with pytest.raises(ValueError, match=message):
    run("decode", file)


def test_tags_of_a_large_tiff():
  entries = [(258, 3, 3, 8 | 8 << 16 | 8 << 32), (262, 4, 1, 2)]
  file = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2)
  file += b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
  assert exif.tag_values(file, 258) == (8, 8, 8)
  assert exif.tag_values(file, 262) == (2,)
  assert exif.tag_values(file, 339) == ()


# 16 bits


def png(values):
  return cv2.imencode(".png", values)[1].tobytes()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_files_of_fewer_bits(bits):
  grey = IMAGE[..., 0].astype(np.uint16)
  grey[0, 0] = 255
  values = (grey << 8) >> (16 - bits)
  pp = f"decode(1,bits={bits})"
  np.testing.assert_array_equal(run(pp, png(values))[..., 0], grey)
  np.testing.assert_array_equal(run(pp, values)[..., 0], grey)
  np.testing.assert_array_equal(
    images.Preparation(pp, (60, 90, 1))(png(values))[..., 0], grey
  )
  if bits <= 12:
    with pytest.raises(ValueError, match=r"no value above \d+.*bits=12.*_ids"):
      run("decode", png(values))
  else:
    dark = run("decode(1)", png(values))[..., 0]
    np.testing.assert_array_equal(dark, grey >> (16 - bits))
  if bits < 16:
    with pytest.raises(ValueError, match=f"more than the {bits} bits"):
      run(pp, png(np.full((4, 4), 65535, np.uint16)))


def test_a_black_image_of_16_bits_is_black():
  assert not run("decode", png(np.zeros((4, 4), np.uint16))).any()


def test_pixels_without_a_range_are_refused():
  file = cv2.imencode(".tiff", np.ones((4, 4, 3), np.float32))[1].tobytes()
  with pytest.raises(ValueError, match="float32 have no known range"):
    run("decode", file)


# Maps of numbers


def ids(pp, value):
  return data.parse(pp)({"semantic": value})["semantic"]


def test_ids_are_kept():
  pp = "decode_ids(key='semantic')"
  wide = RNG.integers(0, 33000, (6, 8)).astype(np.uint16)
  small = RNG.integers(0, 4, (6, 8)).astype(np.uint8)
  palette = Image.fromarray(small)
  palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
  for expected, value in (
    (wide, png(wide)),
    (wide, wide),
    (small, png(small)),
    (small, encode(palette, "PNG", bits=2)),
    (small, encode(palette, "PNG", bits=8)),
    (small, small[..., None].astype(np.int64)),
    (small, png(np.stack(3 * [small], -1))),
    (small % 2, encode(Image.fromarray(small % 2 == 1), "PNG")),
  ):
    result = ids(pp, value)
    assert result.dtype == np.int32 and result.shape == (6, 8)
    np.testing.assert_array_equal(result, expected)
  resized = ids(f"{pp}|resize(3,'nearest',key='semantic')", png(wide))
  assert resized.dtype == np.int32 and np.isin(resized, wide).all()


def test_grey_of_2_and_4_bits_is_not_spread():
  header = b"\0\0\0\x04\0\0\0\x01\x02\0\0\0\0"  # 4 x 1, 2 bits, grey.

  def chunk(name, content):
    body = name + content
    return len(content).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)

  pixels = zlib.compress(b"\0" + bytes([0b00011011]))
  file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
  file += chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
  assert ids("decode_ids(key='semantic')", file).ravel().tolist() == [
    0,
    1,
    2,
    3,
  ]


def grey_tiff(bits, pixels, photometric=1, kind=1):
  """Returns a TIFF of one row of four grey pixels."""
  tags = {256: 4, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 134}
  tags |= {277: 1, 278: 1, 279: len(pixels), 339: kind}
  entries = [struct.pack("<HHII", tag, 3, 1, x) for tag, x in tags.items()]
  file = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
  return file + b"".join(entries) + bytes(4) + pixels


@pytest.mark.parametrize(
  "bits, pixels, expected",
  [
    (1, b"\x50", [0, 1, 0, 1]),
    (2, bytes([0b00011011]), [0, 1, 2, 3]),
    (4, b"\x01\x2f", [0, 1, 2, 15]),
    (8, b"\x00\x01\x02\xff", [0, 1, 2, 255]),
    (16, struct.pack("<4H", 0, 1, 300, 65535), [0, 1, 300, 65535]),
  ],
)
def test_ids_of_grey_tiff_are_those_stored(bits, pixels, expected):
  for photometric in (0, 1):
    file = grey_tiff(bits, pixels, photometric)
    assert ids("decode_ids(key='semantic')", file).ravel().tolist() == expected
    if bits < 16:
      # As an image, 0 is white in the first.
      levels = 255 * np.array(expected) // (2**bits - 1)
      shown = levels if photometric else 255 - levels
      assert run("decode(1)", file).ravel().tolist() == shown.tolist()


def test_signed_ids_are_kept():
  files = [
    grey_tiff(8, struct.pack("<4b", 0, 1, 127, -1), kind=2),
    grey_tiff(16, struct.pack("<4h", 0, 1, 127, -1), kind=2),
  ]
  for file in files:
    numbers = ids("decode_ids(key='semantic')", file)
    assert numbers.ravel().tolist() == [0, 1, 127, -1]


def test_ids_of_16_bits_in_several_channels_are_refused():
  wide = np.full((6, 8, 3), 300, np.uint16)
  files = [cv2.imencode(kind, wide)[1].tobytes() for kind in (".png", ".tiff")]
  for file in files:
    for rgb in (True, False):
      with pytest.raises(ValueError, match="16 bits in each of several"):
        ids(f"decode_ids({rgb},key='semantic')", file)


def test_ids_in_colours():
  numbers = RNG.integers(0, 1 << 24, (6, 8))
  rgb = np.stack([numbers, numbers >> 8, numbers >> 16], -1) & 255
  file = encode(rgb.astype(np.uint8), "PNG")
  result = ids("decode_ids(True,key='semantic')", file)
  np.testing.assert_array_equal(result, numbers)
  with pytest.raises(ValueError, match=r"in colours.*rgb=True"):
    ids("decode_ids(key='semantic')", file)
  with pytest.raises(ValueError, match="1 channels, no colours"):
    ids("decode_ids(True,key='semantic')", png(numbers.astype(np.uint8)))


def test_ids_are_turned_like_their_image():
  upright = np.asarray(IMAGE[..., 0])
  file = photo("PNG", 6, upright)
  pp = "decode|decode_ids(key='semantic')"
  example = data.parse(pp)({"image": file, "semantic": file})
  np.testing.assert_array_equal(example["semantic"], example["image"][..., 0])


def test_what_keeps_no_ids_is_refused():
  pp = "decode_ids(key='semantic')"
  for value, words in (
    (encode(IMAGE, "JPEG"), "this is a JPEG.* do not keep the numbers"),
    (png(IMAGE[..., 0])[:-300], "damaged"),
    (np.zeros((4, 4), np.float32), "no map of ids"),
    (np.int32(3), "no map of ids"),
    ("map.png", "no map of ids"),
    (np.full((2, 2), 1 << 40), f"the id {1 << 40}"),
    (np.full((2, 2), 1 << 31, np.uint32), f"the id {1 << 31}"),
  ):
    with pytest.raises(ValueError, match=words):
      ids(pp, value)
  with pytest.raises(ValueError, match="method='nearest'"):
    ids(f"{pp}|resize(3,key='semantic')", png(IMAGE[..., 0]))
