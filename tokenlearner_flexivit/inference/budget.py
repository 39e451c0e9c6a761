"""The choice of the best setting within a budget."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.models import checks


class Candidate(NamedTuple):
  """A setting with its measured value and costs.

  Attributes:
    setting: of the dials.
    value: of the metric that settings are compared by; higher is better.
    gmacs: 10⁹ multiply-adds for an image.
    latency_ms: the time that nine of ten calls stay below; None if it was not
      measured.
    quickest_ms: the time that nine of ten calls exceed; None for `latency_ms`.
  """

  setting: dials.Setting
  value: float
  gmacs: float
  latency_ms: float | None = None
  quickest_ms: float | None = None


def choose(
  candidates: Sequence[Candidate],
  *,
  budget_ms: float | None = None,
  gmacs: float | None = None,
  min_accuracy: float | None = None,
  num_images: int = 1,
  metric: str = "accuracy",
  is_share: bool = True,
) -> Candidate:
  """Returns the best setting that meets the demands.

  With a budget of time, multiply-adds or both, it is the most accurate setting
  within it; with `min_accuracy` alone, the quickest that reaches it. Among
  equally accurate settings it is the cheapest. Where time counts, settings
  whose times overlap are taken as equally quick, and the one with fewest
  multiply-adds is returned, so that a noisy measurement does not decide.

  Args:
    candidates: at least one; with latencies unless `gmacs` is the only budget.
    budget_ms: the most a call may take, in milliseconds.
    gmacs: the most 10⁹ multiply-adds that an image may need.
    min_accuracy: the least value of the metric.
    num_images: of a call, for the error.
    metric: the name of the candidates' values, for the error.
    is_share: whether the values are in [0, 1].

  Raises:
    ValueError: no demand, an invalid one, or one that no candidate meets; then
      the error names the cost of the cheapest or the value of the best.
  """
  check(
    budget_ms=budget_ms,
    gmacs=gmacs,
    min_accuracy=min_accuracy,
    is_share=is_share,
  )
  kept, demanded = list(candidates), ""
  limits = {"latency_ms": budget_ms, "gmacs": gmacs}
  for field, limit in limits.items():
    if limit is None:
      continue
    named = _named(field, limit)
    # The cheapest of those within the other budget, if there is another.
    cheapest = min(kept, key=lambda c: getattr(c, field))
    kept = [c for c in kept if getattr(c, field) <= limit]
    if not kept:
      raise ValueError(
        f"{named}{demanded} allows no setting: the cheapest, "
        f"{cheapest.setting.name}, needs "
        f"{_needs(field, getattr(cheapest, field), num_images)}"
      )
    demanded = f" with {named}"
  has_budget = budget_ms is not None or gmacs is not None
  best = max(kept, key=lambda c: c.value)
  least = best.value
  if min_accuracy is not None:
    if best.value < min_accuracy:
      within = " within the budget" if has_budget else ""
      metric_hint = "" if metric == "accuracy" else f" (here the {metric})"
      raise ValueError(
        f"min_accuracy={min_accuracy:g}{metric_hint} is reached by no setting"
        f"{within}: the best, {best.setting.name}, has {metric} "
        f"{best.value:.4f}."
      )
    least = best.value if has_budget else min_accuracy
  good = [c for c in kept if c.value >= least]
  if budget_ms is not None or not has_budget:
    quickest = min(c.latency_ms for c in good)
    good = [c for c in good if (c.quickest_ms or c.latency_ms) <= quickest]
  return min(good, key=lambda c: (c.gmacs, -c.value))


def _named(field: str, limit: float) -> str:
  """Returns a budget in the form of the argument that set it."""
  if field == "gmacs":
    return f"gmacs={limit:g} (gflops={2 * limit:g})"
  return f"budget_ms={limit:g}"


def _needs(field: str, value: float, num_images: int) -> str:
  """Returns the cost of the cheapest setting, and advice, as a sentence."""
  if field == "gmacs":
    needed, flops = (terminal.number(x, 3) for x in (value, 2 * value))
    return f"{needed} GMACs for an image ({flops} GFLOPs)."
  milliseconds = terminal.number(value, 3)
  if num_images == 1:
    return f"{milliseconds} ms for an image."
  return (
    f"{milliseconds} ms for {num_images} images at once. The budget is that of "
    "a call: give fewer images per call (the command's --batch_size=1), or a "
    "larger budget."
  )


def check(
  *,
  budget_ms: float | None = None,
  gmacs: float | None = None,
  min_accuracy: float | None = None,
  is_share: bool = True,
) -> None:
  """Raises ValueError for demands that `choose` does not accept."""
  limits = {"latency_ms": budget_ms, "gmacs": gmacs}
  if all(value is None for value in (*limits.values(), min_accuracy)):
    raise ValueError("Give budget_ms, gmacs or min_accuracy.")
  for name, value in dict(
    budget_ms=budget_ms, gmacs=gmacs, min_accuracy=min_accuracy
  ).items():
    if value is not None:
      checks.number(value, name)
  for field, limit in limits.items():
    if limit is not None and not 0 < limit < math.inf:
      raise ValueError(f"{_named(field, limit)} must be above 0 and finite.")
  if min_accuracy is not None and not math.isfinite(min_accuracy):
    raise ValueError(f"min_accuracy={min_accuracy} must be finite.")
  if is_share and min_accuracy is not None and not 0 <= min_accuracy <= 1:
    raise ValueError(f"min_accuracy={min_accuracy} must be in [0, 1].")
