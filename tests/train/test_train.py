"""Whole runs: train, evaluate, report, stop, continue; and bad configs."""

import contextlib
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

from configs import quickstart
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, report, train
from tokenlearner_flexivit.evaluators import classification
from tokenlearner_flexivit.run import checkpoint as checkpoint_lib
from tokenlearner_flexivit.run import metric_log
from tokenlearner_flexivit.run import progress as progress_lib
from tokenlearner_flexivit.tasks import classification as classification_task
from tokenlearner_flexivit.train import before_data, setup

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


def test_an_evaluation_that_fails_loses_no_step(
  config, tmp_path, monkeypatch, capsys
):
  config.model.token_learner = None
  config.flexi.patch_size.values = (4,)
  config.evals.test.eval_steps = 3

  def damaged(self, params):
    raise data_lib.ExampleError("cat/7.png is damaged")

  with monkeypatch.context() as patch:
    patch.setattr(classification.Evaluator, "run", damaged)
    for _ in range(2):  # The same again, before it is mended.
      with pytest.raises(data_lib.ExampleError, match=r"cat/7\.png"):
        train.train_and_evaluate(config, tmp_path)
      assert checkpoint_lib.newest_step(tmp_path) == 3
  assert "state of step 3 is saved" in capsys.readouterr().out
  _, history = train.train_and_evaluate(config, tmp_path)
  evaluated = {r["step"] for r in history if "test/patch4/accuracy" in r}
  assert evaluated == {3, 4}


def test_a_batch_that_cannot_be_read_loses_no_step(
  config, tmp_path, monkeypatch, capsys
):
  config.model.token_learner = None
  config.flexi.patch_size.values = (4,)
  checked = []

  def damaged(self, batch):
    checked.append(batch)
    if len(checked) == 4:  # Batches are checked ahead of their steps.
      raise data_lib.ExampleError("cat/7.png is damaged")

  with monkeypatch.context() as patch:
    patch.setattr(classification_task.Classification, "check_batch", damaged)
    with pytest.raises(data_lib.ExampleError, match=r"cat/7\.png"):
      train.train_and_evaluate(config, tmp_path)
  assert checkpoint_lib.newest_step(tmp_path) == 3
  assert "state of step 3 is saved" in capsys.readouterr().out
  state, _ = train.train_and_evaluate(config, tmp_path)
  assert state.step == 4


def test_a_first_batch_that_cannot_be_read_leaves_the_workdir_free(
  config, tmp_path, monkeypatch
):
  def damaged(self, batch):
    raise data_lib.ExampleError("cat/7.png is damaged")

  monkeypatch.setattr(
    classification_task.Classification, "check_batch", damaged
  )
  with pytest.raises(data_lib.ExampleError, match=r"cat/7\.png"):
    train.train_and_evaluate(config, tmp_path)
  assert not checkpoint_lib.steps(tmp_path)


def test_eval_mode_gives_the_numbers_of_training(config, tmp_path):
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
  with pytest.raises(ValueError, match=r"config.model.depth: 2 -> 3"):
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


def test_a_first_line_comes_before_the_log_does(capsys, monkeypatch):
  clock = iter(range(0, 900, 4))
  monkeypatch.setattr(progress_lib.time, "perf_counter", lambda: next(clock))
  progress = progress_lib.Progress(
    [], first_step=2, total_steps=102, batch_size=1, pending=[(2, {"loss": 9})]
  )
  progress.start()
  progress.glance()
  for step in range(3, 9):
    progress.add(step, {"loss": np.float32(1 / step)})
    progress.glance()
  progress.close()
  # Once, when ten seconds are over since the first step.
  assert re.findall(r"step +\d+/102.*", capsys.readouterr().out) == [
    "step   6/102  loss 0.1667  ETA 8:32"
  ]


