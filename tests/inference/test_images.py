"""Images of users: read as in the evaluation, and refused with words."""

import io
import os
import warnings

import chex
import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.inference import images

RNG = np.random.default_rng(0)
# Smooth, so that lossy formats keep something of it.
RGB = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (37, 23))
GREY = RGB[..., :1]
PP = "decode|value_range(-1,1)|keep('image','label')"


def encode(image, kind, **options):
  file = io.BytesIO()
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  image.save(file, kind, **options)
  return file.getvalue()


@pytest.mark.parametrize(
  "kind, options",
  [
    ("JPEG", dict(quality=80, subsampling=2)),
    ("JPEG", dict(quality=95, subsampling=0, progressive=True)),
    ("PNG", {}),
    ("WEBP", dict(quality=80)),
    ("BMP", {}),
  ],
)
def test_files_have_the_pixels_of_the_evaluation(kind, options):
  encoded = encode(RGB, kind, **options)
  expected = data_lib.parse("decode")({"image": encoded})["image"]
  chex.assert_trees_all_equal(images.read(encoded), expected)


def test_all_forms_of_an_image_are_the_same(tmp_path):
  path = tmp_path / "image.png"
  path.write_bytes(encode(RGB, "PNG"))
  with Image.open(path) as opened:
    forms = [RGB, opened, path, str(path), path.read_bytes(), jnp.asarray(RGB)]
    for form in forms:
      chex.assert_trees_all_equal(images.read(form), RGB)
    assert len(images.listed(forms)) == 6
  # What is one image, what several.
  assert [len(images.listed(form)) for form in forms] == 6 * [1]
  for batch in (np.stack(3 * [RGB]), jnp.stack(3 * [RGB])):
    assert [x.shape for x in images.listed(batch)] == 3 * [RGB.shape]
  assert images.listed(np.array(["a.png", "b.png"])) == ["a.png", "b.png"]
  assert len(images.listed(iter(forms[:2]))) == 2


def test_links_to_folders_are_followed(tmp_path):
  (tmp_path / "real").mkdir()
  (tmp_path / "real" / "1.JPG").touch()
  (tmp_path / "real" / "round").symlink_to(tmp_path)
  folder = tmp_path / "photos"
  folder.mkdir()
  (folder / "a").symlink_to(tmp_path / "real")
  (folder / "b").symlink_to(folder)
  assert images.files(folder) == [str(folder / "a" / "1.JPG")]


def test_images_in_a_folder_are_told_by_their_content_too(tmp_path):
  """As in training; an iPhone's photo is not passed over in silence."""
  png = encode(RGB, "PNG")
  for name, content in {
    "1": png,
    "2.JPG_large": png,
    "3.HEIC": b"\0\0\0\x18ftypheic",
    "4.txt": b"words",
    "5": b"",
    "6.mp4": png,
  }.items():
    (tmp_path / name).write_bytes(content)
  os.mkfifo(tmp_path / "7")
  known = [str(tmp_path / name) for name in ("1", "2.JPG_large", "3.HEIC")]
  assert images.files(tmp_path) == [*known, str(tmp_path / "6.mp4")]
  assert images.files(tmp_path, (".mp4",)) == [str(tmp_path / "6.mp4")]


def test_a_rotated_photo_stands_upright():
  exif = Image.Exif()
  exif[0x0112] = 6  # The camera was held so that the top is at the right.
  encoded = encode(RGB, "PNG", exif=exif)
  chex.assert_trees_all_equal(images.read(encoded), np.rot90(RGB, -1))
  plain = images.read(encode(RGB, "JPEG"))
  encoded = encode(RGB, "JPEG", exif=exif)
  chex.assert_trees_all_equal(images.read(encoded), np.rot90(plain, -1))


