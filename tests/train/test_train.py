"""Whole runs: train, evaluate, report, stop and continue."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import chex
import cv2
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tokenlearner_flexivit import data, report, train
from tokenlearner_flexivit.run import checkpoint as checkpoint_lib
from tokenlearner_flexivit.run import metric_log
from tokenlearner_flexivit.train import setup

ROOT = pathlib.Path(__file__).parents[2]


def losses(history):
  return {r["step"]: r["loss"] for r in history if "loss" in r}


def test_a_run_leaves_everything_it_promises(config, tmp_path, capsys):
  config.evals.test.eval_steps = 2
  config.evals.few = dict(  # Sorted before "test", and yet not the first.
    type="fewshot",
    data=dict(name=config.data.name, pp=config.evals.test.data.pp),
    shots=(1,),
    num_seeds=2,
    patch_sizes=(4,),
  )
  state, history = train.train_and_evaluate(config, tmp_path)
  assert state.step == 4
  assert sorted(losses(history)) == [2, 4]
  assert history == metric_log.read(tmp_path)
  evaluated = [r["step"] for r in history if "test/patch4/accuracy" in r]
  assert evaluated == [2, 4]
  assert list(tmp_path.glob("tensorboard/events.out.tfevents.*"))
  assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 16

  report = json.loads((tmp_path / "report.json").read_text())
  assert [row["patch_size"] for row in report["settings"]] == [6, 4, 3]
  assert [row["seq_len"] for row in report["settings"]] == [4, 9, 16]
  few = {"few/1shot", "few/1shot_std", "few/1shot_tuned"}
  for row in report["settings"]:
    found = {key for key in row if key.startswith("few/")}
    assert found >= few if row["patch_size"] == 4 else not found
    assert set(row) - found == {
      "patch_size",
      "num_tokens",
      "seq_len",
      "gmacs",
      "accuracy",
      "loss",
      "ece",
      "examples",
      "images_per_s",
    }
    assert 0 <= row["accuracy"] <= 1
    assert row["examples"] == 21
    assert row["num_tokens"] is None
    assert row["images_per_s"] > 0
  costs = [row["gmacs"] for row in report["settings"]]
  assert costs == sorted(costs)
  assert report["train"]["steps"] == 4
  assert report["train"]["seconds"] > 0
  for name in "patch_sizes", "token_maps":
    assert cv2.imread(str(tmp_path / f"{name}.png")).shape[0] > 300

  text = (tmp_path / "report.md").read_text()
  printed = capsys.readouterr().out
  for row in report["settings"]:
    assert f"{100 * row['accuracy']:.2f}" in text
  assert re.search(r"Compiled 2/3 in .* s, about \d+ s left", printed)
  assert "test, 21 images" in printed and "1shot %" in printed
  for word in ("img/s", "per device", "ETA", "grad", "setting:times 3:"):
    assert word in printed


def test_both_dials_are_drawn_and_evaluated(config, tmp_path, capsys):
  config.flexi = dict(
    patch_size=dict(values=(6, 4)), num_tokens=dict(values=(3, 1, None))
  )
  _, history = train.train_and_evaluate(config, tmp_path)
  report = json.loads((tmp_path / "report.json").read_text())
  settings = [(r["patch_size"], r["num_tokens"]) for r in report["settings"]]
  assert settings == [(p, n) for p in (6, 4) for n in (3, 1, "all")]
  of_six = [row["gmacs"] for row in report["settings"][:3]]
  assert of_six[1] < of_six[0] < of_six[2]
  assert cv2.imread(str(tmp_path / "plane.png")).shape[0] > 300
  assert not (tmp_path / "patch_sizes.png").exists()
  printed = capsys.readouterr().out
  accuracies = [100 * row["accuracy"] for row in report["settings"]]
  assert "accuracy in %  " in printed and "6 settings" in printed
  for extreme in (min(accuracies), max(accuracies)):
    assert re.search(rf"{extreme:.2f} \([46]_tok(1|3|all)\)", printed)
  assert "| learned |" in printed.replace("  ", "")

  # With the numbers as masks or not, what is evaluated is the same model.
  config.flexi = None
  config.evals.test.patch_sizes = (4,)
  config.evals.test.num_tokens = (1,)
  again = train.evaluate(config, tmp_path)["test"]
  for name, value in again.items():
    assert value == pytest.approx(history[-1][f"test/{name}"], rel=1e-5)


def test_a_start_tells_what_sources_have_checked(config, monkeypatch):
  monkeypatch.setattr(data.Source, "notes", ("the sizes of 8 masks",))
  # Once, of the training and the evaluation.
  lines = setup.Experiment(config).describe_splits()
  assert lines.count("the sizes of 8 masks") == 1


@pytest.mark.parametrize(
  "pool, tokens", [("gap", [4, 9, 16]), ("tok", [5, 10, 17])]
)
def test_tokens_are_those_of_the_image_wherever_token_learner_is(
  config, pool, tokens
):
  config.model.token_learner.layer = 0
  config.model.pool = pool
  experiment = setup.Experiment(config)
  table = report.cost_table(experiment).splitlines()[2:]
  assert [int(line.split("|")[2]) for line in table] == tokens


def test_stop_and_continue_is_one_run(config, tmp_path):
  """The same parameters to the last bit, and the same log.

  Also of the steps before the stop that had not been logged yet.
  """
  config.flexi.patch_size.values = (6, 4)
  config.evals.test.patch_sizes = (4,)
  config.model.token_learner = None
  config.checkpoint_steps = 3
  config.optimizer.schedule = dict(name="constant")
  config.ema_decay = 0.5
  config.task.mixup_alpha = 0.3
  config.model.dropout = 0.1
  whole, history = train.train_and_evaluate(config, tmp_path / "whole")

  part = tmp_path / "part"
  saved = checkpoint_lib.Checkpoints.save

  class Stopped(Exception):
    pass

  def save_and_stop(self, step, state, **options):
    saved(self, step, state, **options)
    raise Stopped

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoint_lib.Checkpoints, "save", save_and_stop)
    with pytest.raises(Stopped):
      train.train_and_evaluate(config, part)
  assert checkpoint_lib.newest_step(part) == 3
  notes = json.loads((part / "checkpoints/3/notes/metadata").read_bytes())
  before = notes["notes"]["seconds"]
  continued, again = train.train_and_evaluate(config, part)
  chex.assert_trees_all_equal(whole, continued)
  assert losses(again) == losses(history)
  # The third step's time, too, which was not logged before the stop.
  assert again[-2]["train_seconds"] > before > again[0]["train_seconds"]

  # A finished run trains no further and gives the same answer.
  finished, last = train.train_and_evaluate(config, part)
  chex.assert_trees_all_equal(whole, finished)
  assert last == again


def test_eval_mode_gives_the_numbers_of_training(small_config, tmp_path):
  config = small_config
  _, history = train.train_and_evaluate(config, tmp_path)
  (tmp_path / "report.json").unlink()
  results = train.evaluate(None, tmp_path)
  expected = {
    k.removeprefix("test/"): v
    for k, v in history[-1].items()
    if k.startswith("test/")
  }
  assert results["test"] == pytest.approx(expected)
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["train"]["steps"] == 4

  config.evals.test.patch_sizes = (12,)  # Other evaluations are welcome.
  assert set(train.evaluate(config, tmp_path)["test"]) == {
    f"patch12/{name}" for name in ("accuracy", "loss", "ece", "examples")
  }
  config.model.depth = 3
  with pytest.raises(ValueError, match=r"config.model.depth: 1 -> 3"):
    train.evaluate(config, tmp_path)


def test_init_from_another_run(config, untrained_run, tmp_path):
  saved = checkpoint_lib.read_params(untrained_run)
  config.init = str(untrained_run)
  experiment = setup.Experiment(config)
  chex.assert_trees_all_equal(experiment.init_params(), saved)
  config.init_fresh = ("head/kernel",)
  params = setup.Experiment(config).init_params()
  assert not params["head"]["kernel"].any()
  chex.assert_trees_all_equal(params["embedding"], saved["embedding"])
  config.init_fresh = ("heads",)
  with pytest.raises(ValueError, match="'heads': no array's name begins so"):
    setup.Experiment(config).init_params()
  config.init_fresh = ()
  config.data.name = "fake:12x12x3:4:64"  # Another head starts fresh.
  config.evals = {}
  head = setup.Experiment(config).init_params()["head"]["kernel"]
  assert head.shape == (32, 4)
  config.model.width = 64
  with pytest.raises(ValueError, match="does not fit the model"):
    setup.Experiment(config).init_params()
  config.init = str(tmp_path / "nothing")
  with pytest.raises(FileNotFoundError, match="nothing"):
    setup.Experiment(config).init_params()


@pytest.mark.slow
def test_blocks_in_a_loop_are_trained_as_blocks_one_by_one(config, tmp_path):
  """The same parameters under the same names, also after a restart."""
  config.model.depth = 2
  del config.model.token_learner
  config.flexi.patch_size.values = (6,)
  config.optimizer = dict(
    name="sgd", lr=0.1, weight_decay=0.1, schedule=dict(name="constant")
  )
  config.ema_decay = 0.5
  config.checkpoint_steps = 2
  apart, _ = train.train_and_evaluate(config, tmp_path / "apart")
  config.model.scan = True
  workdir = tmp_path / "scan"
  scanned, _ = train.train_and_evaluate(config, workdir)
  chex.assert_trees_all_close(apart, scanned, rtol=1e-4, atol=1e-5)
  params = checkpoint_lib.read_params(workdir)
  chex.assert_trees_all_equal(params, jax.device_get(scanned.eval_params))

  shutil.rmtree(workdir / "checkpoints" / "4")
  continued, _ = train.train_and_evaluate(config, workdir)
  chex.assert_trees_all_equal(scanned, continued)


def test_the_newest_checkpoints_are_kept(small_config, tmp_path):
  small_config.checkpoint_steps = 1
  small_config.keep_checkpoints = 2
  small_config.evals = {}
  train.train_and_evaluate(small_config, tmp_path)
  kept = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert kept == {"3", "4"}


@pytest.mark.processes
def test_one_device_and_many_give_the_same_model(
  config, write_config, tmp_path
):
  config.optimizer = dict(name="sgd", lr=0.1, schedule=dict(name="constant"))
  config.task.mixup_alpha = 0.3
  config.flexi = dict(patch_size=dict(values=(6, 4)), dispatch="switch")
  config.evals = {}
  many, _ = train.train_and_evaluate(config, tmp_path / "many")
  one = tmp_path / "one"
  subprocess.run(
    [
      *(sys.executable, "-m", "tokenlearner_flexivit.main"),
      f"--config={write_config(config)}",
      f"--workdir={one}",
    ],
    cwd=ROOT,
    check=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
  )
  chex.assert_trees_all_close(
    checkpoint_lib.read_params(one),
    jax.device_get(many.params),
    rtol=1e-5,
    atol=1e-6,
  )


def write_jpegs(folder, size, count):
  for label, value in (("cats", 40), ("dogs", 200)):
    for i in range(count):
      path = folder / label / f"{i}.jpg"
      path.parent.mkdir(parents=True, exist_ok=True)
      cv2.imwrite(str(path), np.full((size, size, 3), value + i, np.uint8))


@pytest.mark.slow
def test_class_folders_of_tiny_jpegs_train(config, tmp_path):
  write_jpegs(tmp_path / "images" / "train", 7, 8)
  write_jpegs(tmp_path / "images" / "test", 7, 2)
  pp = "decode|resize(12)|value_range(-1,1)|keep('image','label')"
  name = f"folder:{tmp_path / 'images'}"
  config.data = dict(name=name, split="train", pp=pp)
  config.evals.test.data = dict(name=name, split="test", pp=pp)
  config.total_steps = 1
  config.optimizer.schedule.warmup_steps = 0
  state, _ = train.train_and_evaluate(config, tmp_path / "work")
  assert state.params["head"]["kernel"].shape == (32, 2)


@pytest.mark.slow
def test_mocked_imagenet_trains_through_tfds(config, tmp_path):
  pp = "decode|inception_crop(12)|value_range(-1,1)|keep('image','label')"
  config.data = dict(name="imagenet2012", split="train[:99%]", pp=pp)
  config.evals.test.data = dict(name="imagenet2012", split="validation", pp=pp)
  config.total_steps = 1
  config.optimizer.schedule.warmup_steps = 0
  with tfds.testing.mock_data(num_examples=20):
    state, _ = train.train_and_evaluate(config, tmp_path)
  assert state.params["head"]["kernel"].shape == (32, 1000)
