"""What the TokenLearner paper says of images, and whether it holds here."""

from collections.abc import Mapping
from typing import Any

from experiments import study

Row = dict[str, Any]


def difference(rows: Mapping[str, Row], over: str, under: str) -> Row:
  """Accuracy of one cell minus that of another, seed by seed.

  Args:
    rows: by cell.
    over: a cell.
    under: the one to compare it with.

  Returns:
    In points of accuracy: `mean`, and `error`, the standard error of the mean
    over the seeds, None for one.
  """
  mean, error = study.paired_difference(
    *(rows[cell]["accuracy"]["by_seed"] for cell in (over, under))
  )
  return {"mean": mean, "error": error}


# Claim, source, what was published, and what must be over what by how many
# points; then at what share of its cost.
_CLAIMS = (
  (
    "TokenLearner at 1/2 is as good as the baseline (within 1 point) at about "
    "half the cost (at most 60 %)",
    "Figure 4",
    "about equal, at about half the compute (B/16, 8 tokens)",
    ("at1_2", "baseline", -1.0, 0.6),
  ),
  (
    "at 3/4 it is better than the baseline, and still cheaper",
    "Figure 4",
    "above the baseline",
    ("at3_4", "baseline", 0.0, 1.0),
  ),
  (
    "at 0 it is clearly worse (by more than 1 point)",
    "Figure 4",
    "drops clearly",
    ("baseline", "at0", 1.0, None),
  ),
  (
    "16 learned tokens are better than averages over as many rectangles",
    "Section 5, ablations",
    "pooling loses accuracy at equal cost",
    ("at1_2", "average16", 0.0, None),
  ),
  (
    "8 learned tokens are better than averages over as many rectangles",
    "Section 5, ablations",
    "pooling loses accuracy at equal cost",
    ("tokens8", "average8", 0.0, None),
  ),
  (
    "blocks added after TokenLearner beat the baseline at its cost",
    "Table 1",
    "85.21 % (8 tokens, 21 layers, 47.1 GFLOPS) against 84.73 % (B/16, 55.6)",
    ("deeper", "baseline", 0.0, 1.0),
  ),
  (
    "16 tokens are better than 8",
    "Table 1",
    "85.45 % against 85.21 % (B/16, 21 layers)",
    ("at1_2", "tokens8", 0.0, None),
  ),
  (
    "TokenFuser is a small gain",
    "Section 5, ablations",
    "a small gain",
    ("fuser", "at1_2", 0.0, None),
  ),
  (
    "v1.1 is better than v1.0",
    "the published code's README",
    "works better in general",
    ("at1_2", "v1_0", 0.0, None),
  ),
)


def claims(rows: Mapping[str, Row]) -> list[Row]:
  """Joins what was published with what was measured.

  Args:
    rows: by cell, those of results.json.

  Returns:
    For each claim `claim`, `source`, `expected`, `measured`, `holds`, and
    `points` as in `difference`.
  """
  found = []
  for claim, source, published, (over, under, least, share) in _CLAIMS:
    points = difference(rows, over, under)
    cost = rows[over]["gmacs"] / rows[under]["gmacs"]
    measured = (
      f"{study.plus_minus(points['mean'], points['error'], '+.2f')} points "
      f"({over} against {under})"
    )
    if share is not None:
      measured += f" at {100 * cost:.0f} % of the multiply-adds"
    holds = points["mean"] > least and (share is None or cost <= share)
    judged = study.claim(
      claim, f"TokenLearner, {source}", published, measured, holds
    )
    found.append(judged | {"points": points})
  return found