def test_16_bits_become_8_by_scaling():
  wide = RNG.integers(0, 65536, (4, 5), np.uint16)
  encoded = cv2.imencode(".png", wide)[1].tobytes()
  chex.assert_trees_all_equal(
    images.read(encoded)[..., 0], (wide >> 8).astype(np.uint8)
  )
  wide = RNG.integers(0, 65536, (4, 5, 3), np.uint16)
  encoded = cv2.imencode(".png", wide)[1].tobytes()
  expected = data_lib.parse("decode")({"image": encoded})["image"]
  chex.assert_trees_all_equal(images.read(encoded), expected)


def test_other_modes_become_grey_or_rgb():
  white = Image.new("CMYK", (3, 2))  # No ink.
  for image in (white, encode(white, "JPEG"), encode(white, "TIFF")):
    chex.assert_trees_all_equal(images.read(image), np.full((2, 3, 3), 255))
  rgba = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
  for image in (rgba, encode(rgba, "PNG")):
    chex.assert_trees_all_equal(images.read(image), RGB)
  palette = Image.new("P", (3, 2), 1)
  palette.putpalette([0, 0, 0, 10, 20, 30])
  encoded = encode(palette, "PNG", transparency=b"\0\0")
  expected = np.broadcast_to(np.uint8([10, 20, 30]), (2, 3, 3))
  chex.assert_trees_all_equal(images.read(encoded), expected)
  bits = Image.fromarray(np.eye(3, dtype=bool))
  chex.assert_trees_all_equal(images.read(bits)[..., 0], 255 * np.eye(3))
  for image in (GREY, GREY[..., 0], encode(GREY[..., 0], "PNG")):
    chex.assert_trees_all_equal(images.read(image, 1), GREY)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
  frames = [Image.new("RGB", (3, 2), color) for color in ("red", "blue")]
  lossless = dict(lossless=True) if kind == "WEBP" else {}
  encoded = encode(
    frames[0], kind, save_all=True, append_images=frames[1:], **lossless
  )
  expected = np.broadcast_to(np.uint8([255, 0, 0]), (2, 3, 3))
  chex.assert_trees_all_equal(images.read(encoded), expected)


