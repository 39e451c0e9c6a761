"""Sizes from the beginnings of image files."""

import zlib

import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit.data.sources import image_header


def picture(mode="RGB"):
  return Image.fromarray(np.zeros((5, 7, 3), np.uint8)).convert(mode)


@pytest.mark.parametrize(
  "suffix", ["jpg", "png", "webp", "bmp", "gif", "tif", "avif"]
)
def test_sizes_are_those_of_pillow(tmp_path, suffix):
  path = tmp_path / f"a.{suffix}"
  picture().save(path)
  header = image_header.read(path)
  assert header.stored == header.upright == (5, 7)
  with Image.open(path) as opened:
    assert header.format == opened.format
  assert header.has_colours == (suffix != "gif")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_colours_are_told_from_numbers(tmp_path, mode):
  picture(mode).save(tmp_path / "a.png")
  header = image_header.read(tmp_path / "a.png")
  assert header.has_colours == mode.startswith("RGB")


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_orientations_and_long_comments(tmp_path, options, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  # Longer than what is read at first.
  profile = b"x" * 200_000
  path = tmp_path / "a.jpg"
  picture().save(path, exif=exif, icc_profile=profile, **options)
  header = image_header.read(path)
  assert header.stored == (5, 7) and header.orientation == orientation
  assert header.upright == ((7, 5) if orientation == 6 else (5, 7))


def test_orientations_of_other_formats(tmp_path):
  for name in ("a.tif", "a.avif", "a.png", "a.webp"):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / name, exif=exif)
    header = image_header.read(tmp_path / name)
    assert header.stored == (5, 7) and header.upright == (7, 5)


@pytest.mark.parametrize("size", [9, 300])
@pytest.mark.parametrize("decoys", [b"", b"eXIf", b"\0\0\0\4eXIfabcd1234"])
def test_orientations_behind_the_pixels_of_a_png(tmp_path, size, decoys):
  """As programs write them that do not move the pixels."""
  noise = np.random.default_rng(0).integers(0, 256, (size, 7, 3), np.uint8)
  Image.fromarray(noise).save(tmp_path / "a.png", compress_level=0)
  exif = Image.Exif()
  exif[0x0112] = 6
  exif = exif.tobytes().removeprefix(b"Exif\0\0")
  data = (tmp_path / "a.png").read_bytes()
  (tmp_path / "a.png").write_bytes(
    data[:-12]
    + chunk(b"teSt", bytes(200_000) + decoys)
    + chunk(b"eXIf", exif)
    + chunk(b"tEXt", b"a\0b")
    + data[-12:]
  )
  header = image_header.read(tmp_path / "a.png")
  assert header.orientation == 6 and header.upright == (7, size)


def chunk(name, content):
  size, checksum = len(content), zlib.crc32(name + content)
  return size.to_bytes(4) + name + content + checksum.to_bytes(4)


def test_images_too_large_for_pillow_are_told(tmp_path, monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
  for name in ("a.bmp", "a.png"):  # Headers of PNGs are read without it.
    picture().save(tmp_path / name)
  reason, header = image_header.read_all(sorted(tmp_path.iterdir()))
  assert reason.startswith("is too large to be decoded: Image size (35 pix")
  assert header.stored == (5, 7)


def test_what_is_no_image_says_why(tmp_path):
  names = ("empty.png", "text.jpg", "cut.jpg")
  for name, data in zip(names, (b"", b"hello", b"\xff\xd8\xff"), strict=True):
    (tmp_path / name).write_bytes(data)
  paths = [tmp_path / name for name in (*names, "missing.png")]
  reasons = image_header.read_all(paths)
  assert reasons == [
    "is empty",
    "is no image that can be read",
    "is a JPEG that ends before its size is told",
    "cannot be read (No such file or directory)",
  ]
