"""Labels of pixels and boxes: objects, map_labels and ignore."""

import numpy as np
import pytest

from tokenlearner_flexivit import data

RNG = np.random.default_rng(0)


def run(op, **example):
  return data.parse(op)(example)


def sized(*areas):
  """Returns boxes of height 1 and of these areas."""
  zeros, ones = np.zeros(len(areas)), np.ones(len(areas))
  return np.stack([zeros, zeros, ones, areas], axis=-1).astype(np.float32)


def test_objects_become_arrays_of_one_size():
  objects = {"bbox": sized(0.5, 0.1), "label": np.array([4, 2]), "id": [7, 8]}
  result = run("objects(4)", objects=objects)
  assert result["boxes"].dtype == np.float32
  assert result["box_label"].dtype == np.int32
  np.testing.assert_array_equal(result["boxes"][:2], objects["bbox"])
  assert not result["boxes"][2:].any()
  assert result["box_label"].tolist() == [4, 2, -1, -1]
  none = {"bbox": np.zeros((0, 4)), "shape": np.zeros(0, int)}
  result = run("objects(2,'shape',key='things')", things=none)
  assert result["boxes"].shape == (2, 4)
  assert result["box_label"].tolist() == [-1, -1]


def test_objects_of_several_labels_and_with_details():
  """Combinations count the last label fastest; details follow their boxes."""
  objects = {
    "bbox": sized(0.1, 0.5, 0.3),
    "colour": np.array([1, 0, 1]),
    "shape": np.array([2, 1, 0]),
    "area": np.array([10.0, 50, 30]),
    "is_crowd": np.array([True, False, True]),
  }
  op = "objects(2,('colour','shape'),sizes=(2,3){})"
  result = run(op.format(",details=True"), objects=objects)
  assert result["box_label"].tolist() == [0 * 3 + 1, 1 * 3 + 0]
  assert result["box_area"].tolist() == [50, 30]
  assert result["box_crowd"].tolist() == [0, 1]
  assert "box_area" not in run(op.format(""), objects=objects)
  none = run(op.format(""), objects={"bbox": [], "colour": [], "shape": []})
  assert none["box_label"].tolist() == [-1, -1]
  image = np.zeros((5, 7, 3), np.uint8)
  assert run("image_size", image=image)["size"].tolist() == [5, 7]


def test_crowds_are_no_single_things():
  objects = {
    "bbox": sized(0.5, 0.1, 0.2),
    "label": np.arange(3),
    "is_crowd": np.array([True, False, False]),
  }
  for options, labels in (
    ("", [1, 2]),
    (",crowds=True", [0, 2]),
    (",details=True", [0, 2]),
    (",details=True,crowds=False", [1, 2]),
  ):
    result = run(f"objects(2{options})", objects=objects)
    assert result["box_label"].tolist() == labels
  assert not result["box_crowd"].any()


def test_of_too_many_objects_the_largest_are_kept_in_order(caplog):
  objects = {"bbox": sized(0.1, 0.4, 0.2, 0.4, 0.3), "label": np.arange(5)}
  for _ in range(3):
    result = run("objects(3)", objects=objects)
    assert result["box_label"].tolist() == [1, 3, 4]
    np.testing.assert_array_equal(result["boxes"], sized(0.4, 0.4, 0.3))
  warned = [r for r in caplog.records if "keeps the largest" in r.message]
  assert len(warned) <= 1  # Once in a process, whichever test is first.


@pytest.mark.parametrize(
  "op, example, words",
  [
    ("objects(2)", {"image": 1}, r"no objects/bbox.*\['image'\]"),
    (
      "objects(2,'shape')",
      {"objects": {"bbox": sized(1), "texture": [1]}},
      r"objects/shape; it has \['bbox', 'texture'\]",
    ),
    (
      "objects(2)",
      {"objects": {"bbox": sized(1), "label": [1, 2]}},
      r"\(1, 4\) and classes of the shape \(2,\)",
    ),
  ],
)
def test_what_are_no_objects_is_named(op, example, words):
  with pytest.raises(ValueError, match=words):
    run(op, **example)


def test_labels_of_cityscapes():
  # All 34 classes and the licence plate, from the benchmark's table of labels.
  train_ids = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8}
  train_ids |= {22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15}
  train_ids |= {31: 16, 32: 17, 33: 18}
  ids = np.arange(-1, 34, dtype=np.int32).reshape(5, 7)
  mapped = run("map_labels('cityscapes')", semantic=ids)["semantic"]
  assert mapped.dtype == np.uint8 and mapped.shape == ids.shape
  expected = [train_ids.get(i, 255) for i in ids.ravel().tolist()]
  assert mapped.ravel().tolist() == expected
  with pytest.raises(ValueError, match=r"lacks: 255\. Are these trainIds"):
    run("map_labels('cityscapes')", semantic=np.array([[7, 255]]))


