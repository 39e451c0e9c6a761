"""Figures of images beside maps of their labels."""

import numpy as np
import pytest
from matplotlib.text import Text

from tokenlearner_flexivit.figures import boxes, label_maps, segments

IMAGE = np.zeros((8, 8, 3))
LABELS = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])


def masks():
  rows = [label_maps.Row(IMAGE, [LABELS])]
  return label_maps.figure(rows, ["image", "truth"], ["sky", "sea"], 255)


def panoptic():
  cell = segments.Cell(LABELS, np.array([1]))
  headings = ["image", "truth"]
  return segments.figure([(IMAGE, [cell])], headings, ["sky", "sea"])


@pytest.mark.parametrize("figure", [masks, panoptic])
def test_an_image_that_a_model_sees_square_has_the_ratio_of_its_photo(figure):
  image, truth = figure().axes
  height, width = truth.images[0].get_array().shape[:2]
  assert (width / height) == 2
  left, right, bottom, top = image.images[0].get_extent()
  assert (left, top) == (0, 0) and (right / bottom) == 2
  assert image.get_aspect() == 1


LONG = ["tall_building_with_windows", "tall_building_without_windows_but_doors"]


def named_masks():
  rows = [label_maps.Row(IMAGE, [LABELS])]
  return label_maps.figure(rows, ["image", "truth"], LONG, 255)


def named_segments():
  cell = segments.Cell(LABELS + 1, np.array([0, 1]))
  return segments.figure([(IMAGE, [cell])], ["image", "truth"], LONG)


def named_boxes():
  cell = boxes.Cell(IMAGE, np.array([[1, 1, 4, 4.0]]), np.array([1]))
  return boxes.figure([[cell]], ["truth"], LONG)


@pytest.mark.parametrize("figure", [named_masks, named_segments, named_boxes])
def test_long_names_without_spaces_are_cut_off(figure):
  texts = [x.get_text() for x in figure().findobj(Text)]
  names = [text for text in texts if text.startswith("tall_buil")]
  assert names and any(name.endswith("…") for name in names)
  assert "..." not in texts and "[...]" not in texts


def test_names_stand_in_their_segments():
  numbers = np.zeros((40, 60), np.int32)
  numbers[:10, 50:], numbers[30:, 5:20], numbers[0, 0] = 1, 2, 3
  cell = segments.Cell(numbers, np.array([0, 1, 1]))
  drawn = segments.picture(cell, ["sky", "sea"])
  scale = drawn.axes[0].images[0].get_array().shape[0] / 40
  told = {}
  for text in drawn.axes[0].texts:
    x, y = (int(value // scale) for value in text.get_position())
    told[text.get_text()] = numbers[y, x]
  assert told == {"sky": 1, "sea": 2}  # A single pixel has no name.


def test_a_strip_of_one_row_of_pixels_has_colours():
  strip = np.zeros((1, 2000), int)
  drawn = label_maps.figure(
    [label_maps.Row(IMAGE, [strip])], ["image", "truth"], ["sky"], 255
  )
  _, truth = drawn.axes
  assert truth.images[0].get_array().shape == (1, 360, 3)