def test_the_time_of_compiling_is_not_expected_again(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(progress_lib.time, "perf_counter", lambda: now[0])
  setting = dials.Setting((4, 4))
  progress = progress_lib.Progress(
    [setting], first_step=0, total_steps=103, batch_size=1
  )
  progress.start()
  for step, seconds in ((1, 600), (2, 1), (3, 1)):
    now[0] += seconds
    metrics = {"loss": 1.0, "grad_norm": 1.0, "setting": 0}
    progress.add(step, jax.tree.map(np.float32, metrics))
  assert progress.log(0.1)["train_seconds"] == 602
  progress.close()
  assert "ETA 1:40  " in capsys.readouterr().out


def test_steps_that_compile_are_not_in_the_rate(monkeypatch, capsys):
  """As where several processes run, each program at its first step."""
  now = [0.0]
  monkeypatch.setattr(progress_lib.time, "perf_counter", lambda: now[0])
  progress = progress_lib.Progress(
    [dials.Setting((4, 4))],
    first_step=0,
    total_steps=9,
    batch_size=6,
    kind="video",
  )
  progress.start()
  rates = []
  for seconds in (600, 4, 300, 4, 500):
    with progress.compiling() if seconds > 4 else contextlib.nullcontext():
      now[0] += seconds
    metrics = {"loss": 1.0, "grad_norm": 1.0, "setting": 0}
    progress.add(1, jax.tree.map(np.float32, metrics))
    if seconds != 600:
      rates.append(progress.log(0.1)["img_per_s"])
  progress.close()
  # Of a line with nothing else it is that of compiling steps.
  assert rates == [6 / 4, 6 / 300, 6 / 4, 6 / 500]
  assert progress.seconds == 1408
  assert "  1.50 vid/s (" in capsys.readouterr().out


def test_time_of_evaluations_is_no_time_of_steps(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(progress_lib.time, "perf_counter", lambda: now[0])
  progress = progress_lib.Progress(
    [], first_step=0, total_steps=112, batch_size=1, seconds_before=5.0
  )
  progress.start()
  for step in range(1, 13):
    now[0] += 1
    progress.add(step, {"loss": np.float32(1)})
    with progress.paused():
      now[0] += 60
  progress.glance()
  progress.close()
  assert "step  12/112  loss 1.0000  ETA 1:40" in capsys.readouterr().out
  assert progress.seconds == 17


def test_pending_metrics_are_those_of_now():
  """A checkpoint is written while the loop adds more steps."""
  progress = progress_lib.Progress(
    [], first_step=2, total_steps=4, batch_size=1, pending=[(2, {"loss": 0.5})]
  )
  progress.start()
  progress.add(3, {"loss": np.float32(0.25)})
  pending = progress.pending
  progress.add(4, {"loss": np.float32(0.125)})
  progress.close()
  assert pending == [(2, {"loss": 0.5}), (3, {"loss": 0.25})]


def test_the_newest_checkpoints_are_kept(config, tmp_path):
  config.checkpoint_steps = 1
  config.keep_checkpoints = 2
  config.model.token_learner = None
  config.flexi.patch_size.values = (4,)
  config.evals = {}
  train.train_and_evaluate(config, tmp_path)
  kept = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert kept == {"3", "4"}


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path):
  config.optimizer = dict(
    name="sgd", lr=1e30, schedule=dict(name="linear", warmup_steps=2)
  )
  config.total_steps = 12
  config.checkpoint_steps = 1
  config.flexi.patch_size.values = (6, 4)
  config.evals = {}
  with pytest.raises(train.NonFiniteLossError) as error:
    train.train_and_evaluate(config, tmp_path)
  message = str(error.value)
  newest = checkpoint_lib.newest_step(tmp_path)
  assert re.search(rf"The \w+ of step {newest + 1} \(patch\d+\)", message)
  assert str(tmp_path / "checkpoints" / str(newest)) in message
  params = checkpoint_lib.read_params(tmp_path)
  chex.assert_tree_all_finite(params)


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


@pytest.mark.parametrize(
  "change, message",
  [
    ({"flexi.patch_size.values": (6, 5)}, r"5.*1, 2, 3, 4, 6, 12"),
    ({"evals.test.patch_sizes": (6, 5)}, r"5.*1, 2, 3, 4, 6, 12"),
    ({"model.token_learner.layer": 2}, "layer=2.*depth"),
    ({"model.token_learner.num_tokens": 0}, "num_tokens"),
    ({"model.token_learner.num_tokens": 50}, "=50.*12x12 pixels .* most"),
    ({"model.variant": "XL"}, "XL.*mu, Ti, S, M, B, L, H, g, G"),
    ({"model.pool": "mean"}, "mean.*gap, tok, map"),
    ({"task.name": "clustering"}, "Known: classification"),
    ({"evals.test.type": "recall"}, "Known: classification"),
    ({"optimizer.name": "adamww"}, "Did you mean 'adamw'.* Known: .*lion"),
    ({"parallel": "pjit"}, "Known: pmap"),
    ({"data.pp": "decode|resise(12)"}, "resise"),
    ({"data.pp": "decode|keep('image')"}, "gives no 'label'"),
    ({"data.name": "imagenetz"}, "imagenetz"),
    ({"data.name": "folder:/nowhere"}, "/nowhere"),
    ({"evals.test.data.name": "folder:/nowhere"}, "/nowhere"),
    ({"evals.test.data.pp": "decode|keep('label')"}, "gives no 'image'"),
    ({"batch_size": 12}, "multiple of 8"),
    ({"evals.test.batch_size": 12}, "multiple of 8"),
    ({"accumulate": 3}, "does not divide the 2 examples"),
    ({"keep_checkpoints": 0}, r"config\.keep_checkpoints=0 .*\[1"),
    ({"keep_checkpoints": "3"}, r"config\.keep_checkpoints='3' .*whole"),
    ({"max_save_failures": 0}, r"config\.max_save_failures=0 .*\[1"),
    ({"accumulate": 0}, r"config\.accumulate=0 "),
    ({"accumulate": 2.0}, r"config\.accumulate=2\.0 .*whole"),
    ({"accumulate": True}, r"config\.accumulate=True "),
    ({"seed": -1}, r"config\.seed=-1 "),
    ({"seed": 2**32}, r"config\.seed=4294967296 "),
    ({"seed": 1.5}, r"config\.seed=1\.5 "),
    ({"seed": "1"}, r"config\.seed='1' "),
    ({"batch_size": 16.0}, r"config\.batch_size=16\.0 "),
    ({"batch_size": "16"}, r"config\.batch_size='16' "),
    ({"evals.test.batch_size": "16"}, r"evals\.test\.batch_size='16' "),
    ({"ema_decay": 1.5}, r"config\.ema_decay=1\.5 .*\[0, 1\)"),
    ({"ema_decay": 1}, r"config\.ema_decay=1 "),
    ({"ema_decay": "0.9"}, r"config\.ema_decay='0\.9' "),
    ({"total_steps": "4"}, r"config\.total_steps='4' "),
    ({"total_steps": 4.5}, r"config\.total_steps=4\.5 "),
    ({"log_steps": True}, r"config\.log_steps=True "),
    ({"checkpoint_steps": "9"}, r"config\.checkpoint_steps='9' "),
    ({"evals.test.eval_steps": "9"}, r"config\.evals\.test\.eval_steps='9' "),
    ({"evals.test.eval_steps": 0}, r"config\.evals\.test needs .*above 0"),
    (
      {"evals.test.data.pp": "decode(1)|value_range(-1,1)"},
      r"evals\.test\.data\.pp gives images of 1 channel, .*trained on 3",
    ),
    ({"data.pp": "decode"}, r"config\.data\.pp gives images of uint8"),
    ({"evals.test.data.pp": "decode"}, r"test\.data\.pp gives .* of uint8"),
    ({"evals": [1]}, r"config\.evals=\[1\] must be"),
    ({"evals": {"a/b": {}}}, r"named 'a/b'.* no '/'"),
    ({"evals": {"": {}}}, r"named ''.* not empty"),
    ({"evals": {"test": 3}}, r"config\.evals\.test=3 must be"),
    ({"evals.test.data": "fake"}, r"evals\.test\.data='fake' must be"),
    ({"init": 3}, r"config\.init=3 must be"),
    ({"init": ""}, r"config\.init='' must be"),
    ({"init_fresh": "head"}, r"config\.init_fresh='head' must be a list"),
    ({"init_optional": "head"}, r"config\.init_optional='head' must be a list"),
    ({"init_optional": ("x",)}, r"config\.init_optional=.*init, which is None"),
    ({"init_inflate": "max"}, "Known: average, central_frame"),
    ({"init_fresh": ("head/",)}, r"config\.init_fresh=.*init, which is None"),
    ({"init_inflate": "average"}, r"init_inflate='average' .* is None"),
    ({"data.data_dir": "/x"}, r"config\.data\.data_dir='/x' .*fake.* none"),
    ({"init_mean": 0.5}, r"config\.init_mean=0\.5 must be a list"),
    ({"init": "x", "init_std": (0.2, 0, 0.2)}, r"config\.init_std=0 "),
    ({"init_mean": (0.5,)}, r"config\.init_mean=\[0\.5\] .*init.* is None"),
    ({"parallel": "shard_map"}, r"version 0\.1\. Use 'pmap'"),
    ({"parallel": ["pmap"]}, r"config\.parallel=\['pmap'\] is unknown"),
    ({"data.pp": 3}, r"config\.data\.pp=3 must be a string"),
    ({"optimizer.lr": "1"}, r"config\.optimizer\.lr='1' "),
    ({"optimizer.schedule": 3}, r"config\.optimizer\.schedule=3 "),
    ({"optimizer.b2": 1}, r"config\.optimizer\.b2=1 "),
    ({"model.num_classes": 5.0}, r"config\.model\.num_classes=5\.0 "),
    ({"model.dtype": "float16"}, "float16' is for inference .*'bfloat16'"),
    ({"flexi.num_tokens": 0}, r"config\.flexi\.num_tokens=0 must be"),
    ({"flexi.patch_size": 6}, r"config\.flexi\.patch_size=6 must be"),
    ({"flexi.patch_size.values": 6}, r"flexi\.patch_size\.values=6 must be"),
    ({"flexi.patch_size.weights": "123"}, r"weights='123' must be 3 positive"),
    ({"flexi.sandwich": "false"}, r"flexi\.sandwich='false' must be True or"),
    (
      {"data.name": "fake:12x12x3:1:64", "evals": {}},
      "a single class.*one level too high or too low",
    ),
    ({"total_steps": 0}, "total_epochs, total_examples, above 0"),
    ({"total_steps": None}, "total_epochs, total_examples, above 0"),
    ({"log_steps": 0}, "log_steps.* above 0"),
    ({"model.num_classes": 4}, "has 5 classes"),
    ({"evals.test.data.name": "fake:12x12x3:6:8"}, "6 classes.* knows 5"),
    ({"total_epochs": 3}, "more than once"),
  ],
)
def test_bad_values_are_found_before_the_first_step(
  config, tmp_path, change, message
):
  with config.unlocked():
    for key, value in change.items():
      *sections, name = key.split(".")
      section = config
      for part in sections:
        section = section[part]
      with section.ignore_type():
        section[name] = value
  with pytest.raises(ValueError, match=message):
    train.train_and_evaluate(config, tmp_path / "work")
  assert not (tmp_path / "work" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
  "section",
  [
    "",
    "data",
    "model",
    "model.token_learner",
    "flexi",
    "flexi.patch_size",
    "task",
    "optimizer",
    "optimizer.schedule",
    "evals.test",
    "evals.test.data",
  ],
)
def test_keys_that_nothing_reads_are_refused(config, tmp_path, section):
  with config.unlocked():
    target = config
    for part in section.split(".") if section else ():
      target = target[part]
    target.tpyo = 1
  with pytest.raises(ValueError, match="tpyo"):
    train.train_and_evaluate(config, tmp_path)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"init": "/no/weights.npz"}, "/no/weights.npz"),
    (
      {
        "task": {
          "name": "distillation",
          "teachers": {"prof": {"init": "/no/weights.npz"}},
        }
      },
      "/no/weights.npz",
    ),
    (
      {
        "evals.test.type": "distance",
        "evals.test.teachers": {"a": {"init": "/no/x.npz"}},
      },
      "/no/x.npz",
    ),
    ({"model.tpyo": 1}, "tpyo"),
    ({"task.tpyo": 1}, "tpyo"),
    ({"flexi.tpyo": 1}, "tpyo"),
    ({"optimizer.tpyo": 1}, "tpyo"),
    ({"optimizer.schedule.tpyo": 1}, "tpyo"),
    ({"data.pp": "decode|tpyo"}, "tpyo"),
    ({"evals.test.tpyo": 1}, "tpyo"),
    ({"evals.test.type": "tpyo"}, "tpyo"),
    ({"evals.test.data.pp": "decode|tpyo"}, "tpyo"),
  ],
)
def test_what_needs_no_data_is_checked_before_these_are_made(
  config, tmp_path, monkeypatch, change, message
):
  """The first reading of a folder of videos decodes all, for hours."""
  monkeypatch.setattr(setup.data_lib, "open_source", lambda *_: 1 / 0)
  with config.unlocked(), config.ignore_type():
    (tmp_path / "videos").mkdir()
    name = f"video_folder:{tmp_path / 'videos'}"
    config.update_from_flattened_dict({"data.name": name})
    for key, value in change.items():
      *sections, name = key.split(".")
      section = config
      for part in sections:
        section = section[part]
      section[name] = value
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    train.train_and_evaluate(config, tmp_path)


