"""The study of both dials compares what it says, and judges by numbers."""

import cv2
import pytest

from experiments.two_dials import (
  cells,
  claims,
  config,
  hull,
  pictures,
  planes,
  summary,
)
from tokenlearner_flexivit import dials
from tokenlearner_flexivit.models.token_learner import ALL

SCALE = cells.SCALES["cpu"]


def test_cells_differ_in_model_and_dials_alone():
  base = config.get_config("cell=two_dials,seed=1").to_dict()
  assert base["flexi"]["num_tokens"]["values"] == (ALL, *SCALE.numbers)
  for name, cell in cells.of(SCALE).items():
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


@pytest.mark.parametrize("scale", cells.SCALES.values(), ids=cells.SCALES)
def test_the_dials_span_what_the_study_needs(scale):
  cost = planes.costs(scale)
  assert max(cost.values()) > 8 * min(cost.values())
  assert all(scale.crop % size == 0 for size in scale.sizes)


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


def make_planes(lost=0.0):
  """Planes of three seeds; both dials are `lost` below the fixed models."""
  seeds = (0.0, 0.01, 0.02)
  fixed = {
    s: [0.9 - s.patch_size[0] / 100 + (s.num_tokens == ALL) / 50 + seed
        for seed in seeds]
    for s in SCALE.settings
  }  # fmt: skip
  trained = {cells.fixed(s): {s: values} for s, values in fixed.items()}
  trained["two_dials"] = {s: [v - lost for v in fixed[s]] for s in fixed}
  trained["same_steps"] = trained["two_dials"]
  trained["patch_size"] = {s: fixed[s] for s in fixed if s.num_tokens == ALL}
  return trained


def speeds(ratio):
  values = [1000.0] * (len(SCALE.settings) - 1) + [1000.0 / ratio]
  return dict(zip(SCALE.settings, values, strict=True))


def judge(trained, ratio, trained_out=None):
  trained_out = trained_out or {}
  return claims.claims(SCALE, trained, speeds(ratio), trained_out)


def test_claims_follow_the_numbers():
  held = [c["holds"] for c in judge(make_planes(), 9)]
  assert held == [True, True, True, True, True]
  found = judge(make_planes(0.014), 7)
  assert [c["holds"] for c in found] == [True, True, False, False, False]
  assert "4 times the steps" in found[0]["claim"]
  assert "1.4 points below" in found[2]["measured"]
  assert "1.4 points below" in found[3]["measured"]
  assert "7.0x" in found[4]["measured"]
  found = judge(make_planes(0.016), 9)
  assert not found[0]["holds"]
  assert found[0]["measured"].startswith("0 of 9 settings; worst -1.6 points")


def test_models_that_had_more_steps_have_a_claim_of_their_own():
  trained_out = planes.of_flexivit_curves(SCALE, "")
  assert [s.patch_size[0] for s in trained_out] == list(SCALE.sizes)
  assert all(len(values) == 3 for values in trained_out.values())
  assert planes.of_flexivit_curves(SCALE, "_nowhere") == {}
  trained = make_planes()
  same = {s: trained["two_dials"][s][:2] for s in trained_out}
  found = judge(trained, 9, same)
  assert len(found) == 6 and "2,400 steps" in found[2]["claim"]
  assert "3 of 3 settings; worst +0.5 points" in found[2]["measured"]


def test_planes_name_what_a_model_of_one_number_does_not():
  known = cells.of(SCALE)
  report = {"settings": [{"patch_size": 6, "num_tokens": None, "accuracy": 1}]}
  for name, number in (("fixed6_all", ALL), ("fixed6_8", 8)):
    plane = planes.of_reports(known[name], [report, report])
    assert plane == {dials.Setting((6, 6), number): [1, 1]}


def test_speed_is_that_of_the_trained_file():
  """Of all settings, in batches of 64, by the library's own Predictor."""

  class Profiled:
    def profile(self, batch_size, repeats):
      assert repeats == 3
      return [
        {**setting.row, "batch_size": batch_size, "forward_ms": 2.0 + i}
        for i, setting in enumerate(SCALE.settings)
      ]

  speed = summary.speed(Profiled(), rounds=3)
  assert set(speed) == set(SCALE.settings)
  assert speed[SCALE.settings[0]] == 32_000
  assert speed[SCALE.settings[2]] == 16_000


def test_table_and_picture(tmp_path):
  trained = make_planes(0.01)
  rows = summary.rows(SCALE, trained, speeds(9))
  text = summary.tables(rows, judge(trained, 9))
  assert text.count("| all ") == len(SCALE.sizes)
  assert "87.0 ± 1.0" in text  # 92 - 6 + 1 of /6, all.
  pictures.draw(SCALE, trained, speeds(9), tmp_path / "figure.png")
  assert cv2.imread(str(tmp_path / "figure.png")).shape[0] > 500
