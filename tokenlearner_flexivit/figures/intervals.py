"""Intervals of a share of examples, such as an accuracy."""

import math
import re

# Metrics that count examples which are right. An mAP is none.
_SHARES = ("accuracy", "single_accuracy", "top5", "agree1", "agree5")


def is_share(metric: str) -> bool:
  """Tells whether a metric of an evaluation is a share of its examples."""
  return metric in _SHARES or is_few_shot(metric)


def is_few_shot(metric: str) -> bool:
  """Tells whether a metric is the accuracy of a few-shot evaluation."""
  # A class may be named "screenshot", and its metric "AP/screenshot".
  return re.fullmatch(r"\d+shot(_tuned)?", metric) is not None


def in_percent(
  value: float, metric: str, count: int | None
) -> tuple[float, float] | None:
  """Returns the interval of a metric in percent; None where there is none.

  Args:
    value: of the metric, in [0, 1].
    metric: its name.
    count: of how many examples; None if that is not known.
  """
  if not count or not is_share(metric):
    return None
  low, high = of_share(value, count)
  return 100 * low, 100 * high


def of_share(share: float, count: int) -> tuple[float, float]:
  """Returns Wilson's interval of a share, which holds it in 95 % of cases.

  It is about which examples were drawn for the test, not about other seeds of
  the training (E. B. Wilson, JASA 22, 1927).

  Args:
    share: in [0, 1].
    count: of how many examples.
  """
  z = 1.96
  middle = (share + z * z / (2 * count)) / (1 + z * z / count)
  half = z / (1 + z * z / count)
  half *= math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
  return max(0.0, middle - half), min(1.0, middle + half)