def write_splits(kind, root):
  """Returns the name of a dataset with the splits train and validation."""
  if kind == "tfds":
    name = "digits"
    data_lib.open_source({"name": name, "split": "train"})  # Prepares it.
    return name
  for split in ("train", "validation"):
    (root / split / "cats").mkdir(parents=True)
  return f"{kind}:{root}"


@pytest.mark.parametrize("kind", ["folder", "video_folder", "tfds"])
@pytest.mark.parametrize(
  "key, split",
  [
    ("config.data.split", "nonsense"),
    ("config.data.split", "train+nonsense[:9]"),
    ("config.data.split", "train[:"),
    ("config.evals.test.data.split", "nonsense[:50%]"),
    ("config.evals.few.train_split", "nonsense"),
    ("config.evals.few.test_split", "nonsense"),
  ],
)
def test_every_split_is_checked_before_anything_is_read(
  config, tmp_path, monkeypatch, kind, key, split
):
  """Nor are the weights of a teacher downloaded."""
  name, pp = write_splits(kind, tmp_path / "data"), config.data.pp
  config.data = dict(name=name, split="train", pp=pp)
  config.evals.test.data.update(name=name, split="train")
  few = dict(name=name, pp=pp)
  config.evals.few = dict(type="fewshot", data=few, test_split="train[90%:]")
  config.task.name = "distillation"
  config.task.teachers = dict(prof=dict(init="AugReg-S/16"))
  *sections, last = key.removeprefix("config.").split(".")
  section = config
  for part in sections:
    section = section[part]
  with section.unlocked():
    section[last] = split
  for module, read in (
    (before_data.interop, "fetch"),
    (setup.interop, "fetch"),
    (setup.data_lib, "open_source"),
  ):
    monkeypatch.setattr(module, read, lambda *_: 1 / 0)
  allowed = "Its splits are: train, (test|validation)"
  if split == "train[:":
    allowed = "Cannot read the split"
  message = rf"{re.escape(f'{key}={split!r}')}: .*{allowed}"
  with pytest.raises(ValueError, match=message):
    setup.Experiment(config)


