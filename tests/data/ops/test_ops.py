"""Every op against values worked out by hand."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.ops import augment as augment_ops
from tokenlearner_flexivit.data.ops import decode as decode_ops
from tokenlearner_flexivit.data.ops import image as image_ops
from tokenlearner_flexivit.data.ops import label as label_ops

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (12, 10, 3), np.uint8)


def encoded(image, extension=".png"):
  """Returns the encoded bytes of an RGB or grey image."""
  if image.ndim == 3:
    image = image[..., ::-1]
  return cv2.imencode(extension, image)[1].tobytes()


def apply(op, image, *args, **kwargs):
  """Applies an image op and checks that it leaves its input alone."""
  before = image.copy()
  result = op({"image": image, "label": 7}, *args, **kwargs)
  np.testing.assert_array_equal(image, before)
  assert result["label"] == 7
  return result["image"]


class Draws:
  """A generator of given numbers."""

  def __init__(self, *numbers):
    self._numbers = list(numbers)

  def _next(self, *args, size=None, **kwargs):
    del args, kwargs
    if size is None:
      return self._numbers.pop(0)
    return np.array([self._numbers.pop(0) for _ in range(size)])

  integers = uniform = _next

  def random(self, size=None):
    return self._next(size=size)


# decode


def test_decode_gives_rgb():
  image = decode_ops.decode({"image": encoded(NOISE)})["image"]
  assert image.dtype == np.uint8
  np.testing.assert_array_equal(image, NOISE)


def test_decode_grey_to_rgb_and_back():
  grey = NOISE[..., 0]
  image = decode_ops.decode({"image": encoded(grey)})["image"]
  np.testing.assert_array_equal(image, np.stack([grey] * 3, -1))
  image = decode_ops.decode({"image": encoded(grey)}, 1)["image"]
  np.testing.assert_array_equal(image, grey[..., None])


@pytest.mark.parametrize("extension", [".jpg", ".webp", ".bmp"])
def test_decode_other_formats(extension):
  smooth = cv2.resize(NOISE[:3, :3], (40, 30), interpolation=cv2.INTER_LINEAR)
  image = decode_ops.decode({"image": encoded(smooth, extension)})["image"]
  assert np.abs(image.astype(int) - smooth).mean() < 8


def test_decode_passes_arrays_through():
  for shape in [(4, 5), (4, 5, 1)]:
    image = decode_ops.decode({"image": np.full(shape, 9, np.uint8)})["image"]
    assert image.shape == (4, 5, 3) and (image == 9).all()
  assert decode_ops.decode({"image": NOISE})["image"] is NOISE
  grey = decode_ops.decode({"image": np.full((4, 5, 3), 9, np.uint8)}, 1)
  assert grey["image"].shape == (4, 5, 1) and (grey["image"] == 9).all()


@pytest.mark.parametrize(
  "image, message",
  [
    (b"", "0 bytes"),
    (b"no image at all", "b'no image'"),
    (encoded(np.tile(NOISE, (9, 9, 1)), ".jpg")[:-200], "damaged"),
    (encoded(NOISE)[:-200], "damaged"),
    (np.zeros((4, 5, 2), np.uint8), r"\(4, 5, 2\)"),
    ("1.png", "'image' is of the type str"),
    (None, "'image' is of the type NoneType"),
  ],
)
def test_decode_refuses(image, message, capfd):
  with pytest.raises(ValueError, match=message):
    decode_ops.decode({"image": image})
  capfd.readouterr()  # OpenCV complains on stderr too.


def test_a_jpeg_that_ends_anywhere_is_refused_by_the_name_of_the_op(capfd):
  file = encoded(np.tile(NOISE, (9, 9, 1)), ".jpg")
  for length in (*range(700), len(file) - 300):
    with pytest.raises(ValueError, match=r"decode.*not an image.*damaged"):
      data.parse("decode|central_crop(20)")({"image": file[:length]})
  capfd.readouterr()


def test_decode_refuses_other_arguments():
  with pytest.raises(ValueError, match="1 or 3"):
    decode_ops.decode({"image": NOISE}, 4)
  with pytest.raises(ValueError, match="no 'picture'; it has"):
    decode_ops.decode({"image": NOISE}, key="picture")


# Sizes


def test_resize_is_bilinear_with_half_pixel_centres_and_no_antialiasing():
  image = np.array([[0, 100]], np.float32).reshape(1, 2, 1)
  np.testing.assert_allclose(
    apply(image_ops.resize, image, (1, 4))[0, :, 0], [0, 25, 75, 100]
  )
  image = np.array([[0, 10, 20, 255, 30, 40]], np.float32).reshape(1, 6, 1)
  np.testing.assert_allclose(
    apply(image_ops.resize, image, (1, 2))[0, :, 0], [10, 30]
  )
  np.testing.assert_allclose(
    apply(image_ops.resize, image, (1, 2), method="area")[0, :, 0],
    [10, 325 / 3],
    rtol=1e-6,
  )


def test_resize_keeps_dtype_and_channels():
  for image in (NOISE, NOISE[..., :1], NOISE.astype(np.float32)):
    resized = apply(image_ops.resize, image, 7)
    assert resized.shape == (7, 7, image.shape[-1])
    assert resized.dtype == image.dtype


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
def test_pillow_resizes_bytes_and_numbers(name):
  """Rounded as Pillow does, and numbers as its pictures of numbers."""
  image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
  method = getattr(Image.Resampling, name.upper())
  expected = Image.fromarray(image).resize((20, 15), method)
  resized = apply(image_ops.resize, image, (15, 20), f"pillow_{name}")
  np.testing.assert_array_equal(resized, np.asarray(expected))
  numbers = np.float32(image[..., :1])
  resized = apply(image_ops.resize, numbers, (15, 20), f"pillow_{name}")
  expected = Image.fromarray(numbers[..., 0]).resize((20, 15), method)
  np.testing.assert_array_equal(resized[..., 0], np.asarray(expected))
  wide = np.uint16([[[0], [65535], [0]]] * 3)  # Cubic kernels would overflow.
  resized = apply(image_ops.resize, wide, (3, 9), f"pillow_{name}")
  assert resized.dtype == np.uint16 and resized[0, 4] > 60000


def test_pillow_rounds_the_longer_side_down():
  """As timm and transformers do: 248 * 480 / 300 is 396.8."""
  image = np.zeros((300, 480, 3), np.uint8)
  small = apply(image_ops.resize_small, image, 248, "pillow_bicubic")
  assert small.shape == (248, 396, 3)
  assert apply(image_ops.resize_small, image, 248).shape == (248, 397, 3)


def test_resize_small_keeps_the_aspect_ratio():
  assert apply(image_ops.resize_small, NOISE, 5).shape == (6, 5, 3)
  wide = NOISE.transpose(1, 0, 2).copy()
  assert apply(image_ops.resize_small, wide, 20).shape == (20, 24, 3)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@pytest.mark.parametrize("shape", [(2, 60000, 3), (60000, 2, 3)])
def test_a_strip_is_cut_and_squeezed_but_not_enlarged_without_bound(
  shape, extension
):
  file = encoded(np.full(shape, 100, np.uint8), extension)
  for pp in ("decode|inception_crop(24)", "decode|resize(24)"):
    example = data.parse(pp)({"image": file}, np.random.default_rng(0))
    assert example["image"].shape == (24, 24, 3)
    assert (example["image"] == 100).all()
  message = r"(2 x 60000|60000 x 2) pixels would become .*7680000.* more than"
  with pytest.raises(ValueError, match=message):
    data.parse("decode|resize_small(256)|central_crop(224)")({"image": file})


def test_central_crop():
  np.testing.assert_array_equal(
    apply(image_ops.central_crop, NOISE, (8, 4)), NOISE[2:10, 3:7]
  )
  with pytest.raises(ValueError, match="only 12 x 10 pixels"):
    image_ops.central_crop({"image": NOISE}, 11)


@pytest.mark.parametrize(
  "image, message",
  [
    (b"\xff\xd8", "put decode before"),
    (np.zeros((4, 4), np.uint8), r"\(4, 4\) instead of \[H, W, C\]"),
  ],
)
def test_image_ops_refuse_what_is_no_image(image, message):
  with pytest.raises(ValueError, match=message):
    image_ops.resize({"image": image}, 3)
  with pytest.raises(ValueError, match="no 'image'"):
    image_ops.resize({}, 3)


def test_resize_refuses():
  with pytest.raises(ValueError, match=r"'linear'.*bilinear"):
    image_ops.resize({"image": NOISE}, 3, "linear")
  for size in (0, (3, -1), (1, 2, 3), (2.5, 3)):
    with pytest.raises(ValueError, match="positive whole numbers"):
      image_ops.resize({"image": NOISE}, size)


# Random ops


def test_inception_crop_cuts_the_drawn_rectangle():
  # 40% of 120 pixels are 48; with width = 4/3 height: 6 x 8.
  draws = Draws(40, np.log(4 / 3), 3, 2)
  crop = apply(augment_ops.inception_crop, NOISE, draws, (6, 8))
  np.testing.assert_array_equal(crop, NOISE[3:9, 2:10])


def test_inception_crop_draws_within_the_limits():
  rng = np.random.default_rng(1)
  # Coordinates as pixel values tell what was cut.
  rows, columns = np.mgrid[:60, :80].astype(np.float32)
  image = np.stack([rows, columns], -1)
  areas, ratios = [], []
  for _ in range(300):
    crop = apply(augment_ops.inception_crop, image, rng, 64, 20, 80, "nearest")
    height, width = np.ptp(crop, axis=(0, 1)) + 1
    areas.append(height * width / 48)
    ratios.append(width / height)
  assert 18 < min(areas) < 24 and 70 < max(areas) < 82
  assert 0.7 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.42
  assert abs(np.mean(np.log(ratios))) < 0.05


def test_inception_crop_of_an_extreme_image_is_central():
  image = np.arange(100, dtype=np.uint8).reshape(1, 100, 1)
  rng = np.random.default_rng(0)
  crop = apply(augment_ops.inception_crop, image, rng, 1, 90, 100)
  assert crop.shape == (1, 1, 1) and crop.item() in (49, 50)


def test_inception_crop_without_a_size_only_cuts():
  draws = Draws(40, np.log(4 / 3), 3, 2)
  crop = apply(augment_ops.inception_crop, NOISE, draws)
  np.testing.assert_array_equal(crop, NOISE[3:9, 2:10])
  # The random numbers are the same, so a later resize gives the same image.
  for seed in range(5):
    whole = apply(
      augment_ops.inception_crop, NOISE, np.random.default_rng(seed), 7
    )
    crop = apply(augment_ops.inception_crop, NOISE, np.random.default_rng(seed))
    np.testing.assert_array_equal(apply(image_ops.resize, crop, 7), whole)


def test_inception_crop_refuses():
  with pytest.raises(ValueError, match="area_min"):
    augment_ops.inception_crop({"image": NOISE}, None, 4, 50, 20)


def test_random_crop_cuts_the_drawn_place():
  crop = apply(augment_ops.random_crop, NOISE, Draws(3, 2), (8, 4))
  np.testing.assert_array_equal(crop, NOISE[3:11, 2:6])
  whole = apply(augment_ops.random_crop, NOISE, RNG, (12, 10))
  np.testing.assert_array_equal(whole, NOISE)
  for size in (11, (13, 1)):
    with pytest.raises(ValueError, match="only 12 x 10 pixels"):
      augment_ops.random_crop({"image": NOISE}, RNG, size)


def test_random_crop_draws_all_places():
  rng = np.random.default_rng(0)
  image = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
  corners = [
    apply(augment_ops.random_crop, image, rng, (3, 3))[0, 0].item()
    for _ in range(600)
  ]
  places, counts = np.unique(corners, return_counts=True)
  assert places.tolist() == [0, 1, 2, 5, 6, 7]
  assert 70 < counts.min() <= counts.max() < 130


@pytest.mark.parametrize("down, right", [(2, -3), (-1, 3), (0, 0)])
def test_random_translate_shifts_and_fills(down, right):
  shifted = apply(
    augment_ops.random_translate, NOISE, Draws(down, right), 3, fill=5
  )
  padded = np.full((18, 16, 3), 5, np.uint8)
  padded[3:15, 3:13] = NOISE
  expected = padded[3 - down : 15 - down, 3 - right : 13 - right]
  np.testing.assert_array_equal(shifted, expected)


def test_random_translate_draws_all_shifts():
  rng = np.random.default_rng(0)
  image = np.zeros((5, 5, 1), np.uint8)
  image[2, 2] = 1
  places = {
    tuple(
      np.argwhere(apply(augment_ops.random_translate, image, rng, 1))[0][:2]
    )
    for _ in range(100)
  }
  assert places == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}
  with pytest.raises(ValueError, match="by 6 pixels"):
    augment_ops.random_translate({"image": image}, rng, 6)


@pytest.mark.parametrize("fill", [-1, 0.5, 256])
def test_a_fill_is_a_pixel(fill):
  rng = np.random.default_rng(0)
  grey = NOISE.astype(np.float32)
  for op in (augment_ops.random_translate, augment_ops.random_affine):
    with pytest.raises(ValueError, match="whole number from 0 to 255"):
      op({"image": NOISE}, rng, 2, fill=fill)
    assert op({"image": grey}, rng, 2, fill=fill)["image"].dtype == np.float32


def test_flip_lr():
  for draw, expected in [(0.4, NOISE[:, ::-1]), (0.5, NOISE)]:
    flipped = apply(augment_ops.flip_lr, NOISE, Draws(draw))
    np.testing.assert_array_equal(flipped, expected)


# The draws are (rotation, shear, right, down, scale), each in [0, 1).
@pytest.mark.parametrize(
  "draws, kwargs, expected",
  [
    ((0.5,) * 5, {}, lambda x: x),
    ((1, 0.5, 0.5, 0.5, 0.5), {"degrees": 90}, lambda x: np.rot90(x, -1)),
    ((1, 0.5, 0.5, 0.5, 0.5), {"degrees": 180}, lambda x: x[::-1, ::-1]),
    (
      (0.5, 0.5, 1, 0, 0.5),
      {"translate": 0.2, "fill": 9},
      lambda x: np.pad(x, ((0, 1), (1, 0), (0, 0)), constant_values=9)[1:, :5],
    ),
    (
      (0.5, 1, 0.5, 0.5, 0.5),
      {"shear": 45},
      lambda x: np.stack(
        [
          np.pad(row, ((2, 2), (0, 0)))[2 - y : 7 - y]
          for y, row in zip(range(-2, 3), x, strict=True)
        ]
      ),
    ),
  ],
  ids=["identity", "rotate 90", "rotate 180", "translate", "shear"],
)
def test_random_affine(draws, kwargs, expected):
  image = NOISE[:5, :5].astype(np.float32)
  moved = apply(augment_ops.random_affine, image, Draws(*draws), **kwargs)
  np.testing.assert_allclose(moved, expected(image), atol=1e-3)


def test_random_affine_magnifies_about_the_centre():
  image = np.zeros((9, 9, 1), np.float32)
  image[3:6, 3:6] = 1
  moved = apply(
    augment_ops.random_affine, image, Draws(0, 0, 0, 0, 1), scale=(1, 2)
  )
  np.testing.assert_allclose(moved, moved[::-1, ::-1], atol=1e-6)
  assert moved.sum() == pytest.approx(36, rel=0.01)
  with pytest.raises(ValueError, match="scale"):
    augment_ops.random_affine({"image": image}, RNG, scale=(2, 1))


# Values


def test_value_range():
  image = np.array([0, 51, 255], np.uint8).reshape(1, 3, 1)
  scaled = apply(image_ops.value_range, image)
  assert scaled.dtype == np.float32
  np.testing.assert_allclose(scaled.ravel(), [-1, -0.6, 1], atol=1e-6)
  assert scaled.min() == -1 and scaled.max() == 1
  again = apply(image_ops.value_range, scaled, 0, 10, -1, 1)
  np.testing.assert_allclose(again.ravel(), [0, 2, 10], atol=1e-5)


def test_standardize():
  image = np.array([[[0.5, 1.0, 0.0]]], np.float32)
  result = apply(image_ops.standardize, image, (0.5, 0.5, 0.25), 0.25)
  assert result.dtype == np.float32
  np.testing.assert_allclose(result.ravel(), [0, 2, -1])
  with pytest.raises(ValueError, match="mean has 2 values"):
    image_ops.standardize({"image": image}, (0, 0), 1)


# Labels and keys


def test_onehot():
  result = label_ops.onehot({"label": np.int32(2)}, 4)["label"]
  assert result.dtype == np.float32
  assert result.tolist() == [0, 0, 1, 0]
  result = label_ops.onehot({"y": np.array([0, 3])}, 4, "y", on=2, off=-1)
  assert result["y"].tolist() == [2, -1, -1, 2]
  for label in (4, -1, [0, 4], np.array([-1, 2])):
    with pytest.raises(ValueError, match=r"class (4|-1) .*not in \[0, 4\)"):
      label_ops.onehot({"label": label}, 4)
  with pytest.raises(ValueError, match="no 'label'; it has"):
    label_ops.onehot({"y": 1}, 4)


@pytest.mark.parametrize(
  "label, expected",
  [
    ([], [0, 0, 0, 0]),
    (np.array([]), [0, 0, 0, 0]),
    ([1, 3], [0, 1, 0, 1]),
    ([2, 2], [0, 0, 1, 0]),
    (np.uint8(3), [0, 0, 0, 1]),
    (True, [0, 1, 0, 0]),
  ],
)
def test_onehot_of_lists_as_datasets_give_them(label, expected):
  vector = label_ops.onehot({"label": label}, 4)["label"]
  assert vector.dtype == np.float32 and vector.tolist() == expected


@pytest.mark.parametrize(
  "label",
  [1.0, [0.0, 1.0], [True, False, True, True], ["cat"], b"cat", [[1], [2]]],
)
def test_onehot_refuses_what_is_no_class(label):
  with pytest.raises(ValueError, match=r"on=0.1 must be above off=0.9"):
    data.parse("onehot(3,on=0.1,off=0.9)")
  with pytest.raises(ValueError, match="is no class or vector of classes"):
    label_ops.onehot({"label": label}, 4)


def test_multihot_joins_the_classes_of_entries():
  pp = data.parse("multihot({'a': 2, 'b': 3})|keep('label')")
  label = pp({"a": np.int64(1), "b": [0, 2]})["label"]
  assert label.dtype == np.float32 and label.tolist() == [0, 1, 1, 0, 1]
  # It may replace one of them.
  assert label_ops.multihot({"a": 0}, {"a": 2}, "a")["a"].tolist() == [1, 0]
  with pytest.raises(ValueError, match=r"class 2 of 'a' is not in \[0, 2\)"):
    pp({"a": 2, "b": 0})
  with pytest.raises(ValueError, match="no 'b'; it has"):
    pp({"a": 0})
  for counts in ({}, {"a": 0}, {"a": True}, {"a": 2.0}, {1: 2}):
    with pytest.raises(ValueError, match="counts must have the number"):
      data.parse(f"multihot({counts})")
  # Images do not depend on it.
  assert not data.parse("multihot({'a': 2})").only("image").steps


def test_copy_keep_drop():
  example = {"a": 1, "b": 2}
  assert label_ops.copy(example, "a", "c") == {"a": 1, "b": 2, "c": 1}
  assert label_ops.keep(example, "b") == {"b": 2}
  assert label_ops.drop(example, "b") == {"a": 1}
  assert example == {"a": 1, "b": 2}
  for op in (label_ops.keep, label_ops.drop, label_ops.copy):
    with pytest.raises(ValueError, match="no 'c'; it has"):
      op(example, "c", "d")
