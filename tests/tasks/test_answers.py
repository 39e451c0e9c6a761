"""Answers of any structure: their leaves' names, rows and files."""

from typing import NamedTuple

import numpy as np
import pytest

from tokenlearner_flexivit.tasks import answers


class Boxes(NamedTuple):
  corners: np.ndarray
  score: np.ndarray


ANSWER = {
  "boxes": Boxes(np.zeros((3, 4)), np.float32(0.5)),
  "count": np.int32(3),
}


def test_leaves_are_named_by_their_path():
  assert list(answers.leaves(ANSWER)) == [
    "boxes/corners",
    "boxes/score",
    "count",
  ]
  assert answers.leaves(np.float32(2)) == {"answer": 2}


def test_scalars_are_a_row():
  row = answers.row({"count": np.int32(3), "sure": np.bool_(True)})
  assert row == {"count": 3, "sure": True}
  assert type(row["count"]) is int
  with pytest.raises(ValueError, match=r"arrays.*: boxes/corners \[3, 4\]\."):
    answers.row(ANSWER)


def test_arrays_are_a_file(tmp_path):
  # What is before a dot is no suffix.
  path = answers.write_arrays(ANSWER, tmp_path / "photo.v2")
  assert path == tmp_path / "photo.v2.npz"
  with np.load(path) as file:
    saved = dict(file)
  assert sorted(saved) == ["boxes/corners", "boxes/score", "count"]
  np.testing.assert_array_equal(saved["boxes/corners"], np.zeros((3, 4)))
