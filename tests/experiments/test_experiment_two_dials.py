"""The study of both dials compares what it says, and judges by numbers."""

import pytest

from experiments import seeds
from experiments.two_dials import config, hull, planes, run
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.models.token_learner import ALL

SCALE = config.SCALES["cpu"]


def test_cells_differ_in_model_and_dials_alone():
  base = config.get_config("cell=two_dials,seed=1").to_dict()
  assert base["flexi"]["num_tokens"]["values"] == (ALL, *SCALE.numbers)
  for name, cell in config.cells_by_name(SCALE).items():
    other = config.get_config(f"cell={name},seed=1").to_dict()
    learner = other["model"].pop("token_learner", None)
    assert (learner is None) == (cell.numbers == (ALL,))
    if len(cell.numbers) == 1 and learner is not None:
      assert (learner["num_tokens"],) == cell.numbers
    assert other["flexi"]["patch_size"]["values"] == cell.sizes
    steps = SCALE.long_steps if cell.long else SCALE.steps
    assert other["total_steps"] == steps
    shared = set(base) - {"model", "flexi", "total_steps"}
    assert {k: other[k] for k in shared} == {k: base[k] for k in shared}


@pytest.mark.parametrize("scale", config.SCALES.values(), ids=config.SCALES)
def test_the_dials_span_what_the_study_needs(scale):
  cost = run.costs(scale)
  assert max(cost.values()) > 8 * min(cost.values())
  assert all(scale.side % size == 0 for size in scale.sizes)


def test_hulls():
  points = [(1, 50), (2, 80), (3, 70), (4, 85), (8, 90), (3, 82)]
  # (3, 82) is below the line from (2, 80) to (4, 85).
  assert hull.upper(points) == [(1, 50), (2, 80), (4, 85), (8, 90)]
  lower = [(x, y - 2) for x, y in points]
  for gap in (hull.largest_gap, hull.largest_gap_of_a_model):
    assert gap(points, points)[1] == 0
    assert gap(points, lower)[1] == pytest.approx(2)
    assert gap(lower, points)[1] == pytest.approx(-2)
    # Nothing is said of costs at which one has no model yet.
    assert gap([(1, 50), (4, 60)], [(4, 60)]) == (4, 0)
  # Without the corner at 2 the line from 1 to 4 is 80 - (50 + 35 / 3) below.
  cost, gap = hull.largest_gap(points, [(1, 50), (4, 85), (8, 90)])
  assert (cost, gap) == (2, pytest.approx(30 - 35 / 3))


def test_a_corner_is_compared_with_what_costs_no_more():
  hull_of = [(1, 50), (2, 80), (4, 85)]
  # At 2 there is but the model of 1; that of 2.1 costs more.
  gap = hull.largest_gap_of_a_model
  assert gap(hull_of, [(1, 55), (2.1, 90)]) == (2, 25)
  # A cheaper model that is better counts, and so does a dearer corner.
  assert gap(hull_of, [(0.5, 84)]) == (4, 1)


def make_rows(lost=0.0, ratio=9.0, differing=(0.0, 0.01, 0.02)):
  """Rows of three seeds; both dials are `lost` below the fixed models."""
  rows = []
  gmacs = run.costs(SCALE)
  for s in SCALE.settings:
    fixed = 0.9 - s.patch_size[0] / 100 + (s.num_tokens == ALL) / 50
    both = seeds.spread(fixed + seed - lost for seed in differing)
    fixed = seeds.spread(fixed + seed for seed in (0.0, 0.01, 0.02))
    is_last = s == SCALE.settings[-1]
    rows.append(
      {
        "patch_size": s.patch_size[0],
        "num_tokens": s.num_tokens,
        "gmacs": gmacs[s],
        "images_per_s": 1000.0 / ratio if is_last else 1000.0,
        "two_dials": both,
        "same_steps": both,
        "fixed": fixed,
        "flexivit": fixed if s.num_tokens == ALL else None,
      }
    )
  return rows


def judge(rows, scale="gpu"):
  """Without results of `flexivit_curves`, unless the scale is cpu."""
  outcome = run.STUDY.judge(scale, [0, 1, 2], rows)
  return run.claims(outcome._replace(scale=SCALE))


def test_claims_follow_the_numbers():
  assert [c["verdict"] for c in judge(make_rows())] == ["yes"] * 5
  claims = judge(make_rows(0.014, ratio=7.0))
  assert [c["verdict"] for c in claims] == ["yes"] * 2 + ["no"] * 3
  assert "4 times the steps" in claims[0]["claim"]
  assert "1.4 points below" in claims[2]["measured"]
  assert "1.4 points below" in claims[3]["measured"]
  assert "7.0x" in claims[4]["measured"]
  claims = judge(make_rows(0.016))
  assert claims[0]["verdict"] == "no"
  assert claims[0]["measured"].startswith("0 of 9 settings; worst -1.6 points")
  # Seeds that differ by more than what is claimed tell nothing.
  claims = judge(make_rows(0.014, differing=(0.02, 0.0, 0.01)))
  assert [c["verdict"] for c in claims][:4] == ["undecided"] * 4


def test_models_that_had_more_steps_have_a_claim_of_their_own():
  outcome = run.STUDY.judge("cpu", [0, 1, 2], make_rows())
  trained_out = planes.from_flexivit_curves(outcome)
  assert [s.patch_size[0] for s in trained_out] == list(SCALE.sizes)
  assert all(len(values) == 3 for values in trained_out.values())
  assert len(outcome.claims) == 6
  assert "2,400 steps" in outcome.claims[2]["claim"]
  for other in (dict(suffix="_nowhere"), dict(seeds=[3, 4, 5])):
    assert planes.from_flexivit_curves(outcome._replace(**other)) == {}


def test_planes_name_what_a_model_of_one_number_does_not():
  known = config.cells_by_name(SCALE)
  report = {"settings": [{"patch_size": 6, "num_tokens": None, "accuracy": 1}]}
  for name, number in (("fixed6_all", ALL), ("fixed6_8", 8)):
    plane = planes.from_reports(known[name], [report, report])
    assert plane == {dials.Setting((6, 6), number): [1, 1]}


def test_speed_is_that_of_the_trained_file():
  """Of all settings, in batches of 64, by the library's own Predictor."""

  class Profiled:
    def profile(self, batch_size, repeats):
      assert repeats == 15
      return [
        {**setting.row, "batch_size": batch_size, "forward_ms": 2.0 + i}
        for i, setting in enumerate(SCALE.settings)
      ]

  speed = run.speed(Profiled())
  assert set(speed) == set(SCALE.settings)
  assert speed[SCALE.settings[0]] == 32_000
  assert speed[SCALE.settings[2]] == 16_000
