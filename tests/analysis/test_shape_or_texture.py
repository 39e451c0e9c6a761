"""Shape or texture: what is known beforehand is measured."""

import json

import numpy as np
import pytest
from flax import linen as nn

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.analysis import shape_or_texture
from tokenlearner_flexivit.models import protocol

RNG = np.random.default_rng(0)
SHAPE, TEXTURE = RNG.integers(5, size=2000), RNG.integers(12, size=2000)


def test_information_of_answers():
  information = shape_or_texture.information
  assert information(TEXTURE, TEXTURE) == pytest.approx(1)
  # Whatever the classes are called.
  assert information(7 * TEXTURE + 3, TEXTURE) == pytest.approx(1)
  # Independent labels: an answer by one tells nothing of the other.
  assert abs(information(TEXTURE, SHAPE)) < 0.01
  assert information(np.zeros(2000, int), SHAPE) == pytest.approx(0)
  # Six groups of two of the twelve: 1 - log 2 / log 12 of the entropy.
  expected = 1 - np.log(2) / np.log(12)
  assert information(TEXTURE // 2, TEXTURE) == pytest.approx(expected, abs=0.01)
  with pytest.raises(ValueError, match="same label"):
    information(TEXTURE, np.zeros(2000, int))


def test_information_of_few_answers_is_not_too_much():
  few = [
    shape_or_texture.information(RNG.integers(12, size=40), SHAPE[i : i + 40])
    for i in range(0, 2000, 40)
  ]
  assert abs(np.mean(few)) < 0.03


def test_a_probe_finds_what_is_there():
  features = np.eye(12)[TEXTURE] + 0.3 * RNG.normal(size=(2000, 12))
  found = {
    name: shape_or_texture.probe(
      (features[:1000], labels[:1000]), (features[1000:], labels[1000:])
    )
    for name, labels in (("texture", TEXTURE), ("shape", SHAPE))
  }
  assert found["texture"]["accuracy"] > 0.8
  assert found["texture"]["above_chance"] > 0.8
  assert abs(found["shape"]["above_chance"]) < 0.06
  assert found["shape"]["chance"] == pytest.approx(0.2, abs=0.05)
  with pytest.raises(ValueError, match="7 training examples"):
    shape_or_texture.probe((features[:7], SHAPE[:7]), (features, SHAPE))


@pytest.mark.parametrize(
  "named",
  [
    lambda y: y % 2 == 0,
    lambda y: y.astype("f4"),
    lambda y: np.int64(10) ** 15 * y,
    lambda y: (y - 5).astype(np.int8),
  ],
  ids=["bool", "float", "huge", "negative"],
)
def test_classes_may_have_any_numbers(named):
  features = np.eye(12)[TEXTURE[:400]]
  found = [
    shape_or_texture.probe((features[:300], y[:300]), (features, y))
    for y in (TEXTURE[:400], named(TEXTURE[:400]))
  ]
  assert [row["accuracy"] for row in found] == [1, 1]


@pytest.mark.parametrize(
  "labels, words",
  [
    (SHAPE[:40] + 0.5, "size has float64 values such as .*whole number"),
    (np.r_[1.0, np.nan, SHAPE[2:40]], "size has float64 .* nan"),
    (SHAPE[:40].astype(str), "size has <U.* values"),
    (np.arange(40) * 10**12, "size has 40 different values.* allow 10 classes"),
  ],
)
def test_what_are_no_classes_is_told(labels, words):
  x = RNG.normal(size=(40, 2))
  with pytest.raises(ValueError, match=words):
    shape_or_texture.probe((x[:20], labels[:20]), (x[20:], labels[20:]), "size")


@pytest.mark.slow
def test_the_command_draws_a_run(untrained_run, tmp_path):
  picture = tmp_path / "shape_or_texture.png"

  def command(*arguments):
    shape_or_texture.main(
      [
        f"--workdir={untrained_run}",
        f"--output={picture}",
        "--num_images=20",
        "--num_train=20",
        *arguments,
      ]
    )

  command("--labels=label", "--patch_sizes=6,4")
  assert picture.stat().st_size > 10_000
  rows = json.loads(picture.with_suffix(".json").read_text())
  assert [row["name"] for row in rows] == ["patch6", "patch4"]
  assert list(rows[0]["labels"]) == ["label"]
  assert rows[0]["labels"]["label"]["chance"] > 0
  for arguments, words in (
    ([], "no number 'shape'.* have label, id"),
    # Each example has an id of its own.
    (["--labels=id", "--patch_sizes=6"], "id has .* different values"),
    (["--labels=label", "--name=block9"], "name='block9'.*pre_logits"),
    (
      ["--labels=label", "--train_split=train", "--split=train[50%:]"],
      r"train_split='train' and the test split 'train\[50%:\]' share examples",
    ),
    (["--labels=label", "--split=train"], "share examples of fake"),
  ):
    with pytest.raises(SystemExit, match=words):
      command(*arguments)


def test_a_probe_of_examples_class_by_class():
  """As a folder lists them; once the penalty was chosen on unknown classes."""
  rng = np.random.default_rng(0)
  labels, means = rng.integers(0, 10, 1400), rng.normal(size=(10, 200))
  features = 0.6 * means[labels] + 3 * rng.normal(size=(1400, 200))
  first = np.arange(400)
  found = [
    shape_or_texture.probe(
      (features[order], labels[order]), (features[400:], labels[400:])
    )["accuracy"]
    for order in (first, first[np.argsort(labels[:400], kind="stable")])
  ]
  assert min(found) > 0.62


class Corner(protocol.Model):
  """Answers by one pixel, which its representation holds."""

  num_classes: int = 2

  @nn.compact
  def __call__(self, images, patch_size=None, num_tokens=None):
    seen = images[:, 0, 0, :2]
    return seen, {"pre_logits": seen}


def test_examples_without_a_label_count_for_nothing():
  """A label of -1 is no class."""
  rng = np.random.default_rng(0)
  shape = rng.integers(0, 2, 64)
  images = np.zeros((64, 4, 4, 3), np.float32)
  images[np.arange(64), 0, 0, shape] = 1
  some = np.where(np.arange(64) % 4 == 0, -1, shape)
  batches = [{"image": images, "shape": shape, "some": some}]
  (row,) = shape_or_texture.compare(
    Corner(), {}, batches, batches, [dials.Setting((2, 2))], ["shape", "some"]
  )
  for label in ("shape", "some"):
    assert row["labels"][label]["answer"] == pytest.approx(1)
    assert row["labels"][label]["accuracy"] == 1
  most = np.bincount(some[some >= 0]).max() / 48
  assert row["labels"]["some"]["chance"] == pytest.approx(most)


@pytest.mark.filterwarnings("error")
def test_the_picture_of_a_model_without_classes():
  labels = {"shape": {"answer": None, "above_chance": 0.5}}
  rows = [{"name": "patch8", "labels": labels}]
  left, right = shape_or_texture.figure(rows).axes
  assert [text.get_text() for text in left.texts] == ["no classes"]
  assert left.get_legend() is None and right.get_legend() is not None
