"""The best setting that a budget allows."""

from collections.abc import Sequence
from typing import NamedTuple

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.analysis import plane


class Candidate(NamedTuple):
  """What is known of a setting.

  Attributes:
    setting: of the dials.
    accuracy: in [0, 1].
    gflops: 10⁹ operations for an image, counting multiplications and additions.
    latency_ms: of a call; None if it was not measured.
  """

  setting: dials.Setting
  accuracy: float
  gflops: float
  latency_ms: float | None = None


def choose(
  candidates: Sequence[Candidate],
  *,
  budget_ms: float | None = None,
  gflops: float | None = None,
  min_accuracy: float | None = None,
  num_images: int = 1,
) -> Candidate:
  """Chooses a setting on the Pareto front of accuracy against cost.

  With a budget, of time or operations or both, it is the most accurate that
  keeps it; with `min_accuracy` alone the quickest that reaches it.

  Args:
    candidates: at least one; with latencies unless `gflops` is the only budget.
    budget_ms: the most a call may take, in milliseconds.
    gflops: the most an image may need.
    min_accuracy: the least that it must reach, in [0, 1].
    num_images: of a call, for the error.

  Raises:
    ValueError: no demand or a senseless one, or none of the candidates meets
      it; then it says what the cheapest costs or the best reaches.
  """
  check(budget_ms=budget_ms, gflops=gflops, min_accuracy=min_accuracy)
  limits = {
    "latency_ms": (budget_ms, "budget_ms", f"ms for {num_images} at once"),
    "gflops": (gflops, "gflops", "GFLOPs for an image"),
  }
  kept, demanded = list(candidates), ""
  for field, (limit, name, unit) in limits.items():
    if limit is None:
      continue
    # Of those that keep the other budget, where there is one.
    cheapest = min(kept, key=lambda c: getattr(c, field))
    kept = [c for c in kept if getattr(c, field) <= limit]
    if not kept:
      raise ValueError(
        f"{name}={limit:g}{demanded} allows no setting: the cheapest, "
        f"{cheapest.setting.name}, needs {getattr(cheapest, field):.3g} {unit}."
      )
    demanded = f" with {name}={limit:g}"
  has_budget = budget_ms is not None or gflops is not None
  field = "gflops" if budget_ms is None and has_budget else "latency_ms"
  front = plane.front(
    [getattr(c, field) for c in kept], [c.accuracy for c in kept]
  )
  best = kept[front[-1]]
  if min_accuracy is None:
    return best
  if best.accuracy < min_accuracy:
    within = " within the budget" if has_budget else ""
    raise ValueError(
      f"min_accuracy={min_accuracy:g} is reached by no setting{within}: the "
      f"best, {best.setting.name}, has {best.accuracy:.4f}."
    )
  if has_budget:
    return best
  return next(kept[i] for i in front if kept[i].accuracy >= min_accuracy)


def check(
  *,
  budget_ms: float | None = None,
  gflops: float | None = None,
  min_accuracy: float | None = None,
) -> None:
  """Raises ValueError for demands that `choose` does not take."""
  budgets = {"budget_ms": budget_ms, "gflops": gflops}
  if all(value is None for value in (*budgets.values(), min_accuracy)):
    raise ValueError("Give budget_ms, gflops or min_accuracy.")
  for name, value in budgets.items():
    if value is not None and not value > 0:
      raise ValueError(f"{name}={value} must be above 0.")
  if min_accuracy is not None and not 0 <= min_accuracy <= 1:
    raise ValueError(f"min_accuracy={min_accuracy} must be in [0, 1].")
