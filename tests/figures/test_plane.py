"""The plane of both dials: what is on its front, and its picture."""

import cv2
import pytest

from tokenlearner_flexivit.figures import plane
from tokenlearner_flexivit.figures.metric import Metric

ACCURACY = Metric("accuracy", "%", is_share=True)


@pytest.mark.parametrize(
  "costs, values, expected",
  [
    ((1, 2, 3), (0.1, 0.2, 0.3), [0, 1, 2]),
    ((1, 2, 3), (0.3, 0.2, 0.4), [0, 2]),  # The second is dominated.
    ((2, 1, 1), (0.2, 0.1, 0.3), [2]),
    ((1, 1), (0.5, 0.5), [0]),  # Of equal ones there is one.
    ((), (), []),
  ],
)
def test_front(costs, values, expected):
  assert plane.front(costs, values) == expected


def test_nothing_beats_the_front():
  costs = [(7 * i) % 30 for i in range(30)]
  values = [(11 * i) % 23 for i in range(30)]
  best = plane.front(costs, values)
  for i in range(30):
    dominated = any(
      costs[j] <= costs[i] and values[j] >= values[i] for j in best
    )
    assert dominated
  assert [costs[i] for i in best] == sorted({costs[i] for i in best})
  assert [values[i] for i in best] == sorted({values[i] for i in best})


def test_picture(tmp_path):
  rows = [
    {
      "patch_size": size,
      "num_tokens": tokens,
      "gmacs": (16 + (100 if tokens == "all" else tokens)) / size,
      "images_per_s": 10.0 * size,
      "accuracy": 0.9 - 0.01 * size,
    }
    for size in (16, 8)
    for tokens in (4, 16, "all")
  ]
  plane.draw(rows, tmp_path / "plane.png", "a title", "accuracy", ACCURACY, 15)
  assert cv2.imread(str(tmp_path / "plane.png")).std() > 10
