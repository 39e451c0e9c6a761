"""A trained model: opened from its run, and from one file."""

import json
import pathlib
import shutil
import sys
import types
import warnings

import chex
import numpy as np
import pytest
import safetensors.numpy

from tests.inference.conftest import ACCURACIES, NAMES
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import runs
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
  # Each is built once.
  assert trained.model is trained.model is trained.task.model
  assert trained.task is trained.task


def test_accuracies_of_older_weights_are_told(run, tmp_path):
  _copied(run, tmp_path)
  report = json.loads((run / "report.json").read_text())
  for steps, told in ((0, False), (7, True)):
    report["train"] = {"steps": steps, "seconds": 1.0}
    (tmp_path / "report.json").write_text(json.dumps(report))
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always")
      trained_lib.load(tmp_path)
    texts = [str(warning.message) for warning in caught]
    assert any("is of step 7, but the newest" in t for t in texts) == told


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
  with pytest.raises(ValueError, match=r"no safetensors.*the workdir of a run"):
    trained_lib.load(path)
  with pytest.raises(ValueError, match=r"weights alone.*transfer\.py"):
    trained_lib.load("FlexiViT-B i1k")


def test_a_file_is_saved_in_the_home_folder_whole_or_not_at_all(
  predictor, tmp_path, monkeypatch
):
  monkeypatch.setenv("HOME", str(tmp_path))
  predictor.trained.save("~/a.safetensors")
  assert trained_lib.load("~/a.safetensors").pp == predictor.trained.pp
  before = (tmp_path / "a.safetensors").read_bytes()

  def full(path, content):
    path.open("wb").close()
    raise OSError("No space left on device")

  monkeypatch.setattr(pathlib.Path, "write_bytes", full)
  with pytest.raises(OSError, match="No space"):
    predictor.trained.save("~/a.safetensors")
  assert (tmp_path / "a.safetensors").read_bytes() == before
  assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_run_without_an_evaluation_is_refused(run, tmp_path):
  config = json.loads((run / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps({**config, "evals": {}}))
  with pytest.raises(ValueError, match="no evaluation"):
    trained_lib.load(tmp_path)


def _reported(run, folder, report, evals=None):
  """A copy of the run with a report, and perhaps other evaluations."""
  _copied(run, folder)
  config = json.loads((run / "config.json").read_text())
  if evals is not None:
    config["evals"] = evals
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "report.json").write_text(json.dumps(report))
  return trained_lib.load(folder)


def _row(size, **metrics):
  return {"patch_size": size, "num_tokens": None, "images_per_s": 1.0} | metrics


OTHER = dict(name="ood", split="all", pp="decode|resize(12)|keep('image')")


@pytest.mark.parametrize(
  "entry, metrics, headline, split",
  [
    (dict(data=OTHER), dict(accuracy=0.5, loss=1.0), "accuracy", "all"),
    (dict(type="multilabel", data=OTHER), dict(mAP=0.5), "mAP", "all"),
    (dict(type="distance", data=OTHER), dict(agree1=0.5), "agree1", "all"),
    (
      dict(type="ensemble", data=OTHER),
      {"accuracy": 0.5, "few/10shot": 0.9},
      "accuracy",
      "all",
    ),
    (
      dict(
        type="fewshot",
        data=dict(name="ood", pp=OTHER["pp"]),
        test_split="validation",
      ),
      {"5shot": 0.4, "10shot": 0.5, "10shot_tuned": 0.6, "10shot_std": 0.1},
      "10shot",
      "validation",
    ),
  ],
)
@pytest.mark.parametrize("names_it", [True, False])
def test_the_evaluation_may_be_of_another_config(
  run, tmp_path, entry, metrics, headline, split, names_it
):
  """Of any type; reports of older versions do not name their metric."""
  report = {
    "evaluation": "ood",
    "image_shape": [12, 12, 3],
    "settings": [_row(6, **metrics), _row(4, **metrics)],
    "config": {"evals": {"a": dict(data=dict(OTHER, pp="no")), "ood": entry}},
    "num_examples": 15,
  }
  if names_it:
    report["headline"] = headline
  trained = _reported(run, tmp_path, report)
  assert trained.pp == OTHER["pp"]
  assert trained.headline == headline
  assert trained.metric(dials.Setting((4, 4))) == 0.5
  assert trained.training["evaluation"] == f"ood, {split}"
  assert trained.training["num_examples"] == 15
  trained.save(tmp_path / "model.safetensors")
  assert trained_lib.load(tmp_path).describe() == trained.describe()


