"""RandAugment: every operation by hand, and what the op draws."""

import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.ops import randaug

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)


class Draws:
  """A generator of given numbers."""

  def __init__(self, *numbers):
    self._numbers = list(numbers)

  def random(self):
    return self._numbers.pop(0)

  def integers(self, high):
    assert self._numbers[0] < high
    return self._numbers.pop(0)


UP, DOWN = 0.0, 0.5  # Draws of the positive and of the negative sign.


def operate(name, image, magnitude=10, *draws):
  """Applies one operation; checks its input, the shape and the dtype."""
  before = image.copy()
  result = randaug.OPERATIONS[name](
    Image.fromarray(image), magnitude / 10, Draws(*draws)
  )
  result = np.asarray(result)
  np.testing.assert_array_equal(image, before)
  assert result.shape == image.shape and result.dtype == np.uint8
  return result


def blend(degenerate, image, magnitude):
  """Returns what is beyond (or between) the degenerate image and the image."""
  factor = np.float32(1.8 * magnitude / 10 + 0.1)
  degenerate = degenerate.astype(np.float32)
  mixed = degenerate + factor * (image - degenerate)
  return mixed.clip(0, 255).astype(np.uint8)


def assert_rounded(result, expected):
  assert np.abs(result.astype(int) - expected).max() <= 1


# Operations on values


def test_autocontrast_stretches_each_channel():
  image = np.array([[[10, 0, 7], [60, 255, 7], [110, 128, 7]]], np.uint8)
  expected = [[0, 0, 7], [127, 255, 7], [255, 128, 7]]
  assert operate("AutoContrast", image)[0].tolist() == expected


def test_equalize_spreads_the_histogram():
  # 255 pixels without those of the last level: a grey level for each.
  image = np.repeat(np.uint8([3, 4, 200]), (100, 155, 1))[None]
  expected = np.repeat([0, 100, 255], (100, 155, 1))
  np.testing.assert_array_equal(operate("Equalize", image)[0], expected)
  flat = np.full((4, 4, 3), 9, np.uint8)
  np.testing.assert_array_equal(operate("Equalize", flat), flat)


def test_invert():
  np.testing.assert_array_equal(operate("Invert", NOISE), 255 - NOISE)


@pytest.mark.parametrize(
  "magnitude, bits", [(0, 1), (2, 1), (5, 2), (10, 4), (20, 8), (30, 1)]
)
def test_posterize_keeps_the_upper_bits(magnitude, bits):
  expected = GREYS >> (8 - bits) << (8 - bits)
  result = operate("Posterize", GREYS, magnitude)
  np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
  "magnitude, threshold", [(0, 0), (5, 128), (9, 230), (10, 0), (15, 128)]
)
def test_solarize_inverts_from_the_threshold_on(magnitude, threshold):
  greys = GREYS.astype(int)
  expected = np.where(greys < threshold, greys, 255 - greys)
  result = operate("Solarize", GREYS, magnitude)
  np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("magnitude, added", [(0, 0), (10, 110), (30, 330)])
def test_solarize_add_brightens_the_dark_half(magnitude, added):
  greys = GREYS.astype(int)
  expected = np.where(greys < 128, np.minimum(greys + added, 255), greys)
  result = operate("SolarizeAdd", GREYS, magnitude)
  np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("magnitude", [0, 3, 10])
def test_enhancements_are_blends(magnitude):
  grey = (NOISE @ [0.2989, 0.587, 0.114]).round()
  shapes = (np.zeros((1, 1, 1)), grey[..., None], grey.mean()[None, None, None])
  for name, degenerate in zip(
    ("Brightness", "Color", "Contrast"), shapes, strict=True
  ):
    result = operate(name, NOISE, magnitude)
    assert_rounded(result, blend(degenerate, NOISE, magnitude))

  smooth = NOISE.astype(float)
  inner = sum(
    smooth[y : y + 22, x : x + 18] for y in range(3) for x in range(3)
  )
  smooth[1:-1, 1:-1] = ((inner + 4 * smooth[1:-1, 1:-1]) / 13).round()
  result = operate("Sharpness", NOISE, magnitude)
  assert_rounded(result, blend(smooth, NOISE, magnitude))


@pytest.mark.parametrize(
  "name", ["Color", "Contrast", "Brightness", "Sharpness"]
)
def test_enhancements_do_nothing_at_magnitude_five(name):
  np.testing.assert_array_equal(operate(name, NOISE, 5), NOISE)


# Geometric operations


def test_translate_is_in_pixels():
  moved = np.full_like(NOISE, 128)
  moved[:, :-10] = NOISE[:, 10:]
  np.testing.assert_array_equal(operate("TranslateX", NOISE, 1, UP), moved)
  moved = np.full_like(NOISE, 128)
  moved[10:] = NOISE[:-10]
  np.testing.assert_array_equal(operate("TranslateY", NOISE, 1, DOWN), moved)
  assert (operate("TranslateX", NOISE, 10, UP) == 128).all()


@pytest.mark.parametrize("sign, direction", [(UP, 1), (DOWN, -1)])
def test_shear_moves_rows_or_columns_and_keeps_the_first(sign, direction):
  size = 9  # At a magnitude of 10 no row is shifted by half a pixel but one.
  rows = np.delete(np.arange(size), 5)
  image = NOISE[:size, :size]
  x = np.arange(size) + direction * np.round(0.3 * np.arange(size))[:, None]
  x = x.astype(int)
  inside = ((x >= 0) & (x < size))[..., None]
  expected = np.where(
    inside, image[np.arange(size)[:, None], x.clip(0, size - 1)], 128
  )
  result = operate("ShearX", image, 10, sign)
  np.testing.assert_array_equal(result[rows], expected[rows])
  turned = np.ascontiguousarray(image.transpose(1, 0, 2))
  result = operate("ShearY", turned, 10, sign).transpose(1, 0, 2)
  np.testing.assert_array_equal(result[rows], expected[rows])