def test_none_is_the_default_everywhere(config):
  """As the command line gives it."""
  test = config.evals.test
  for section, keys in (
    (config, ("seed", "ema_decay")),
    (config.task, ("name", "loss", "label_smoothing")),
    (config.model, ("name",)),
    (config.flexi, ("dispatch", "num_tokens", "sandwich")),
    (test, ("type", "batch_size", "patch_sizes", "eval_steps")),
    (test.data, ("num_threads", "prefetch", "data_dir")),
  ):
    with section.unlocked(), section.ignore_type():
      for key in keys:
        section[key] = None
  assert setup.Experiment(config).dispatch in ("host", "switch")


def dearer_settings(config):
  made = setup.Experiment(config)
  return made.task.model.dearer_settings(made.image_shape, made.dials.settings)


def test_settings_that_token_learner_makes_dearer_are_told():
  """With what they cost; and settings are in the order of their true cost."""
  config = quickstart.get_config()
  said = dearer_settings(config)
  assert (
    "patch24: from 4 patches to 8 tokens, 3.379 M multiply-adds instead of 2.4"
  ) in said
  assert "patch16" not in said
  config.flexi = dict(
    patch_size=dict(values=(24, 6)),
    num_tokens=dict(values=(8, "all")),
    sandwich=True,
  )
  drawn_from = setup.Experiment(config).dials
  assert drawn_from.largest == dials.Setting((6, 6), "all")
  assert drawn_from.smallest == dials.Setting((24, 24), "all")
  del config.model.token_learner
  config.flexi = None
  assert dearer_settings(config) is None


def test_sum_pooling_under_several_patch_sizes_warns(config):
  config.model.token_learner = dict(layer=1, num_tokens=3, version="1.0")
  with pytest.warns(UserWarning, match="pooling='mean' or version='1.1'"):
    setup.Experiment(config)


def test_a_workdir_that_is_no_path(config):
  with pytest.raises(ValueError, match=r"gs://bucket/run is no path.*gcsfuse"):
    train.train_and_evaluate(config, "gs://bucket/run")


def test_eval_mode_without_a_run(tmp_path):
  with pytest.raises(ValueError, match="holds no run"):
    train.evaluate(None, tmp_path)


def test_tensorflow_is_never_imported():
  """Every module imports where importing TensorFlow is an error."""
  code = """
import pkgutil, sys
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] == "tensorflow":
      raise AssertionError("imported tensorflow")
sys.meta_path.insert(0, Refuse())
import tokenlearner_flexivit as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
  __import__(module.name)
assert "tensorflow" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
