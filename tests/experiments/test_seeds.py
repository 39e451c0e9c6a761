"""Values over seeds, and the rule that judges claims."""

import numpy as np
import pytest
from scipy import stats

from experiments import seeds


def test_spread():
  assert seeds.spread([1.0]) == {"mean": 1, "std": None, "by_seed": [1]}
  spread = seeds.spread(iter([1.0, 2.0, 3.0]))
  assert (spread["mean"], spread["std"]) == (2, 1)


def test_one_seed_has_no_error():
  mean, error = seeds.mean_and_error(seeds.points([0.9], [0.8]))
  assert mean == pytest.approx(10) and error is None
  assert seeds.plus_minus(mean, error, "+.1f") == "+10.0 (one seed)"
  assert seeds.percent(seeds.spread([0.5]), 1) == "50.0 % (one seed)"
  assert np.isnan(seeds.bars([error])).all()


def test_several_seeds_have_one():
  mean, error = seeds.mean_and_error(seeds.points([0.9, 0.7], [0.8, 0.7]))
  # Differences of 10 and 0 points: deviation sqrt(50), over sqrt(2).
  assert (mean, error) == (pytest.approx(5), pytest.approx(5))
  assert seeds.plus_minus(mean, error, "+.2f") == "+5.00 ± 5.00"
  assert seeds.percent(seeds.spread([0.5, 0.6, 0.7]), 1) == "60.0 ± 10.0 %"


@pytest.mark.parametrize(
  "margins, verdict",
  [
    ([[1.0, 1.1, 0.9]], "yes"),
    ([[-1.0, -1.1, -0.9]], "no"),
    # A mean of 1 with a standard error of 0.58: the interval has 0.
    ([[0.0, 1.0, 2.0]], "undecided"),
    ([[100.0]], "undecided"),  # One seed.
    ([[0.0, 0.0, 0.0]], "undecided"),  # Neither above nor below.
    ([0.0], "yes"),  # No seed moves it.
    ([-1e-9], "no"),
    ([[1.0, 1.1, 0.9], 2.0], "yes"),
    ([[1.0, 1.1, 0.9], -2.0], "no"),
    ([[1.0, 1.1, 0.9], [0.0, 1.0, 2.0]], "undecided"),
    ([[-1.0, -1.1, -0.9], [0.0, 1.0, 2.0]], "no"),
    ([], "undecided"),
  ],
)
def test_verdicts(margins, verdict):
  assert seeds.verdict(*margins) == verdict


def test_the_rule_is_the_paired_t_test():
  over, under = np.random.default_rng(0).uniform(0.6, 0.8, (2, 4))
  test = stats.ttest_rel(over, under)
  low, high = 100 * np.array(test.confidence_interval(0.95))
  assert seeds.interval(seeds.points(over, under)) == pytest.approx((low, high))


def test_claims_are_shown_with_their_verdict():
  row = seeds.claim("so", "us", "more", "10", [1.0])
  assert row == {
    "claim": "so",
    "source": "us",
    "expected": "more",
    "measured": "10",
    "verdict": "undecided",
  }
  assert "| undecided |" in seeds.table_of_claims([row])
