"""Classifiers of other libraries, used with what their configs tell."""

import json

import numpy as np
import pytest
import safetensors.numpy

from tests import tiny
from tests.vectors import assert_close
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.inference import Predictor, runs

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def folder(tmp_path):
  """Returns a function that writes a folder of timm's, by arguments."""

  def write(**overrides):
    model = models.ViT.from_variant(
      "mu/4",
      **dict(num_classes=3, pool="tok", gelu="erf", posemb_grid=3) | overrides,
    )
    params = tiny.init(model, np.zeros((1, 12, 12, 3)))
    interop.save_params(
      params,
      tmp_path / "timm",
      "timm",
      model=model,
      input_mean=MEAN,
      input_std=STD,
    )
    path = tmp_path / "timm" / "model.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)
    config = json.loads(path.with_name("config.json").read_text())
    config |= dict(label_names=["ant", "bee", "cat"])
    config["pretrained_cfg"] |= dict(crop_pct=0.75)
    path.with_name("config.json").write_text(json.dumps(config))
    return path.parent, model, params

  return write


def test_a_predictor_prepares_images_as_the_config_tells(folder):
  path, model, params = folder()
  predictor = Predictor.load(path)
  assert predictor.trained.pp.startswith("decode|resize_small(16,'area')|cent")
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  (prediction,) = predictor.predict([image], top_k=3)
  assert {label.name for label in prediction.labels} == {"ant", "bee", "cat"}
  x = (image[2:-2, 2:-2] / 255 - np.array(MEAN)) / np.array(STD)
  logits, _ = tiny.apply(model, params, np.float32(x[None]))
  likely = np.exp(logits[0]) / np.exp(logits[0]).sum()
  shares = {label.index: label.probability for label in prediction.labels}
  assert_close(np.array([shares[i] for i in range(3)]), likely, 1e-5)


def test_weights_without_a_head_are_no_predictor(folder):
  path, _, _ = folder(num_classes=None)
  with pytest.raises(ValueError, match=r"weights alone.*configs that tell"):
    Predictor.load(path)


def test_analyses_prepare_images_so_too(folder, capsys):
  path, _, _ = folder()
  pp = runs.open_weights(path).data["pp"]
  assert "resize_small(16,'area')|central_crop((12, 12))" in pp
  assert "value_range(-1,1)" in pp and "standardize" not in pp
  assert "absorbed mean=(0.4, 0.5, 0.6)" in capsys.readouterr().out
