"""The placement study compares what it says, and judges claims by numbers."""

import cv2
import pytest

from experiments.token_learner_placement import (
  cells,
  claims,
  config,
  lengths,
  pictures,
  runs,
  summary,
)
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost


def macs(cell, scale):
  model = models.create(**config.model_of(cell, scale), num_classes=25)
  return cost.macs(model, (scale.crop, scale.crop, 3))


@pytest.mark.parametrize("scale", config.SCALES.values(), ids=config.SCALES)
def test_costs_are_those_that_the_study_needs(scale):
  cost = {name: macs(cell, scale) for name, cell in cells.CELLS.items()}
  base = cost["baseline"]
  assert cost["at1_2"] <= 0.6 * base
  assert 0.9 * base < cost["deeper"] <= base
  placed = [cost[n] for n in ("at0", "at1_4", "at1_2", "at3_4", "baseline")]
  assert placed == sorted(placed)
  for number in (8, 16):
    learned = "at1_2" if number == cells.TOKENS else f"tokens{number}"
    assert cost[f"average{number}"] == pytest.approx(cost[learned], rel=0.05)


def test_configs_differ_in_model_and_seed_alone():
  base = config.get_config("cell=baseline,seed=0").to_dict()
  for name in cells.CELLS:
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


def make_rows(**points):
  """Rows with these means; seeds differ, all cells alike."""
  return {
    name: {
      "model": name,
      "depth": 8,
      "token_learner": {"num_tokens": cell.num_tokens},
      "accuracy": {
        "mean": points.get(name, 0.7),
        "std": 0.01,
        "by_seed": [points.get(name, 0.7) + d for d in (-0.01, 0, 0.01)],
      },
      "gmacs": 1.0 if cell.placement is None else 0.5,
      "gmacs_ratio": 1.0 if cell.placement is None else 0.5,
      "speedup": 1.5,
    }
    for name, cell in cells.CELLS.items()
  }


def test_claims_hold_by_the_difference_seed_by_seed():
  rows = make_rows(at1_2=0.695, at0=0.5, at3_4=0.69, tokens8=0.68)
  found = claims.claims(rows)
  assert found[0]["points"]["mean"] == pytest.approx(-0.5)
  assert found[0]["points"]["error"] == pytest.approx(0, abs=1e-9)
  assert "at 50 % of the multiply-adds" in found[0]["measured"]
  holds = [claim["holds"] for claim in found]
  assert holds[:3] == [True, False, True]
  assert holds[6]  # 16 tokens against 8.
  rows["at1_2"]["gmacs"] = 0.7
  assert not claims.claims(rows)[0]["holds"]


def test_table_and_picture(tmp_path):
  rows = make_rows(at0=0.5)
  results = {"rows": list(rows.values()), "claims": claims.claims(rows)}
  text = summary.tables(results)
  assert "50.00 ± 1.00 %" in text and "| yes " in text and "| no " in text
  pictures.draw(rows, tmp_path / "figure.png")
  assert cv2.imread(str(tmp_path / "figure.png")).shape[0] > 500


def test_longer_trainings_are_compared_with_as_long_ones():
  accuracies = {
    ("baseline", 600): [0.7, 0.8],
    ("baseline", 1200): [0.8, 0.9],
    ("at1_2", 600): [0.68, 0.79],
    ("at1_2", 1200): [0.79, 0.9],
  }
  found = lengths.rows(accuracies)
  points = [row["over_baseline"]["mean"] for row in found]
  assert points == pytest.approx([0, 0, -1.5, -0.5])
  (claim,) = lengths.claims(found)
  assert claim["holds"] and "after 1200 steps" in claim["claim"]
  accuracies["at1_2", 1200] = [0.78, 0.89]
  (claim,) = lengths.claims(lengths.rows(accuracies))
  assert not claim["holds"] and claim["measured"] == "-1.50 ± 0.50"
  assert "| at1/2    |  1200 |" in lengths.markdown(found)


def test_a_longer_training_is_a_run_of_its_own():
  steps = config.SCALES["cpu"].steps
  short, longer_one = (
    runs.of("at1_2", 1, "cpu", number) for number in (steps, 2 * steps)
  )
  assert short == runs.of("at1_2", 1, "cpu") != longer_one
  argument = longer_one.config.split(":")[1]
  assert config.get_config(argument).total_steps == 2 * steps
