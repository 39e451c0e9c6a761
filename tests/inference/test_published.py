"""Classifiers of other libraries, used with what their configs tell."""

import json

import numpy as np
import pytest
import safetensors.numpy

from tests import tiny
from tests.vectors import assert_close
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.inference import Predictor, runs
from tokenlearner_flexivit.interop import __main__ as cli
from tokenlearner_flexivit.interop import resize

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def folder(tmp_path):
  """Returns a function that writes a folder of timm's, by arguments."""

  def write(noted=False, **overrides):
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
    if not noted:
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
  assert predictor.trained.pp.startswith(
    "decode|resize_small(16,'pillow_bilinear')"
  )
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  (prediction,) = predictor.predict([image], top_k=3)
  assert {label.name for label in prediction.labels} == {"ant", "bee", "cat"}
  x = (image[2:-2, 2:-2] / 255 - np.array(MEAN)) / np.array(STD)
  logits, _ = tiny.apply(model, params, np.float32(x[None]))
  likely = np.exp(logits[0]) / np.exp(logits[0]).sum()
  shares = {label.index: label.probability for label in prediction.labels}
  assert_close(np.array([shares[i] for i in range(3)]), likely, 1e-5)


def test_classes_that_do_not_exclude_one_another_have_sigmoids(tmp_path):
  """As a config.json of Hugging Face tells."""
  model = models.ViT.from_variant(
    "mu/4", num_classes=3, pool="tok", gelu="erf", posemb_grid=3
  )
  interop.save_params(
    tiny.init(model, np.zeros((1, 12, 12, 3))),
    tmp_path,
    "hugging_face",
    model=model,
    input_mean=0.5,
    input_std=0.5,
  )
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)
  config = json.loads((tmp_path / "config.json").read_text())
  for problem, loss in (
    ("single_label_classification", "softmax_xent"),
    ("multi_label_classification", "sigmoid_xent"),
  ):
    changed = json.dumps(config | {"problem_type": problem})
    (tmp_path / "config.json").write_text(changed)
    assert Predictor.load(tmp_path).trained.loss == loss
  image = np.zeros((12, 12, 3), np.uint8)
  (prediction,) = Predictor.load(tmp_path).predict([image], top_k=3)
  probabilities = [label.probability for label in prediction.labels]
  assert sum(probabilities) != pytest.approx(1)
  assert runs.open_weights(tmp_path).config["task"]["loss"] == "sigmoid_xent"
  names = dict(enumerate(["ant", "bee", "cat"]))
  problem = {"problem_type": "multi_label_classification", "id2label": names}
  (tmp_path / "config.json").write_text(json.dumps(config | problem))
  for format in ("hugging_face", "timm"):
    target = tmp_path / format
    cli.main(["convert", str(tmp_path), str(target), f"--format={format}"])
    trained = Predictor.load(target).trained
    assert trained.class_names == ("ant", "bee", "cat")
    several = trained.loss == "sigmoid_xent"
    assert several == (format == "hugging_face")  # timm's cannot tell.
  changed = json.dumps(config | {"problem_type": "regression"})
  (tmp_path / "config.json").write_text(changed)
  with pytest.raises(ValueError, match="problem_type='regression'"):
    Predictor.load(tmp_path)


def test_a_backbone_says_how_to_use_it(folder):
  path, _, _ = folder(num_classes=None)
  with pytest.raises(ValueError, match=r"without a head.*transfer\.py:init="):
    Predictor.load(path)


def test_a_classifier_of_unknown_images_is_no_predictor(folder):
  path, _, _ = folder()
  config = json.loads((path / "config.json").read_text())
  config["pretrained_cfg"].pop("mean")
  (path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match="no config beside it tells size, mean"):
    Predictor.load(path)


def test_a_folder_that_this_library_wrote_is_a_predictor(folder):
  """Its note on the model, and what the library's config tells beside it."""
  path, _, _ = folder(noted=True)
  trained = Predictor.load(path).trained
  assert trained.class_names == ("ant", "bee", "cat")
  assert trained.image_shape == (12, 12, 3) and trained.pp.count("crop") == 1


def test_positions_of_another_size_are_resized_as_the_library_does(folder):
  """As of DINOv2, whose positions are for 518 px and images have 224 px."""
  path, _, params = folder(posemb_grid=5)
  config = json.loads((path / "config.json").read_text())
  config["pretrained_cfg"]["input_size"] = [3, 12, 12]
  (path / "config.json").write_text(json.dumps(config))
  section = Predictor.load(path).trained.model_section
  assert section["posemb_grid"] == (3, 3)
  run = runs.open_weights(path)
  assert run.model.posemb_grid == (3, 3)
  assert "central_crop((12, 12))" in run.data["pp"]
  embedding = resize.resize_posemb(
    np.asarray(params["pos_embedding"]), (5, 5), (3, 3), "bicubic"
  )
  assert_close(run.params["pos_embedding"], embedding, 1e-6)


def test_analyses_prepare_images_so_too(folder, capsys):
  path, _, _ = folder()
  pp = runs.open_weights(path).data["pp"]
  assert "resize_small(16,'pillow_bilinear')|central_crop((12, 12))" in pp
  assert "value_range(-1,1)" in pp and "standardize" not in pp
  assert "absorbed mean=(0.4, 0.5, 0.6)" in capsys.readouterr().out
