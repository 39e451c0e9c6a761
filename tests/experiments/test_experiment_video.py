"""The study of videos compares what it says, and judges by numbers."""

import types

import numpy as np
import pytest

from experiments import seeds, training
from experiments.video_token_learner import config, positions, run
from tokenlearner_flexivit import models, train
from tokenlearner_flexivit.data.rendered_scenes import builder
from tokenlearner_flexivit.models import cost


def test_cells_differ_in_token_learner_alone():
  base = config.get_config("cell=all,seed=1").to_dict()
  for name, cell in config.CELLS.items():
    other = config.get_config(f"cell={name},seed=1").to_dict()
    learner = other["model"].pop("token_learner", None)
    assert (learner or {}).get("num_tokens") == cell.num_tokens
    assert other == base


@pytest.mark.parametrize("name", config.SCALES)
def test_the_study_can_reach_its_goal(name):
  """Cost at most 60 %, and as many test videos as fill whole batches."""
  scale = config.SCALES[name]
  evaluation = config.get_config(f"scale={name}").evals.test
  videos = builder.config_named(scale.data).num_test
  assert videos % evaluation.batch_size == 0
  macs = {}
  for name, cell in config.CELLS.items():
    section = config.model_section(cell, scale)
    model = models.create(**section, num_classes=10)
    shape = (scale.frames, scale.side, scale.side)
    assert model.check(shape) == scale.grid
    macs[name] = cost.macs(model, (*shape, 3))
  assert macs["learned8"] <= 0.6 * macs["all"]
  assert macs["frame_first"] < macs["fixed8_first"] < macs["frame"]
  assert macs["frame"] < macs["fixed8"] < macs["learned8"] < macs["learned16"]
  # A clip fits in a video.
  assert (scale.frames - 1) * scale.stride < 16


def test_only_what_is_used_is_parsed():
  c = config.get_config("")
  for section in (c.data, c.evals.test.data):
    assert tuple(section.features) == ("video", "label")
  assert "features" not in config.get_config("runlocal").data  # It is noise.


def make_rows(**accuracies):
  """Rows of three seeds, of which each has its own level."""
  costs = dict.fromkeys(config.CELLS, 0.5)
  costs |= {config.BASELINE: 1.0, "learned8": 0.55}
  return [
    {
      "cell": name,
      "accuracy": seeds.spread(accuracies[name] + s / 100 for s in range(3)),
      "gmacs_ratio": costs[name],
    }
    for name in config.CELLS
  ]


def test_claims_follow_the_numbers():
  accuracies = dict.fromkeys(config.CELLS, 0.8)
  accuracies |= dict(learned8=0.795, fixed8=0.7, frame=0.6)
  accuracies |= dict(learned8_first=0.5, frame_first=0.4, fixed8_first=0.6)
  rows = make_rows(**accuracies)
  claims = run.STUDY.judge("cpu", [0, 1, 2], rows).claims
  verdicts = [c["verdict"] for c in claims]
  assert verdicts == ["yes", "yes", "yes", "yes", "no"]
  assert claims[0]["measured"] == "-0.50 ± 0.00 points at 55 %"
  for row in rows:
    row["gmacs_ratio"] = 0.7
  claims = run.STUDY.judge("cpu", [0, 1, 2], rows).claims
  assert claims[0]["verdict"] == "no"

  accuracies |= dict(learned8=0.78, frame=0.79)
  claims = run.STUDY.judge("cpu", [0, 1, 2], make_rows(**accuracies)).claims
  verdicts = [c["verdict"] for c in claims]
  assert verdicts == ["no", "no", "yes", "yes", "no"]


def test_positions_of_known_maps():
  even = np.zeros((2, 3, 4, 5))
  even[..., :2] = 7  # Over 8 of 20, whatever their sum.
  assert positions.effective_size(even) == pytest.approx(8)
  one = np.eye(20).reshape(20, 4, 5)
  assert positions.effective_size(one) == pytest.approx(1)
  both = np.stack([even[0, 0] / 56, one[0]])
  assert positions.effective_size(both) == pytest.approx((8 + 1) / 2)


@pytest.mark.studies
@pytest.mark.parametrize("cell", config.CELLS)
def test_a_cell_trains_and_shows_its_maps(cell, tmp_path, monkeypatch):
  arg = f"cell={cell},runlocal"
  train.train_and_evaluate(config.get_config(arg), tmp_path / "run")
  report = training.read(tmp_path, training.Run("run", ""))
  assert 0 <= report["settings"][0]["accuracy"] <= 1
  if cell.startswith("learned"):
    monkeypatch.setattr(run, "SHOWN", (cell,))
    done = types.SimpleNamespace(folder=lambda name: tmp_path / "run")
    run.draw_maps(done, types.SimpleNamespace(suffix="_cpu"), tmp_path)
    assert (tmp_path / f"token_maps_{cell}_cpu.gif").exists()
  if cell != config.BASELINE:
    taken = positions.effective_size_in_run(tmp_path / "run")
    assert 1 <= taken <= 16
    if cell == "frame":
      assert taken == pytest.approx(16)