@pytest.mark.parametrize(
  "image, words",
  [
    (encode(RGB, "JPEG")[:-200], "damaged"),
    (encode(RGB, "PNG")[:60], "damaged"),
    (b"", "no image of the formats"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no image of the formats"),
    ("nowhere.png", "No such file"),
    (np.zeros((0, 0, 3), np.uint8), r"\[0, 0, 3\] is no image"),
    (Image.new("RGB", (0, 0)), "0 x 0 pixels"),
    (np.zeros((4, 4, 2), np.uint8), "C of 1, 3 or 4"),
    (np.zeros((4, 4, 3), np.float32), r"float32, not uint8.*255"),
    (Image.new("F", (2, 2)), "no known range"),
    (3, "int is no image"),
  ],
)
def test_what_is_no_image_is_told(image, words):
  with pytest.raises(Exception, match=words):
    images.read(image)


@pytest.mark.parametrize(
  "more",
  [
    "decode_ids(key='semantic')|resize(4,'nearest',key='semantic')",
    "copy('image','teacher')|resize(99,key='teacher')",
    "onehot(9,'kind')|copy('kind','label')",
    "decode(key='other')|drop('other')",
  ],
)
def test_what_is_not_done_to_the_image_is_left_out(more):
  pp = f"decode|{more}|resize(8)|value_range|keep('image','label')"
  prepare = images.Preparation(pp, (8, 8, 3))
  alone = images.Preparation("decode|resize(8)|value_range", (8, 8, 3))
  chex.assert_trees_all_equal(prepare(RGB), alone(RGB))
  assert images.common_shape(pp, 3) == (8, 8, 3)


def test_a_copy_of_a_copy_is_the_image():
  pp = "decode|copy('image','b')|drop('image')|resize(8,key='b')"
  prepare = images.Preparation(f"{pp}|copy('b','image')", (8, 8, 3))
  alone = images.Preparation("decode|resize(8)", (8, 8, 3))
  chex.assert_trees_all_equal(prepare(RGB), alone(RGB))


def test_what_unfolds_to_more_than_the_memory_is_refused(monkeypatch):
  encoded = encode(np.zeros((40, 40), np.uint8), "PNG")
  for limit in (1000, 1599):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with (
      warnings.catch_warnings(action="ignore"),  # Pillow's own.
      pytest.raises(ValueError, match=r"40 x 40 pixels.*limit of"),
    ):
      images.read(encoded)
    # Opened by the user, and not yet read.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    opened = Image.open(io.BytesIO(encoded))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match="limit of"):
      images.read(opened)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
  with pytest.raises(Image.DecompressionBombError, match="1600 pixels"):
    images.read(encoded)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
  prepare = images.Preparation(PP, (12, 12, 3))
  prepare(np.zeros((60, 1), np.uint8))
  # 12 by 12 * 80 pixels, once it is 12 pixels wide.
  with pytest.raises(ValueError, match="80 x 1 pixels is too narrow"):
    prepare(np.zeros((80, 1), np.uint8))


@pytest.mark.parametrize("images_of", [[], (), np.zeros((0, 4, 4, 3), "u1")])
def test_no_image_at_all_is_an_error(images_of):
  with pytest.raises(ValueError, match="at least one"):
    images.listed(images_of)


def test_what_is_neither_an_image_nor_several():
  with pytest.raises(ValueError, match="int is no image"):
    images.listed(3)


def test_the_preprocessing_of_the_run_is_applied():
  pp = (
    "decode|resize((6,9))|value_range(0,2)|onehot(9,'kind')|keep('image','id')"
  )
  prepare = images.Preparation(pp, (6, 9, 3))
  expected = data_lib.parse("resize((6,9))|value_range(0,2)")({"image": RGB})
  chex.assert_trees_all_equal(prepare(RGB), expected["image"])


@pytest.mark.parametrize("shape", [(12, 12), (12, 30), (50, 24), (7, 9)])
def test_any_size_is_brought_to_that_of_the_data(shape):
  """Where all images of a dataset have one size, nothing else does it."""
  prepare = images.Preparation(PP, (12, 24, 3))
  image = np.zeros((*shape, 3), np.uint8)
  # The middle is white, and stays in the middle.
  top, left = shape[0] // 2, shape[1] // 2
  image[top - 1 : top + 2, left - 1 : left + 2] = 255
  prepared = prepare(image)
  chex.assert_shape(prepared, (12, 24, 3))
  assert prepared[6, 12].min() > prepared[0, 0].max()


def test_a_crop_of_more_than_there_is():
  prepare = images.Preparation("decode|central_crop(8)|value_range", (8, 8, 3))
  large = RNG.integers(0, 256, (10, 12, 3), np.uint8)
  expected = np.float32(large[1:9, 2:10]) * (2 / 255) - 1
  chex.assert_trees_all_close(prepare(large), expected, atol=1e-6)
  chex.assert_shape(prepare(large[:5]), (8, 8, 3))


def test_grey_and_rgb_models_take_both():
  rgb = images.Preparation("value_range(0,255)", (23, 37, 3))
  chex.assert_trees_all_equal(rgb(GREY), np.float32(GREY.repeat(3, axis=-1)))
  grey = images.Preparation("decode(1)|value_range(0,255)", (23, 37, 1))
  expected = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)[..., None]
  chex.assert_trees_all_equal(grey(RGB), np.float32(expected))


def test_a_preprocessing_that_gives_another_shape_is_told():
  prepare = images.Preparation("resize(8)", (12, 12, 3))
  with pytest.raises(ValueError, match=r"\[8, 8, 3\].*\[12, 12, 3\]"):
    prepare(RGB)


@pytest.mark.parametrize(
  "pp, shape",
  [
    ("decode|resize((6,9))|value_range|keep('image')", (6, 9, 3)),
    ("decode(1)|resize_small(9)|central_crop(8)|onehot(3,'kind')", (8, 8, 1)),
    (PP, None),
    ("decode|resize_small(9)", None),
  ],
)
def test_the_shape_that_all_images_get(pp, shape):
  assert images.common_shape(pp, 3) == shape
