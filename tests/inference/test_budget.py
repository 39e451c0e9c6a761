"""The best setting that a budget allows."""

import pytest

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.inference import budget


def candidate(size, accuracy, gflops, latency_ms):
  setting = dials.Setting((size, size))
  return budget.Candidate(setting, accuracy, gflops, latency_ms)


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
    (dict(gflops=2.5), 16),
    (dict(gflops=5), 12),
    (dict(budget_ms=11, gflops=2.5), 16),
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
  with pytest.raises(ValueError, match=r"gflops=1.5 with budget_ms=6 .*patch8"):
    budget.choose([dear, slow], budget_ms=6, gflops=1.5)


def test_operations_need_no_measuring():
  unmeasured = [c._replace(latency_ms=None) for c in ALL]
  assert budget.choose(unmeasured, gflops=2.5) == unmeasured[1]


@pytest.mark.parametrize(
  "demands, words",
  [
    (dict(budget_ms=1.5), "budget_ms=1.5 .* patch24, needs 2 ms"),
    (dict(gflops=0.5), "gflops=0.5 .* patch24, needs 1 GFLOPs"),
    # Each allows some, not the same.
    (
      dict(budget_ms=2.5, gflops=0.9),
      "gflops=0.9 with budget_ms=2.5 .* patch24, needs 1 GFLOPs",
    ),
    (dict(min_accuracy=0.95), "no setting: .* patch8, has 0.9000"),
    (
      dict(budget_ms=11, min_accuracy=0.85),
      "within the budget: .* patch12, has 0.8000",
    ),
    ({}, "budget_ms, gflops or min_accuracy"),
    (dict(budget_ms=0), "budget_ms=0 must be above 0"),
    (dict(gflops=float("nan")), "gflops=nan must be above 0"),
    (dict(min_accuracy=80), r"min_accuracy=80 must be in \[0, 1\]"),
  ],
)
def test_what_nothing_meets_is_told(demands, words):
  with pytest.raises(ValueError, match=words):
    budget.choose(ALL, **demands)
