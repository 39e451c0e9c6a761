"""The classes of labels that a preprocessing copies and numbers anew."""

import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data import mask_classes

NAMES = {
  "semantic": ["none", "sky", "tree", "road"],
  "mask": list(mask_classes.CITYSCAPES_LABEL_IDS),
  "objects/shape": ["disc", "star"],
  "label": ["day", "night"],
}


class Named(data.Source):
  """A source that knows names alone."""

  value_names = NAMES

  def __len__(self):
    return 1

  def __getitem__(self, index):
    raise NotImplementedError


class Unnamed(Named):
  """A source that knows numbers alone."""

  def classes(self, key="label"):
    return len(NAMES[key]), None


@pytest.mark.parametrize(
  "ops, key, names",
  [
    ("flip_lr", "semantic", ["none", "sky", "tree", "road"]),
    ("ignore(reduce_zero=True)", "semantic", ["sky", "tree", "road"]),
    ("ignore(2)", "semantic", ["none", "sky", "tree", "road"]),
    (
      "map_labels({0: 255, 1: 1, 2: 0, 3: 0})",
      "semantic",
      ["tree/road", "sky"],
    ),
    ("map_labels({1: 0}, other=1)", "semantic", ["sky", "none/tree/road"]),
    (
      "ignore(reduce_zero=True)|map_labels({0: 0, 2: 1}, other=255)",
      "semantic",
      ["sky", "road"],
    ),
    (
      "copy('mask', 'semantic')|map_labels('cityscapes')",
      "semantic",
      list(mask_classes.CITYSCAPES_TRAIN_IDS),
    ),
    ("map_labels('cityscapes', key='mask')", "semantic", NAMES["semantic"]),
    ("objects(4, 'shape')", "box_label", ["disc", "star"]),
    (
      "objects(4, ('shape', 'shape'), sizes=(2, 2))",
      "box_label",
      ["disc disc", "disc star", "star disc", "star star"],
    ),
    ("map_labels({0: 1, 1: 0}, key='label')", "label", ["night", "day"]),
    (
      "copy('objects/shape','x')|map_labels({0: 1, 1: 0},key='x')"
      "|multihot({'x': 2, 'label': 2, 'semantic': 3})|flip_lr",
      "label",
      ["x star", "x disc", "label day", "label night"]
      + [f"semantic {i}" for i in range(3)],  # Four have names.
    ),
  ],
)
def test_names_follow_the_numbers(ops, key, names):
  config = {"pp": ops}
  found = data.classes(config, Named(), key=key)
  assert (found[0], list(found[1])) == (len(names), names)
  assert data.classes(config, Unnamed(), key=key) == (len(names), None)


def test_numbers_that_a_source_does_not_know():
  # Colours of a legend, and 255 as a class.
  for mapping in ({5000: 0, 70000: 1}, {0: 0, 255: 1}):
    config = {"pp": f"map_labels({mapping}, key='x')"}
    assert data.classes(config, Named(), key="x") == (2, None)
  config = {"pp": "map_labels({0: 0, 255: 1}, other=255)"}
  assert data.classes(config, Named(), key="semantic") == (2, None)


def test_train_ids_are_not_mapped_to_train_ids():
  source = Named()
  source.value_names = {"semantic": list(mask_classes.CITYSCAPES_TRAIN_IDS)}
  config = {"pp": "map_labels('cityscapes', other=255)"}
  with pytest.raises(ValueError, match=r"c.pp: map_labels.* trainIds already"):
    data.classes(config, source, "c", key="semantic")


def test_cityscapes_has_19_classes():
  to = mask_classes.CITYSCAPES_TO_TRAIN_IDS
  assert sorted(v for v in to.values() if v != 255) == list(range(19))
  for name, number in (("road", 7), ("train", 31), ("bicycle", 33)):
    assert mask_classes.CITYSCAPES_LABEL_IDS[number] == name
    assert mask_classes.CITYSCAPES_TRAIN_IDS[to[number]] == name
