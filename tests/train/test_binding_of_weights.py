"""Tests that a workdir remembers weights to start from, and their images."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from tests.train.test_binding import ABOUT, complete
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import train
from tokenlearner_flexivit.run import checksums
from tokenlearner_flexivit.train import binding, setup, weight_digests


def test_weights_to_start_from_and_training_data_are_needed_once(
  config, untrained_run, tmp_path, capsys
):
  """Not to continue, nor to evaluate."""
  shutil.copytree(untrained_run, tmp_path / "before")
  config.init = str(tmp_path / "before")
  config.total_steps = 1
  config.optimizer.schedule.warmup_steps = 0
  config.flexi.patch_size.values = (4,)
  workdir = tmp_path / "run"
  _, history = train.train_and_evaluate(config, workdir)
  shutil.rmtree(tmp_path / "before")
  capsys.readouterr()
  _, again = train.train_and_evaluate(config, workdir)
  assert again == history
  assert "All training of this run is done: 1 step." in capsys.readouterr().out

  original = data_lib.open_source

  def without_training_data(section, *where):
    assert section["split"] != "train"
    return original(section, *where)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data_lib, "open_source", without_training_data)
    results = train.evaluate(None, workdir)
  accuracy = history[-1]["test/patch4/accuracy"]
  assert results["test"]["patch4/accuracy"] == accuracy


def test_weights_may_move_and_must_not_change(untrained_run, tmp_path, capsys):
  """Those of a run, and those of a file with what is told beside it."""
  run, file = tmp_path / "teacher", tmp_path / "weights" / "model.npz"
  shutil.copytree(untrained_run, run)
  file.parent.mkdir()
  file.write_bytes(b"weights")
  (file.parent / "config.json").write_text("{}")
  workdir = tmp_path / "run"
  (workdir / "checkpoints" / "2").mkdir(parents=True)

  def arguments(run, file, begins=False):
    teachers = {"prof": {"init": str(run)}}
    config = complete(
      init=str(file), task=dict(name="distillation", teachers=teachers)
    )
    weights = weight_digests.of_config(config, begins=begins)
    return workdir, config, {**ABOUT, "weights": weights}

  before = arguments(run, file, begins=True)
  binding.bind_workdir(*before)
  moved_run = shutil.copytree(run, tmp_path / "moved")
  moved_file = shutil.copytree(file.parent, tmp_path / "other") / "model.npz"
  moved = arguments(moved_run, moved_file)
  binding.check_model(workdir, before[1], moved[1], before[2]["weights"])
  binding.claim_workdir(*moved)
  said = capsys.readouterr().out
  assert "Changed since the last start: config.task.teachers.prof.init" in said
  assert said.count("It is the same file or run.") == 1
  assert "Not read again after the first checkpoint: config.init: " in said
  kept = json.loads((workdir / "config.json").read_text())
  assert kept["init"] == str(file)
  kept = json.loads((workdir / "about_data.json").read_text())
  assert kept["weights"] == before[2]["weights"]

  # What the run started from, it needs no more; what it learns from, it does.
  moved_file.unlink()
  binding.claim_workdir(*arguments(moved_run, moved_file))
  shutil.copy(run / "config.json", moved_run / "checkpoints" / "0" / "state")
  checksums.write(moved_run / "checkpoints" / "0")
  with pytest.raises(ValueError, match=r"digest of config\.task\.teachers"):
    binding.claim_workdir(*arguments(moved_run, moved_file))
  # An evaluation that asks them refuses others at their place, too.
  changed = arguments(moved_run, moved_file)[1]
  check = workdir, moved[1], changed, moved[2]["weights"]
  binding.check_model(*check)
  changed["evals"]["agree"] = {"type": "distance", "teachers": {"a": {}}}
  binding.check_model(*check)
  for kind in ("distance", "similarity"):
    changed["evals"]["agree"] = {"type": kind}
    with pytest.raises(ValueError, match="learned from other teachers"):
      binding.check_model(*check)
  other = arguments(tmp_path / "nothing", moved_file)
  with pytest.raises(ValueError, match=r"prof\.init: .*moved' -> .*nothing"):
    binding.claim_workdir(*other)
  with pytest.raises(ValueError, match=r"prof\.init: .*moved' -> .*nothing"):
    binding.check_model(workdir, moved[1], other[1], moved[2]["weights"])


def test_weights_of_images_of_other_values_are_told(config, tmp_path, capsys):
  """Of a run that standardized its images, unlike the one that begins."""
  run = {"model_type": "vit"}  # The config.json of another library.
  (tmp_path / "config.json").write_text(json.dumps(run))
  config.init = str(tmp_path)
  setup.Experiment(config)
  data = {"pp": "decode|value_range(0,1)|resize(12)"}
  run = {"model": config.model.to_dict(), "data": data, "evals": {}}
  (tmp_path / "checkpoints" / "2" / "state").mkdir(parents=True)
  safetensors.numpy.save_file(
    {"params/x": np.zeros(1)},
    tmp_path / "checkpoints" / "2" / "state" / "state.safetensors",
  )
  (tmp_path / "config.json").write_text(json.dumps(run))
  setup.Experiment(config)
  said = capsys.readouterr().out
  assert "config.init" in said and "minus [0.0], divided by [1.0]" in said
  run["data"]["pp"] = config.data.pp
  (tmp_path / "config.json").write_text(json.dumps(run))
  setup.Experiment(config)
  assert "WARNING" not in capsys.readouterr().out


def test_evaluations_on_images_of_other_values_are_told(config, capsys):
  config.evals.test.data.pp = "decode|value_range(0,1)|keep('image','label')"
  setup.Experiment(config)
  said = capsys.readouterr().out
  assert "WARNING: images of config.evals.test.data.pp are in [0, 1]" in said
  assert "minus [0.0], divided by [1.0], but those of config.data.pp" in said