def test_rotate_is_about_the_centre():
  square = NOISE[:20]
  turned = operate("Rotate", square, 30, UP)
  np.testing.assert_array_equal(turned, np.rot90(square))
  turned = operate("Rotate", square, 30, DOWN)
  np.testing.assert_array_equal(turned, np.rot90(square, -1))
  # Corners come from outside.
  turned = operate("Rotate", square, 10, UP)
  assert (turned[[0, 0, -1, -1], [0, -1, 0, -1]] == 128).all()
  assert (turned != 128).any(-1).mean() > 0.8


def test_cutout_is_clipped_at_the_edges():
  expected = NOISE.copy()
  expected[6:14, 1:9] = 128
  # The draws are (x, y) of the centre.
  result = operate("Cutout", NOISE, 1, 5, 10)
  np.testing.assert_array_equal(result, expected)
  expected = NOISE.copy()
  expected[19:, :4] = 128
  result = operate("Cutout", NOISE, 1, 0, 23)
  np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
  "name, draws",
  [
    *[(name, [UP]) for name in ("Rotate", "ShearX", "ShearY")],
    *[(name, [DOWN]) for name in ("TranslateX", "TranslateY")],
    ("Cutout", [5, 10]),
    ("SolarizeAdd", []),
  ],
)
def test_identity_at_magnitude_zero(name, draws):
  np.testing.assert_array_equal(operate(name, NOISE, 0, *draws), NOISE)


@pytest.mark.parametrize("name", randaug.OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 7.3, 10, 30])
def test_operations_take_grey_and_tiny_images(name, magnitude):
  for image in (NOISE[..., 0], NOISE[:1, :1], NOISE[:2, :3, 0]):
    operation = randaug.OPERATIONS[name]
    rng = np.random.default_rng(0)
    result = operation(Image.fromarray(image), magnitude / 10, rng)
    assert np.asarray(result).shape == image.shape


# The op


def augment(image, seed, *args, **kwargs):
  before = image.copy()
  rng = np.random.default_rng(seed)
  example = randaug.randaug({"image": image, "label": 7}, rng, *args, **kwargs)
  np.testing.assert_array_equal(image, before)
  assert example["label"] == 7
  result = example["image"]
  assert result.shape == image.shape and result.dtype == np.uint8
  assert not np.shares_memory(result, image)
  return result


@pytest.mark.parametrize("channels", [1, 3])
def test_same_seed_same_image(channels):
  # Large enough for a part to stay after a shift by 100 pixels.
  image = np.tile(NOISE, (6, 7, 1))[..., :channels]
  results = [augment(image, seed) for seed in range(8)]
  for seed, result in enumerate(results):
    np.testing.assert_array_equal(augment(image, seed), result)
  assert len({result.tobytes() for result in results}) > 4


def test_operations_are_drawn_uniformly_and_chained(monkeypatch):
  calls = []

  def recorded(name):
    def operation(image, level, rng):
      calls.append((name, level))
      # The images tell that every operation was given the result before it.
      return image.point([min(v + 1, 255) for v in range(256)])

    return operation

  names = list(randaug.OPERATIONS)
  assert len(names) == 16
  monkeypatch.setattr(
    randaug, "OPERATIONS", {name: recorded(name) for name in names}
  )
  black = np.zeros((2, 2, 1), np.uint8)
  rng = np.random.default_rng(0)
  for _ in range(800):
    result = randaug.randaug({"image": black}, rng, 2, 7)["image"]
    assert (result == 2).all()
  drawn = [name for name, _ in calls]
  counts = [drawn.count(name) for name in names]
  assert len(drawn) == 1600 and 60 < min(counts) <= max(counts) < 140
  assert {level for _, level in calls} == {0.7}
  # With replacement, one draw not depending on the other.
  pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
  assert 25 < sum(first == second for first, second in pairs) < 80
  assert (augment(black, 0, num_layers=5) == 5).all()


def test_is_an_op_of_strings():
  pp = data.parse("decode|randaug(2,10)|randaug(1, 9.5, key='other')")
  assert pp.is_random
  example = {"image": NOISE, "other": NOISE}
  results = [pp(example, np.random.default_rng(3)) for _ in range(2)]
  for key in example:
    np.testing.assert_array_equal(results[0][key], results[1][key])
  with pytest.raises(ValueError, match="num_layers cannot be"):
    data.parse("randaug(2.5)")


@pytest.mark.parametrize(
  "image, kwargs, message",
  [
    (NOISE.astype(np.float32), {}, "float32 instead of uint8: .*value_range"),
    (NOISE[..., :2], {}, "2 channels, not 1 or 3"),
    (NOISE[..., 0], {}, r"instead of \[H, W, C\]"),
    (b"\xff\xd8", {}, "put decode before"),
    (NOISE, {"num_layers": 0}, "at least 1, not 0"),
    (NOISE, {"magnitude": -1}, r"in \[0, 30\], not -1"),
    (NOISE, {"magnitude": 30.5}, "not 30.5"),
    (NOISE, {"magnitude": float("nan")}, "not nan"),
    (NOISE, {"key": "picture"}, "no 'picture'"),
  ],
)
def test_refuses(image, kwargs, message):
  with pytest.raises(ValueError, match=message):
    randaug.randaug({"image": image}, np.random.default_rng(0), **kwargs)
