"""Evaluations whose classes are numbered otherwise are refused."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data import class_names
from tokenlearner_flexivit.data.sources import fake
from tokenlearner_flexivit.train import setup

TRAINED = ["ant", "bee", "cat"]
WHERE = "config.evals.x.data"


@pytest.mark.parametrize("names", [TRAINED, ("ant", "bee"), ["ant"]])
def test_the_same_classes_or_the_first_of_them(names):
  class_names.check_same(
    names, TRAINED, "config.evals.x.data", "the training data"
  )


@pytest.mark.parametrize(
  "names, message",
  [
    (["bee", "cat"], "class 0 is 'bee' here and 'ant' there, of 2 .* and 3"),
    (["ant", "cat", "bee"], "class 1 is 'cat' .*in another order"),
    (["ant", "bee", "dog"], "class 2 is 'dog' here and 'cat' there"),
    ([*TRAINED, "dog"], "class 3 is 'dog' here and missing there, of 4 .* 3"),
  ],
)
def test_other_classes(names, message):
  with pytest.raises(ValueError, match=rf"x\.data has other .*{message}"):
    class_names.check_same(
      names, TRAINED, "config.evals.x.data", "the training"
    )


class Named(data_lib.Source):
  """Noise with names of classes, and a second label."""

  def __init__(self, names, count=5):
    self.name = "named"
    self.num_classes, self.class_names = count, names
    self.value_names = {"kind": ["red", "blue"]}
    self._images = fake.FakeSource(f"fake:12x12x3:{count}:21", "test")

  def __len__(self):
    return len(self._images)

  def __getitem__(self, index):
    return {**self._images[index], "kind": np.int32(index % 2)}


FIVE = ["ant", "bee", "cat", "dog", "elk"]


def build(config, monkeypatch, train, test, kind="classification"):
  config.model.token_learner = None
  config.model.depth = 1
  config.evals.test.type = kind
  if kind == "multilabel":
    config.task.loss = "sigmoid_xent"
  if kind == "distance":
    model = dict(variant="mu", patch_size=4, posemb_grid=3)
    config.evals.test.teachers = {"t": dict(model=model)}
  opened = {"train": train, "test": test}
  monkeypatch.setattr(
    data_lib, "open_source", lambda section, *_: opened[section["split"]]
  )
  return setup.Experiment(config)


@pytest.mark.parametrize(
  "kind", ["classification", "ensemble", "multilabel", "distance"]
)
def test_every_evaluator_looks_at_the_names(config, monkeypatch, kind):
  with pytest.raises(ValueError, match=r"test\.data .*'bee' here and 'ant'"):
    build(config, monkeypatch, Named(FIVE), Named(FIVE[1:], 4), kind)


def test_where_only_numbers_are_known(config, monkeypatch):
  said = []
  monkeypatch.setattr(terminal, "say", said.append)
  for train, test in ((FIVE, None), (None, FIVE)):
    build(config, monkeypatch, Named(train), Named(test))
    assert "has 5 classes, the model 5. That they are the same" in said.pop()
  for names in (None, [str(i) for i in range(5)]):
    build(config, monkeypatch, Named(names), Named(None))
    assert not said
  with pytest.raises(ValueError, match=r"data has 6 classes, .* model knows 5"):
    build(config, monkeypatch, Named(FIVE), Named(None, 6))


@pytest.mark.parametrize("names", [["1", "2", "3", "4", "5"], FIVE])
def test_names_that_are_numbers_are_names(config, monkeypatch, names):
  numbers = Named([str(i) for i in range(5)])
  with pytest.raises(ValueError, match=f"class 0 is '{names[0]}' here and '0'"):
    build(config, monkeypatch, numbers, Named(names))
  with pytest.raises(ValueError, match=f"class 0 is '0' here and '{names[0]}'"):
    build(config, monkeypatch, Named(names), numbers)


NUMBERS = [str(i) for i in range(11)]


@pytest.mark.parametrize(
  ("classes", "expected", "both"),
  [
    ((2, None), (4, ["0", "1", "10", "2"]), None),
    ((11, None), (2, ["0", "10"]), (NUMBERS, ["0", "10"])),
    ((3, ["0", "1", "10"]), (11, None), (["0", "1", "10"], NUMBERS)),
    ((None, None), (2, ["0", "1"]), None),
    ((2, ["0", "1"]), (2, ["ant", "bee"]), (["0", "1"], ["ant", "bee"])),
    ((1, ["bee"]), (1, ["ant"]), (["bee"], ["ant"])),
    ((1, None), (1, ["ant"]), None),
    ((1, None), (1, None), None),
  ],
)
def test_numbers_compare_with_the_same_numbers(classes, expected, both):
  assert class_names.comparable(classes, expected) == both


def test_tfds_has_no_names_where_it_calls_classes_by_their_numbers():
  source = data_lib.open_source(dict(name="digits", split="test"), "data")
  assert source.classes() == (10, None)


def test_folders_of_numbers_are_in_the_order_of_texts(config, monkeypatch):
  texts = ["0", "1", "10", "2", "3"]
  numbers = [str(i) for i in range(4)]
  with pytest.raises(ValueError, match="class 2 is '2' here and '10' there"):
    build(config, monkeypatch, Named(texts), Named(numbers, 4))


def test_a_label_of_another_entry_has_its_names(config, monkeypatch):
  copied = f"copy('kind','label')|{config.data.pp}"
  source = Named(FIVE)
  assert data_lib.classes(config.data, source) == (5, FIVE)
  assert data_lib.classes({"pp": copied}, source) == (2, ["red", "blue"])
  config.data.pp = copied
  with pytest.raises(ValueError, match="class 0 is 'ant' here and 'red' there"):
    build(config, monkeypatch, source, source)
  config.evals.test.data.pp = copied
  parts = build(config, monkeypatch, source, source)
  assert parts.about_data["class_names"] == ["red", "blue"]
  assert parts.task.num_classes == 2  # Not the five of the other label.


def test_copies_are_followed_from_the_last_to_the_first():
  pp = "copy('a','b')|onehot(3,'a')|copy('b','label')|copy('c','a')"
  source = Named(FIVE)
  source.value_names = {"a": ["x"], "c": ["y"]}
  assert data_lib.classes({"pp": pp}, source) == (1, ["x"])
  source.value_names = {}
  assert data_lib.classes({"pp": pp}, source) == (None, None)
  with pytest.raises(ValueError, match=r"data\.pp: .*Unknown op 'decod'"):
    data_lib.classes({"pp": "decod"}, source)


def test_folders_whose_names_differ(config, tmp_path):
  for path in ("one/ant", "one/bee", "two/bee", "two/cat"):
    folder = tmp_path / path
    folder.mkdir(parents=True)
    for i in range(8):
      cv2.imwrite(str(folder / f"{i}.png"), np.full((12, 12, 3), i, np.uint8))
  config.data.name = f"folder:{tmp_path / 'one'}"
  data = dict(name=f"folder:{tmp_path / 'two'}", split="train")
  config.evals.test.data.update(data)
  with pytest.raises(ValueError, match="class 0 is 'bee' here and 'ant' there"):
    setup.Experiment(config)


def test_a_teacher_that_numbers_classes_otherwise(
  config, monkeypatch, untrained_run, tmp_path
):
  teacher = tmp_path / "teacher"
  shutil.copytree(untrained_run, teacher)
  about = json.loads((teacher / "about_data.json").read_text())
  about["class_names"] = [*FIVE[1:], FIVE[0]]
  (teacher / "about_data.json").write_text(json.dumps(about))
  teachers = {"prof": dict(init=str(teacher))}
  config.task = dict(name="distillation", teachers=teachers)
  message = r"teachers.prof has other classes .*'bee' here and 'ant' there"
  with pytest.raises(ValueError, match=rf"config\.task\.{message}"):
    build(config, monkeypatch, Named(FIVE), Named(FIVE))
  config.task = dict(name="classification")
  config.evals.test.update(type="distance", teachers=teachers)
  source = Named(FIVE)
  monkeypatch.setattr(data_lib, "open_source", lambda *_: source)
  with pytest.raises(ValueError, match=rf"config\.evals\.test\.{message}"):
    setup.Experiment(config)
