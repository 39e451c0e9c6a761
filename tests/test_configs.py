"""Every config trains two steps as it stands, made small by ":runlocal"."""

import importlib
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from configs import quickstart, tokenlearner_paper
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import models, train

ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(
  path.stem
  for path in (ROOT / "configs").glob("*.py")
  if path.stem != "__init__"
)


# The others train below.
@pytest.mark.parametrize(
  "name", sorted(set(NAMES) - {"quickstart", "tokenlearner_paper"})
)
def test_config_trains_two_steps(name, tmp_path):
  config = importlib.import_module(f"configs.{name}").get_config("runlocal")
  assert config.total_steps == 2
  state, history = train.train_and_evaluate(config, tmp_path)
  assert state.step == 2
  assert all(np.isfinite(r["loss"]) for r in history if "loss" in r)
  assert (tmp_path / "report.md").exists()


def test_pretrained_token_learner_is_fine_tuned(tmp_path):
  """Another resolution, another head, the same TokenLearner."""
  workdir = tmp_path / "pretrained"
  arg = "runlocal,model=S/32"
  train.train_and_evaluate(tokenlearner_paper.get_config(arg), workdir)
  config = tokenlearner_paper.get_config(f"{arg},init={workdir}")
  assert config.model.posemb_grid == (12, 12)
  state, _ = train.train_and_evaluate(config, tmp_path / "finetuned")
  assert state.step == 2


@pytest.mark.parametrize("name", tokenlearner_paper.MODELS)
@pytest.mark.parametrize("init", ["", "weights.npz"])
def test_models_of_the_token_learner_paper_can_be_built(name, init):
  config = tokenlearner_paper.get_config(f"model={name},init={init}")
  size = int(re.search(r"central_crop\((\d+)\)", config.evals.val.data.pp)[1])
  model = models.create(**configuration.plain(config.model))
  grid = model.check(size)
  assert grid == model.posemb_grid
  assert model.seq_lens(size)[-1] == model.token_learner["num_tokens"]
  assert f"    {name} " in tokenlearner_paper.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_config_is_plain_and_says_how_to_run_it(name):
  module = importlib.import_module(f"configs.{name}")
  assert f"configs/{name}.py" in module.__doc__
  arg = "path=/data/flowers" if name == "folder" else ""
  config = module.get_config(arg)
  assert "total_steps" in config or "total_epochs" in config
  with pytest.raises((ValueError, TypeError)):
    module.get_config("runlocl")


def test_quickstart_learns(tmp_path):
  """The quickstart from end to end, with fewer steps and patch sizes."""
  config = quickstart.get_config("runlocal")
  config.flexi.patch_size = dict(values=(24, 12, 6))
  config.total_steps = 80
  config.log_steps = 20
  config.optimizer.lr = 3e-3
  _, history = train.train_and_evaluate(config, tmp_path)
  losses = [r["loss"] for r in history if "loss" in r]
  assert losses[-1] < losses[0] - 0.1
  report = json.loads((tmp_path / "report.json").read_text())
  sizes = [row["patch_size"] for row in report["settings"]]
  assert sizes == [24, 12, 6]
  assert (tmp_path / "patch_sizes.png").exists()


@pytest.mark.slow
def test_quickstart_reaches_its_accuracy(tmp_path):
  """What the README promises, for one seed, by the README's command.

  A program of its own: here, programs compile fast and run slowly.
  """
  command = ["-m", "tokenlearner_flexivit.main", f"--workdir={tmp_path}"]
  subprocess.run(
    [sys.executable, *command, "--config=configs/quickstart.py"],
    cwd=ROOT,
    check=True,
  )
  report = json.loads((tmp_path / "report.json").read_text())
  for row in report["settings"]:
    goal = 0.94 if row["patch_size"] > 8 else 0.97
    assert row["accuracy"] >= goal, row
