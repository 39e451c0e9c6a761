"""Tests the values that a preprocessing gives to images."""

import numpy as np
import pytest

from tokenlearner_flexivit.data import statistics


@pytest.mark.parametrize(
  ("pp", "key", "mean", "std"),
  [
    ("decode|value_range(-1,1)|keep('image','label')", "image", 0.5, 0.5),
    ("decode|flip_lr|value_range(0,1)|standardize(0.3,0.4)", "image", 0.3, 0.4),
    (
      "decode|value_range(0,1)|standardize((0.1,0.2,0.3),(1,2,4))|onehot(3)",
      "image",
      (0.1, 0.2, 0.3),
      (1, 2, 4),
    ),
    (
      "decode|copy('image','t')|value_range(-1,1)|value_range(0,1,key='t')",
      "t",
      0,
      1,
    ),
    (
      "decode_video|temporal_crop(4)|value_range(key='video')",
      "video",
      0.5,
      0.5,
    ),
    ("decode|resize(8)", "image", 0, 1 / 255),
    ("value_range(1,-1)", "image", 0.5, -0.5),
    ("value_range(-1,1,255,0)", "image", 0.5, -0.5),
  ],
)
def test_statistics(pp, key, mean, std):
  found = statistics.mean_and_std(pp, key)
  np.testing.assert_allclose(found[0], np.ravel(mean), atol=1e-6)
  np.testing.assert_allclose(found[1], np.ravel(std), rtol=1e-5)
