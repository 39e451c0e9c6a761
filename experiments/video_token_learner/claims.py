"""What TokenLearner is to reach on videos, and whether it does."""

from collections.abc import Mapping

from experiments import study
from experiments.video_token_learner import cells

_GOAL = "this project's goal"
_PAPER = "TokenLearner (NeurIPS 2021), ablation on Charades"
_WHY = "this project, to explain the others"


def claims(rows: Mapping[str, study.Row]) -> list[study.Row]:
  """Returns the claims, as `study.claim` does.

  Args:
    rows: by cell, those of results.json.
  """
  near, error = _over(rows, "learned8", cells.BASELINE)
  share = rows["learned8"]["gmacs_ratio"]
  return [
    study.claim(
      "8 learned tokens per frame are within 1 point of all tokens, at most "
      "60 % of their multiply-adds",
      _GOAL,
      ">= -1 point, <= 60 %",
      f"{study.plus_minus(near, error, '+.2f')} points at {100 * share:.0f} %",
      near >= -1 and share <= 0.6,
    ),
    _above(rows, "learned8", "frame", _PAPER, "59.6 against 58.6 mAP"),
    _above(rows, "learned8", "fixed8", _PAPER, "59.6 against 58.8 mAP"),
    _above(rows, "learned8_first", "frame_first", _WHY, "above 0"),
    _above(rows, "learned8_first", "fixed8_first", _WHY, "above 0"),
  ]


def _over(
  rows: Mapping[str, study.Row], over: str, under: str
) -> tuple[float, float | None]:
  """Points of accuracy between two cells, and their standard error."""
  return study.paired_difference(
    *(rows[name]["accuracy"]["by_seed"] for name in (over, under))
  )


def _above(
  rows: Mapping[str, study.Row],
  over: str,
  under: str,
  source: str,
  expected: str,
) -> study.Row:
  """Judges whether one cell is more accurate than another."""
  points, error = _over(rows, over, under)
  return study.claim(
    f"`{over}` is better than `{under}`",
    source,
    expected,
    f"{study.plus_minus(points, error, '+.2f')} points",
    points > 0,
  )
