"""A model of twenty lines is trained, evaluated, reported, used, exported."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from tokenlearner_flexivit import inference, models, train
from tokenlearner_flexivit.inference import export
from tokenlearner_flexivit.models import protocol

# Six steps of three pixels along each side; the last one sticks out by one.
TAPS = (6 * 3 - 1) ** 2 * 3


class SmallCNN(protocol.Model):
  num_classes: int | None = None
  width: int = 8

  @nn.compact
  def __call__(self, images, *, train=False):
    x = nn.Conv(self.width, (3, 3), strides=2, name="conv")(images)
    x = nn.relu(x).mean(axis=(1, 2))
    return nn.Dense(self.num_classes, name="head")(x), {"pre_logits": x}


@pytest.fixture
def run(config, monkeypatch, tmp_path):
  monkeypatch.setitem(models.MODELS, "small_cnn", SmallCNN)
  config.model = dict(name="small_cnn", width=6)
  config.flexi = None
  train.train_and_evaluate(config, tmp_path / "run")
  return tmp_path / "run"


def test_it_is_trained_evaluated_and_reported(run):
  report = json.loads((run / "report.json").read_text())
  (row,) = report["settings"]
  assert row["patch_size"] is row["num_tokens"] is row["seq_len"] is None
  assert 0 <= row["accuracy"] <= 1
  # Products of the kernel with pixels, of the head; and what is no product.
  products = 6 * TAPS + 6 * 5
  assert products < row["gmacs"] * 1e9 < 1.2 * products
  text = (run / "report.md").read_text()
  assert "accuracy %" in text and "patch size" not in text


def test_it_is_used_and_exported(run, tmp_path):
  predictor = inference.Predictor.load(run)
  images = np.zeros((2, 12, 12, 3), np.uint8)
  answers = predictor.predict(images)
  assert [len(answer.labels) for answer in answers] == [5, 5]
  export.write(predictor.trained, tmp_path / "export")
  again = inference.Predictor.load(tmp_path / "export").predict(images)
  assert again == answers


def test_dials_that_it_lacks_are_refused(config, monkeypatch, tmp_path):
  monkeypatch.setitem(models.MODELS, "small_cnn", SmallCNN)
  config.model = dict(name="small_cnn")
  with pytest.raises(ValueError, match="SmallCNN has no dial patch_size"):
    train.train_and_evaluate(config, tmp_path)


def test_errors_of_its_construction():
  with pytest.raises(ValueError, match="no variants, got 'B'"):
    SmallCNN.from_variant("B")
  with pytest.raises(ValueError, match="widht"):
    SmallCNN.from_variant(widht=3)


def test_its_cost_is_counted():
  model = SmallCNN(num_classes=5)
  assert 8 * TAPS < model.cost((12, 12, 3)) < 1.2 * 8 * TAPS
  assert model.cost((24, 24, 3)) > 3 * model.cost((12, 12, 3))
  assert jax.tree.leaves(model.check((12, 12))) == []


@pytest.mark.parametrize(
  "cls, variant, arguments, shape",
  [
    (models.ViT, "mu/16", dict(pool="tok"), (1, 32, 32, 3)),
    (models.TextTransformer, "mu", dict(vocab_size=5, max_len=4), (1, 4)),
    (SmallCNN, None, dict(num_classes=2), (1, 8, 8, 3)),
  ],
)
def test_a_model_has_a_name_in_another_module(cls, variant, arguments, shape):
  class Mine(nn.Module):
    @nn.compact
    def __call__(self, x):
      return cls.from_variant(variant, name="backbone", **arguments)(x)[0]

  dtype = np.int32 if len(shape) == 2 else np.float32
  images = jax.ShapeDtypeStruct(shape, dtype)
  shapes = jax.eval_shape(Mine().init, jax.random.key(0), images)
  assert set(shapes["params"]) == {"backbone"}
