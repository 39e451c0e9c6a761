"""Words in pictures: classes of images and answers of models."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tokenlearner_flexivit import data, dials
from tokenlearner_flexivit.analysis import captions
from tokenlearner_flexivit.figures import overlay


@pytest.fixture
def names(monkeypatch):
  known = ["cat", "a very long-winded name"]
  monkeypatch.setattr(data, "open_source", lambda data: None)
  monkeypatch.setattr(data, "classes", lambda data, source: (2, known))


@pytest.mark.parametrize(
  "labels, expected",
  [
    (np.int32([0, 2, -1]), ["cat", "2", ""]),
    (np.float32([[0.9, 0.1, 0], [0, 0, 0]]), ["cat", ""]),
    (np.float32([[1, 0, 1]]), ["cat+2"]),
    # Smoothed: two classes, and none.
    (np.float32([[0.6, 0.4, 0.6], [0.05, 0.05, 0.05]]), ["cat+2", ""]),
    (np.int32([1]), ["a very long-win…"]),
  ],
)
def test_images_are_named_by_their_classes(names, labels, expected):
  assert captions.label_names({}, {"label": labels}) == expected


def test_names_are_those_of_the_label_that_is_left(monkeypatch):
  class Two(data.Source):
    num_classes, class_names = 2, ["disc", "star"]
    value_names = {"texture": ["dots", "lines"]}  # noqa: RUF012

    def __len__(self):
      return 1

    def __getitem__(self, index):
      return {}

  monkeypatch.setattr(data, "open_source", lambda data: Two())
  batch = {"label": np.int32([1])}
  for pp, expected in (("", "star"), ("copy('texture','label')", "lines")):
    assert captions.label_names({"pp": pp}, batch) == [expected]


def test_images_without_labels_have_no_names():
  assert captions.label_names({}, {"image": np.zeros((2, 4, 4, 3))}) == ["", ""]


def test_a_model_names_its_answers():
  class Brightest(nn.Module):
    """Answers the channel that is brightest."""

    @nn.compact
    def __call__(self, images, patch_size=None, num_tokens=None):
      return images.mean(axis=(1, 2)), {}

  images = np.zeros((2, 4, 4, 3), np.float32)
  images[0, ..., 1], images[1, ..., 2] = 1, 1
  answers = captions.answer_names(
    Brightest(), {}, jnp.asarray(images), dials.Setting((2, 2)), ["r", "g"]
  )
  assert answers == ["g", "2"]


def test_rows_of_one_image_stand_together():
  image, other = np.ones((2, 10, 10, 3))
  rows = [
    overlay.Row("patch 5", shown, [np.ones((2, 2))])
    for shown in (image, image, other, other)
  ]
  first, second, third, fourth = overlay._tops(rows, 10)
  assert second - first == fourth - third < third - second
  # Frames of a video are all different: none stands apart.
  tops = overlay._tops(rows[1:3], 10)
  assert tops[1] - tops[0] == second - first
