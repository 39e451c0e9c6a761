"""The placement study compares what it says, and judges claims by numbers."""

import pytest

from experiments import seeds, study
from experiments.token_learner_placement import config, longer, run
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost


def macs(cell, scale):
  model = models.create(**config.model_section(cell, scale), num_classes=25)
  return cost.macs(model, (scale.side, scale.side, 3))


@pytest.mark.parametrize("scale", config.SCALES.values(), ids=config.SCALES)
def test_costs_are_those_that_the_study_needs(scale):
  cost = {name: macs(cell, scale) for name, cell in config.CELLS.items()}
  base = cost["baseline"]
  assert cost["at1_2"] <= 0.6 * base
  assert 0.9 * base < cost["deeper"] <= base
  placed = [cost[n] for n in ("at0", "at1_4", "at1_2", "at3_4", "baseline")]
  assert placed == sorted(placed)
  for number in (8, 16):
    learned = "at1_2" if number == config.TOKENS else f"tokens{number}"
    assert cost[f"average{number}"] == pytest.approx(cost[learned], rel=0.05)


def test_configs_differ_in_model_and_seed_alone():
  base = config.get_config("cell=baseline,seed=0").to_dict()
  for name in config.CELLS:
    other = config.get_config(f"cell={name},seed=2").to_dict()
    assert other.pop("seed") == 2
    learner = other["model"].pop("token_learner", None)
    assert (learner is None) == (name == "baseline")
    if name == "deeper":
      assert other["model"].pop("depth") > base["model"]["depth"]
      other["model"]["depth"] = base["model"]["depth"]
    assert other == {k: v for k, v in base.items() if k != "seed"}
  with pytest.raises(ValueError, match=r"cell.*Known: .*average16"):
    config.get_config("cell=at2")


def make_rows(**accuracies):
  """Rows with these means; seeds differ, all cells alike."""
  return [
    {
      "cell": name,
      "accuracy": seeds.spread(
        accuracies.get(name, 0.7) + d for d in (-0.01, 0, 0.01)
      ),
      "gmacs": 1.0 if cell.placement is None else 0.5,
    }
    for name, cell in config.CELLS.items()
  ]


def test_claims_hold_by_the_difference_seed_by_seed():
  rows = make_rows(at1_2=0.695, at0=0.5, at3_4=0.69, tokens8=0.68)
  claims = run.STUDY.judge("cpu", [0, 1, 2], rows).claims
  assert claims[0]["measured"] == (
    "-0.50 ± 0.00 points (at1_2 against baseline) at 50 % of the multiply-adds"
  )
  verdicts = [claim["verdict"] for claim in claims]
  assert verdicts[:3] == ["yes", "no", "yes"]
  assert verdicts[6] == "yes"  # 16 tokens against 8.
  next(row for row in rows if row["cell"] == "at1_2")["gmacs"] = 0.7
  claims = run.STUDY.judge("cpu", [0, 1, 2], rows).claims
  assert claims[0]["verdict"] == "no"


def trained(**accuracies):
  """A study of longer trainings that is done: reports of these accuracies."""
  asked = study.Asked(scale="cpu", own={"cells": ["at1_2"], "steps": ["1200"]})
  reports = {
    name: [{"settings": [{"accuracy": value}]} for value in values]
    for name, values in accuracies.items()
  }
  return study.Done(asked, config.SCALES["cpu"], reports)


def test_longer_trainings_are_compared_with_as_long_ones():
  accuracies = dict(
    baseline=[0.7, 0.8],
    baseline_1200=[0.8, 0.9],
    at1_2=[0.68, 0.79],
    at1_2_1200=[0.795, 0.895],
  )
  rows = longer.rows(trained(**accuracies))
  points = [row["over_baseline"]["mean"] for row in rows]
  assert points == pytest.approx([0, 0, -1.5, -0.5])
  (claim,) = longer.STUDY.judge("cpu", [0, 1], rows).claims
  assert claim["verdict"] == "yes" and "after 1200 steps" in claim["claim"]
  accuracies["at1_2_1200"] = [0.78, 0.89]
  outcome = longer.STUDY.judge(
    "cpu", [0, 1], longer.rows(trained(**accuracies))
  )
  (claim,) = outcome.claims
  assert claim["verdict"] == "undecided"
  assert claim["measured"] == "-1.50 ± 0.50"
  (text,) = longer.tables(outcome).values()
  assert "| at1/2    |  1200 |" in text


def test_a_longer_training_is_a_run_of_its_own():
  asked = trained().asked
  short, long = (
    longer.STUDY.training_run(asked, name, 1)
    for name in ("at1_2", "at1_2_1200")
  )
  # The short one is that of the study itself.
  assert short == run.STUDY.training_run(asked, "at1_2", 1)
  assert short.name != long.name
  argument = long.config.split(":")[1]
  assert config.get_config(argument).total_steps == 1200
