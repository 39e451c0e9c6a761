"""A trained model: opened from its run, and from one file."""

import json
import shutil

import chex
import numpy as np
import pytest
import safetensors.numpy

from tests.inference.conftest import ACCURACIES, NAMES
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import trained as trained_lib


def test_a_run_tells_all(parts, run):
  trained = trained_lib.load(run)
  assert trained.pp == parts.config["evals"]["test"]["data"]["pp"]
  assert trained.image_shape == (12, 12, 3)
  assert trained.class_names == tuple(NAMES)
  assert trained.loss == "softmax_xent"
  assert trained.settings == parts.dials.settings
  for setting, accuracy in zip(trained.settings, ACCURACIES, strict=True):
    assert trained.row(setting)["accuracy"] == accuracy
  assert trained.row(dials.Setting((4, 4), 2)) is None
  assert trained.model == parts.task.model


def test_a_file_keeps_all(run, tmp_path):
  trained = trained_lib.load(run)
  path = tmp_path / "model.safetensors"
  trained.save(path)
  for source in (path, tmp_path):
    again = trained_lib.load(source)
    assert again.describe() == trained.describe()
    chex.assert_trees_all_equal(again.params, trained.params)


def _copied(run, folder):
  """All of the run but its report."""
  for name in ("config.json", "about_data.json"):
    shutil.copy(run / name, folder)
  (folder / "checkpoints").symlink_to(run / "checkpoints")


def _changed(run, folder, pp):
  _copied(run, folder)
  config = json.loads((run / "config.json").read_text())
  config["evals"]["test"]["data"]["pp"] = pp
  config["task"]["loss"] = "sigmoid_xent"
  (folder / "config.json").write_text(json.dumps(config))
  return trained_lib.load(folder)


def test_images_and_loss_are_those_of_the_run(run, tmp_path):
  """Its evaluation may be at another resolution than its training."""
  pp = "decode|resize(24)|value_range|keep('image')"
  with pytest.warns(UserWarning, match="has no report, so it has not ended"):
    trained = _changed(run, tmp_path, pp)
  assert trained.loss == "sigmoid_xent"
  assert trained.image_shape == (24, 24, 3)
  assert trained.recorded == ()  # No report yet.


def test_preprocessing_and_size_are_those_of_the_accuracies(run, tmp_path):
  """Of several evaluations the one that the report's settings are of."""
  _copied(run, tmp_path)
  config = json.loads((run / "config.json").read_text())
  test = config["evals"].pop("test")
  other = dict(name="other", split="test", pp="decode|keep('image')")
  config["evals"] = {"a": dict(type="distance", data=other), "z": test}
  (tmp_path / "config.json").write_text(json.dumps(config))
  report = json.loads((run / "report.json").read_text())
  # Its images have another size than those of the training, as they come.
  report |= dict(evaluation="z", image_shape=[24, 18, 3])
  (tmp_path / "report.json").write_text(json.dumps(report))
  trained = trained_lib.load(tmp_path)
  assert trained.pp == test["data"]["pp"]
  assert trained.image_shape == (24, 18, 3)
  assert trained.training["evaluation"].startswith("fake:12x12x3")


def test_a_damaged_report_is_named(run, tmp_path):
  _copied(run, tmp_path)
  (tmp_path / "report.json").write_text('{"settings": [')
  with pytest.raises(ValueError, match=r"report\.json is damaged.*--mode=eval"):
    trained_lib.load(tmp_path)


def test_a_file_of_something_else_is_refused(run, tmp_path):
  path = tmp_path / "weights.safetensors"
  safetensors.numpy.save_file({"x": np.zeros(3)}, path)
  with pytest.raises(ValueError, match="weights alone"):
    trained_lib.load(path)
  path.write_bytes(b"nothing of the kind")
  with pytest.raises(ValueError, match="damaged or no safetensors"):
    trained_lib.load(path)


def test_a_run_without_an_evaluation_is_refused(run, tmp_path):
  config = json.loads((run / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps({**config, "evals": {}}))
  with pytest.raises(ValueError, match="no evaluation"):
    trained_lib.load(tmp_path)
