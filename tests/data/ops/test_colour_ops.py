"""The photometric distortion of Segmenter's recipe."""

import colorsys

import numpy as np
import pytest

from tokenlearner_flexivit import data

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


class Draws:
  """A generator of given coins, shares of the ranges, and turn of the hue."""

  def __init__(self, coins, amounts=(1, 1, 1), turn=0):
    self._coins, self._amounts, self._turn = coins, amounts, turn

  def random(self, size):
    assert size == len(self._coins)
    return np.where(self._coins, 0.4, 0.5)

  def uniform(self, low, high, size):
    assert (low, high, size) == (-1, 1, len(self._amounts))
    return np.array(self._amounts, float)

  def integers(self, low, high, endpoint):
    assert endpoint and low <= self._turn <= high
    return self._turn


def distort(coins, *draws, image=IMAGE, op="photometric_distortion"):
  before = image.copy()
  result = data.parse(op)({"image": image}, Draws(coins, *draws))["image"]
  np.testing.assert_array_equal(image, before)
  assert result.dtype == np.uint8 and result.shape == image.shape
  return result


def test_without_a_change_the_image_is_itself():
  assert distort([0, 0, 0, 0, 1]) is IMAGE


def test_brightness_and_contrast():
  wide = IMAGE.astype(int)
  brighter = distort([1, 0, 0, 0, 0], (-1, 1, 1))
  np.testing.assert_array_equal(brighter, (wide - 32).clip(0))
  sharper = (wide * 1.5).clip(0, 255).astype(np.uint8)
  for is_first in (0, 1):
    np.testing.assert_array_equal(distort([0, 1, 0, 0, is_first]), sharper)


def test_saturation_and_hue():
  colour = np.full((1, 1, 3), (200, 100, 50), np.uint8)
  hue, saturation, value = colorsys.rgb_to_hsv(*(colour.ravel() / 255))
  for draws, expected in (
    (([0, 0, 1, 0, 0], (1, 1, -1)), (hue, saturation / 2, value)),
    (([0, 0, 0, 1, 0], (1, 1, 1), 18), (hue + 0.1, saturation, value)),
    (([0, 0, 0, 1, 0], (1, 1, 1), -18), (hue - 0.1 + 1, saturation, value)),
  ):
    rgb = 255 * np.array(colorsys.hsv_to_rgb(*expected))
    # OpenCV rounds hues to two degrees.
    assert np.abs(distort(*draws, image=colour).ravel() - rgb).max() < 4


def test_contrast_comes_before_or_after_the_colours():
  first = distort([0, 1, 1, 0, 1], (1, 1, -1))
  last = distort([0, 1, 1, 0, 0], (1, 1, -1))
  assert (first != last).any()
  alone = distort([0, 1, 0, 0, 1])
  np.testing.assert_array_equal(
    first, distort([0, 0, 1, 0, 1], (1, 1, -1), image=alone)
  )


def test_each_change_happens_half_of_the_time_and_masks_stay():
  pp = data.parse("photometric_distortion(saturation=0,contrast=0,hue=0)")
  grey = np.full((1, 1, 3), 128, np.uint8)
  mask = np.ones((1, 1), np.uint8)
  rng = np.random.default_rng(0)
  results = [pp({"image": grey, "semantic": mask}, rng) for _ in range(300)]
  assert all(result["semantic"] is mask for result in results)
  levels = np.array([result["image"][0, 0, 0] for result in results]).astype(
    int
  )
  assert 0.4 < np.mean(levels != 128) < 0.6
  assert levels.min() < 104 and levels.max() > 152
  assert np.abs(levels - 128).max() <= 32


@pytest.mark.parametrize(
  "op, words",
  [
    ("photometric_distortion(-1)", "must not be negative"),
    ("photometric_distortion(contrast=2)", r"in \[0, 1\]"),
    ("photometric_distortion(hue=91)", "at most 90"),
  ],
)
def test_impossible_arguments_are_found_before_any_data(op, words):
  with pytest.raises(ValueError, match=words):
    data.parse(op)


@pytest.mark.parametrize("image", [IMAGE[..., :1], IMAGE.astype(np.float32)])
def test_other_images_are_refused(image):
  with pytest.raises(ValueError, match="behind decode and before value_range"):
    distort([1, 1, 1, 1, 1], image=image)