def test_any_mapping_and_unmapped_ids():
  ids = np.array([[300, 7], [-2, 300]], np.int32)
  mapped = run("map_labels({7: 1, 300: 400, -2: -1})", semantic=ids)["semantic"]
  assert mapped.dtype == np.int32 and mapped.tolist() == [[400, 1], [-1, 400]]
  with pytest.raises(ValueError, match=r"lacks: -2, 300\. .*other=255"):
    run("map_labels({7: 1})", semantic=ids)
  mapped = run("map_labels({7: 1},other=255)", semantic=ids)["semantic"]
  assert mapped.dtype == np.uint8 and mapped.tolist() == [[255, 1], [255, 255]]
  labels = np.array([2, -1], np.int32)
  pp = "map_labels({2: 0, -1: -1},key='box_label')"
  assert run(pp, box_label=labels)["box_label"].tolist() == [0, -1]
  pp = "map_labels({2: 0},other=1,key='box_label')"
  labels = np.array([2, 5, -1, -1], np.int32)  # Padding is no class.
  assert run(pp, box_label=labels)["box_label"].tolist() == [0, 1, -1, -1]
  many = np.arange(60, dtype=np.uint8)
  with pytest.raises(ValueError, match=r"lacks: 1, 2, .*, 10, \.\.\.\."):
    run("map_labels({0: 0})", semantic=many)


def test_a_mapping_is_that_of_a_loop():
  ids = RNG.integers(0, 50, (20, 30)).astype(np.uint16)
  mapping = dict(enumerate(RNG.integers(0, 9, 50).tolist()))
  mapped = run(f"map_labels({mapping})", semantic=ids)["semantic"]
  assert mapped.tolist() == [[mapping[i] for i in row] for row in ids.tolist()]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16])
def test_ignored_ids(dtype):
  ids = np.array([[0, 1, 2], [150, 255, 34]], dtype)
  before = ids.copy()
  reduced = run("ignore(reduce_zero=True)", semantic=ids)["semantic"]
  assert reduced.dtype == dtype
  # mmsegmentation: 0 becomes 255, all others less by one, 255 stays.
  assert reduced.tolist() == [[255, 0, 1], [149, 255, 33]]
  ignored = run("ignore(0,34)", semantic=ids)["semantic"]
  assert ignored.tolist() == [[255, 1, 2], [150, 255, 255]]
  both = run("ignore(2,reduce_zero=True,label=200)", semantic=ids)["semantic"]
  assert both.tolist() == [[200, 0, 200], [149, 254, 33]]
  np.testing.assert_array_equal(ids, before)


def test_numbers_below_zero_can_be_ignored():
  ids = np.array([-1, 3], np.int32)
  assert run("ignore(-1)", semantic=ids)["semantic"].tolist() == [255, 3]
  with pytest.raises(ValueError, match="from -128 to 127"):
    run("ignore(-1)", semantic=ids.astype(np.int8))


@pytest.mark.parametrize(
  "op, words",
  [
    ("objects(0)", "max must be at least 1"),
    ("objects(2,key='boxes')", "'boxes' is a result"),
    ("objects(2,('a','b'))", r"several labels need as many numbers of values"),
    ("objects(2,('a','b'),sizes=(3,0))", r"sizes=\(3, 0\)"),
    ("map_labels('ade20k')", r"\['cityscapes'\]"),
    ("map_labels({})", "whole numbers"),
    ("map_labels({1: 'a'})", "whole numbers"),
    ("map_labels({1: True})", "whole numbers"),
    ("ignore()", "at least one id"),
    ("ignore(0.5)", "cannot be 0.5"),
    ("ignore(0,label=-1)", "not be negative"),
  ],
)
def test_impossible_arguments_are_found_before_any_data(op, words):
  with pytest.raises(ValueError, match=words):
    data.parse(op)


@pytest.mark.parametrize("op", ["ignore(0)", "map_labels({0: 1})"])
def test_what_has_no_ids_is_named(op):
  with pytest.raises(ValueError, match=r"put decode\(masks=\('semantic',\)\)"):
    run(op, semantic=b"png")
  with pytest.raises(ValueError, match="float64, and ids are whole"):
    run(op, semantic=np.zeros((2, 2)))
  with pytest.raises(ValueError, match="no 'semantic'; it has"):
    run(op, mask=np.zeros((2, 2)))
