"""Figures of images beside maps of their labels."""

import numpy as np
import pytest

from tokenlearner_flexivit.figures import label_maps, segments

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
