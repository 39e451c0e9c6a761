"""The best setting that a budget allows."""

import pytest

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import budget


def candidate(size, accuracy, gmacs, latency_ms, quickest_ms=None):
  setting = dials.Setting((size, size))
  return budget.Candidate(setting, accuracy, gmacs, latency_ms, quickest_ms)


# That of 12 px costs more operations than 16 but less time; 10 is dominated.
ALL = [
  candidate(24, 0.60, 1.0, 2.0),
  candidate(16, 0.70, 2.0, 5.0),
  candidate(12, 0.80, 3.0, 4.0),
  candidate(10, 0.75, 5.0, 9.0),
  candidate(8, 0.90, 8.0, 12.0),
]


@pytest.mark.parametrize(
  "demands, size",
  [
    (dict(budget_ms=100), 8),
    (dict(budget_ms=12), 8),  # The budget may be used up.
    (dict(budget_ms=11.9), 12),
    (dict(budget_ms=3), 24),
    (dict(gmacs=2.5), 16),
    (dict(gmacs=5), 12),
    (dict(budget_ms=11, gmacs=2.5), 16),
    (dict(min_accuracy=0.65), 12),  # Quicker than 16, if not cheaper.
    (dict(min_accuracy=0.0), 24),
    (dict(min_accuracy=0.9), 8),
    (dict(budget_ms=11, min_accuracy=0.65), 12),
  ],
)
def test_choice(demands, size):
  found = budget.choose(ALL, **demands)
  assert found.setting.patch_size == (size, size)


def test_budgets_that_no_setting_keeps_both():
  """The cheapest that it names keeps the other budget."""
  dear = budget.Candidate(dials.Setting((8, 8)), 0.9, 2.0, 5.0)
  slow = budget.Candidate(dials.Setting((16, 16)), 0.8, 1.0, 10.0)
  with pytest.raises(
    ValueError, match=r"gmacs=1.5 \(gflops=3\) with budget_ms=6 .*patch8"
  ):
    budget.choose([dear, slow], budget_ms=6, gmacs=1.5)


def test_operations_need_no_measuring():
  unmeasured = [c._replace(latency_ms=None) for c in ALL]
  assert budget.choose(unmeasured, gmacs=2.5) == unmeasured[1]


@pytest.mark.parametrize(
  "demands, words",
  [
    (dict(budget_ms=1.5), "budget_ms=1.5 .* patch24, needs 2 ms"),
    (
      dict(gmacs=0.5),
      r"gmacs=0.5 .* patch24, needs 1 GMACs for an image \(2 GFLOPs\)",
    ),
    # Each allows some, not the same.
    (
      dict(budget_ms=2.5, gmacs=0.9),
      r"gmacs=0.9 \(.*\) with budget_ms=2.5 .* patch24, needs 1 GMACs",
    ),
    (dict(min_accuracy=0.95), "no setting: .* patch8, has accuracy 0.9000"),
    (
      dict(budget_ms=11, min_accuracy=0.85),
      "within the budget: .* patch12, has accuracy 0.8000",
    ),
    ({}, "budget_ms, gmacs or min_accuracy"),
    (dict(budget_ms=0), "budget_ms=0 must be above 0"),
    (dict(gmacs=float("nan")), r"gmacs=nan \(gflops=nan\) must be above 0"),
    (dict(budget_ms=float("inf")), "budget_ms=inf must be .* finite"),
    (dict(budget_ms="5"), "budget_ms must be a number, got '5'"),
    (dict(min_accuracy=80), r"min_accuracy=80 must be in \[0, 1\]"),
  ],
)
def test_what_nothing_meets_is_told(demands, words):
  with pytest.raises(ValueError, match=words):
    budget.choose(ALL, **demands)


def test_a_metric_that_is_no_share_has_a_range_of_its_own():
  for value in (float("nan"), float("inf")):
    with pytest.raises(ValueError, match=f"min_accuracy={value} must be fini"):
      budget.check(min_accuracy=value, is_share=False)
  decibels = [c._replace(value=40 * c.value) for c in ALL]
  demand = dict(min_accuracy=26, metric="psnr", is_share=False)
  chosen = budget.choose(decibels, **demand)
  assert chosen.setting.patch_size == (12, 12)
  with pytest.raises(ValueError, match=r"has psnr 36\.0000"):
    budget.choose(decibels, **{**demand, "min_accuracy": 40})


def test_errors_name_the_metric_and_what_else_may_be_done():
  with pytest.raises(ValueError, match=r"\(here the mAP\).*has mAP 0.9000"):
    budget.choose(ALL, min_accuracy=0.95, metric="mAP")
  with pytest.raises(ValueError, match=r"2 ms for 13 images.*--batch_size=1"):
    budget.choose(ALL, budget_ms=1, num_images=13)


@pytest.mark.parametrize("demands", [{"min_accuracy": 0.5}, {"budget_ms": 20}])
def test_noise_does_not_choose_between_equally_good_ones(demands):
  """Twice the same settings, another one of them quicker by chance."""
  first = [candidate(8, 0.7, 4.0, 5.0, 2.0), candidate(24, 0.7, 1.0, 5.2, 2.1)]
  second = [candidate(8, 0.7, 4.0, 5.1, 2.2), candidate(24, 0.7, 1.0, 4.0, 2.0)]
  for candidates in (first, second):
    chosen = budget.choose(candidates, **demands)
    assert chosen.setting.patch_size == (24, 24)
  # Times that do not overlap do.
  slow = candidate(24, 0.7, 1.0, 9.0, 6.0)
  chosen = budget.choose([first[0], slow], **demands)
  assert chosen.setting.patch_size == (8, 8)