def test_reports_without_a_config_of_their_own(run, tmp_path):
  """The run's evaluation counts where the report's name is unknown."""
  report = {"evaluation": "gone", "settings": [_row(6, accuracy=0.5)]}
  trained = _reported(run, tmp_path, report)
  assert trained.training["evaluation"] == "fake:12x12x3:5:21, test"


def test_few_shots_alone_tell_how_to_preprocess(run, tmp_path):
  """Also before the end of the run, when there is no report."""
  few = dict(type="fewshot", data=dict(name="few", pp=OTHER["pp"]))
  _copied(run, tmp_path)
  config = json.loads((run / "config.json").read_text())
  config["evals"] = {"few": few}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.warns(UserWarning, match="no report"):
    trained = trained_lib.load(tmp_path)
  assert trained.pp == OTHER["pp"]
  assert trained.training["evaluation"] == "few, test"
  opened = runs.open_run(tmp_path, "image")
  assert opened.data == {**few["data"], "split": "test"}
  # Data with a split come first, and evaluations of a report last.
  evals = {"few": few, "test": dict(data=OTHER)}
  assert runs.test_data({"evals": evals}) == OTHER
  # Of these another split of what is trained on, before another dataset.
  val = {**OTHER, "split": "validation"}
  minival = {**OTHER, "split": "train[90%:]"}
  several = {
    "a": dict(data={**OTHER, "name": "other"}),
    "b": dict(data=minival),
    "c": dict(data=val),
  }
  about = {"data": {**OTHER, "split": "train[:90%]"}, "evals": several}
  assert runs.test_data(about) == val
  del several["c"]
  assert runs.test_data(about) == minival
  config["evals"] = {}
  (tmp_path / "config.json").write_text(json.dumps(config))
  report = dict(evaluation="few", settings=[], config={"evals": evals})
  (tmp_path / "report.json").write_text(json.dumps(report))
  assert runs.open_run(tmp_path, "image").data == OTHER
  assert trained_lib.load(tmp_path).pp == few["data"]["pp"]


def test_all_learned_tokens_have_one_name(run, tmp_path):
  """None in the training, their number in the evaluation."""
  _copied(run, tmp_path)
  config = json.loads((run / "config.json").read_text())
  config["flexi"] = {"patch_size": {"values": [6, 3]}}
  (tmp_path / "config.json").write_text(json.dumps(config))
  rows = [_row(6) | {"num_tokens": n, "accuracy": 0.5} for n in (3, 2, "all")]
  (tmp_path / "report.json").write_text(json.dumps({"settings": rows}))
  trained = trained_lib.load(tmp_path)
  assert trained.known_settings == (
    dials.Setting((6, 6)),
    dials.Setting((6, 6), 2),
    dials.Setting((6, 6), "all"),
    dials.Setting((3, 3)),
  )


def test_what_a_hub_publishes_is_loaded(run, tmp_path, monkeypatch):
  trained = trained_lib.load(run)
  trained.save(tmp_path / "model.safetensors")
  hub = types.ModuleType("huggingface_hub")
  hub.list_repo_files = lambda repo, revision: [
    "README.md",
    "config.json",
    "model.safetensors",
  ]
  asked = []

  def download(repo, file, revision):
    asked.append((repo, file, revision))
    return str(tmp_path / file)

  hub.hf_hub_download = download
  monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
  again = trained_lib.load("hf://ann/flowers@main")
  files = ("config.json", "model.safetensors")
  assert asked == [("ann/flowers", file, "main") for file in files]
  assert again.describe() == trained.describe()
  address = (tmp_path / "model.safetensors").as_uri()
  monkeypatch.setenv("TLFV_CACHE", str(tmp_path / "cache"))
  assert trained_lib.load(address).describe() == trained.describe()


def test_what_cannot_be_loaded_is_named_by_its_argument(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  with pytest.raises(ValueError, match="s3:// is unknown"):
    trained_lib.load("s3://bucket/run")
  with pytest.raises(ValueError, match="source='' is no path"):
    trained_lib.load("")
  with pytest.raises(FileNotFoundError, match=f"{tmp_path}/run"):
    trained_lib.load("~/run")
  (tmp_path / "run").mkdir()
  with pytest.raises(ValueError, match="no run and no exported model"):
    trained_lib.load("~/run")
