"""Runs that fail, by data or by a loss that is not finite, lose no step."""

import re

import chex
import pytest

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import train
from tokenlearner_flexivit.evaluators import classification
from tokenlearner_flexivit.run import checkpoint as checkpoint_lib
from tokenlearner_flexivit.tasks import classification as classification_task


def test_an_evaluation_that_fails_loses_no_step(
  small_config, tmp_path, monkeypatch, capsys
):
  small_config.evals.test.eval_steps = 3

  def damaged(self, params):
    raise data_lib.ExampleError("cat/7.png is damaged")

  with monkeypatch.context() as patch:
    patch.setattr(classification.Evaluator, "run", damaged)
    for _ in range(2):  # The same again, before it is mended.
      with pytest.raises(data_lib.ExampleError, match=r"cat/7\.png"):
        train.train_and_evaluate(small_config, tmp_path)
      assert checkpoint_lib.newest_step(tmp_path) == 3
  assert "state of step 3 is saved" in capsys.readouterr().out
  _, history = train.train_and_evaluate(small_config, tmp_path)
  evaluated = {r["step"] for r in history if "test/patch4/accuracy" in r}
  assert evaluated == {3, 4}


def test_a_batch_that_cannot_be_read_loses_no_step(
  small_config, tmp_path, monkeypatch, capsys
):
  checked = []

  def damaged(self, batch):
    checked.append(batch)
    if len(checked) == 4:  # Batches are checked ahead of their steps.
      raise data_lib.ExampleError("cat/7.png is damaged")

  with monkeypatch.context() as patch:
    patch.setattr(classification_task.Classification, "check_batch", damaged)
    with pytest.raises(data_lib.ExampleError, match=r"cat/7\.png"):
      train.train_and_evaluate(small_config, tmp_path)
  assert checkpoint_lib.newest_step(tmp_path) == 3
  assert "state of step 3 is saved" in capsys.readouterr().out
  state, _ = train.train_and_evaluate(small_config, tmp_path)
  assert state.step == 4


def test_a_first_batch_that_cannot_be_read_leaves_the_workdir_free(
  small_config, tmp_path, monkeypatch
):
  def damaged(self, batch):
    raise data_lib.ExampleError("cat/7.png is damaged")

  monkeypatch.setattr(
    classification_task.Classification, "check_batch", damaged
  )
  with pytest.raises(data_lib.ExampleError, match=r"cat/7\.png"):
    train.train_and_evaluate(small_config, tmp_path)
  assert not checkpoint_lib.steps(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(small_config, tmp_path):
  small_config.optimizer = dict(
    name="sgd", lr=1e30, schedule=dict(name="linear", warmup_steps=2)
  )
  small_config.total_steps = 12
  small_config.checkpoint_steps = 1
  small_config.evals = {}
  with pytest.raises(train.NonFiniteLossError) as error:
    train.train_and_evaluate(small_config, tmp_path)
  message = str(error.value)
  newest = checkpoint_lib.newest_step(tmp_path)
  assert re.search(rf"The \w+ of step {newest + 1} \(patch\d+\)", message)
  assert str(tmp_path / "checkpoints" / str(newest)) in message
  params = checkpoint_lib.read_params(tmp_path)
  chex.assert_tree_all_finite(params)
