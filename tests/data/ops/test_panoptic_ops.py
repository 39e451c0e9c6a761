"""Panoptic labels: COCO's segments, and numbers by centres of mass."""

import numpy as np
import pytest

from tokenlearner_flexivit import data

VOID = 255


def run(op, **example):
  return data.parse(op)(example)


def coco(**columns):
  """Returns an example of three segments, one of them a crowd."""
  ids = np.array([[0, 70000, 70000], [9, 9, 300]], np.int32)
  objects = {"id": [300, 70000, 9], "label": [2, 0, 1], "is_crowd": [1, 0, 0]}
  return {"panoptic_image": ids, "panoptic_objects": objects | columns}


def test_segments_are_numbered_as_they_are_listed():
  result = run("panoptic", **coco())
  assert result["semantic"].tolist() == [[VOID, 0, 0], [1, 1, VOID]]
  assert result["instances"].tolist() == [[0, 2, 2], [3, 3, 0]]
  assert "crowd" not in result
  result = run("panoptic(crowds=True)", **coco())
  assert result["semantic"].tolist() == [[VOID, 0, 0], [1, 1, 2]]
  assert result["instances"].tolist() == [[0, 2, 2], [3, 3, 1]]
  assert result["crowd"].tolist() == [[0, 0, 0], [0, 0, 1]]


def test_an_image_without_segments_is_void():
  example = coco(id=[], label=[], is_crowd=[])
  example["panoptic_image"][:] = 0
  result = run("panoptic(crowds=True)|canonical(3)", **example)
  assert set(result["semantic"].ravel().tolist()) == {VOID}
  assert not result["instances"].any() and not result["crowd"].any()


@pytest.mark.parametrize(
  "change, words",
  [
    (dict(id=[1, 2, 9]), "has the id 300, which is not listed"),
    (dict(label=[255, 0, 1]), "the class 255, but 255 is void"),
  ],
)
def test_segments_that_do_not_fit(change, words):
  with pytest.raises(ValueError, match=words):
    run("panoptic", **coco(**change))


def test_what_is_no_panoptic_label():
  with pytest.raises(ValueError, match="no panoptic_objects/id"):
    run("panoptic", image=np.zeros((2, 2, 3), np.uint8))
  with pytest.raises(ValueError, match="put decode_ids"):
    run("panoptic", **{**coco(), "panoptic_image": b"png"})
  with pytest.raises(ValueError, match="max must be at least 1"):
    data.parse("canonical(0)")
  with pytest.raises(ValueError, match="no map of whole numbers 'instances'"):
    run("canonical(3)", semantic=np.zeros((2, 2), int))


def by_loop(classes, numbers):
  """Returns the numbers that `canonical` gives, one segment at a time."""
  segments = []
  for pair in sorted({*zip(classes.flat, numbers.flat, strict=True)}):
    where = np.argwhere((classes == pair[0]) & (numbers == pair[1]))
    if pair[0] != VOID:
      segments.append((*where.mean(axis=0).tolist(), pair))
  result = np.zeros(classes.shape, int)
  for i, (*_, pair) in enumerate(sorted(segments), start=1):
    result[(classes == pair[0]) & (numbers == pair[1])] = i
  return result


@pytest.mark.parametrize("seed", range(4))
def test_numbers_follow_the_centres_of_mass(seed):
  rng = np.random.default_rng(seed)
  classes = rng.choice([0, 3, VOID], (9, 14)).astype(np.uint8)
  numbers = rng.integers(0, 5, (9, 14)).astype(np.int32)
  result = run("canonical(20)", semantic=classes, instances=numbers)
  np.testing.assert_array_equal(result["semantic"], classes)
  np.testing.assert_array_equal(result["instances"], by_loop(classes, numbers))
  # Other numbers of the same segments change nothing.
  swapped = np.array([70, 3, 1000, 2, 5])[numbers]
  again = run("canonical(20)", semantic=classes, instances=swapped)
  np.testing.assert_array_equal(again["instances"], result["instances"])


def test_equal_heights_are_ordered_from_left_to_right():
  classes = np.zeros((3, 5), np.int32)
  numbers = np.array([[1, 1, 2, 3, 3]] * 3)
  numbers[:, :2] = 9
  result = run("canonical(5)", semantic=classes, instances=numbers)
  assert result["instances"][0].tolist() == [1, 1, 2, 3, 3]


def test_of_too_many_segments_the_largest_stay(caplog):
  classes = np.zeros((1, 9), np.int32)
  numbers = np.array([[1, 2, 2, 3, 3, 3, 4, 5, 5]])
  for _ in range(2):
    result = run("canonical(3)", semantic=classes, instances=numbers)
  assert result["instances"].tolist() == [[0, 1, 1, 2, 2, 2, 0, 3, 3]]
  assert result["semantic"].tolist() == [[VOID, 0, 0, 0, 0, 0, VOID, 0, 0]]
  warned = [r for r in caplog.records if "keeps the largest" in r.message]
  assert len(warned) <= 1


def test_classes_come_from_the_segments(tmp_path):
  pp = "decode_ids(rgb=True,key='panoptic_image')|panoptic|canonical(9)"

  class Source:
    stuff = {"panoptic_objects/label": ["sky"]}  # noqa: RUF012

    def classes(self, key):
      assert key == "panoptic_objects/label"
      return 2, ["person", "sky"]

  count, names = data.classes({"pp": pp}, Source(), key="semantic")
  assert (count, names) == (2, ["person", "sky"])
  assert data.stuff(Source(), names) == ["sky"]
