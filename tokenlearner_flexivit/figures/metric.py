"""Metrics of a model: how they are shown, and their confidence intervals."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Metric:
  """One metric of an evaluation and how it is shown to people.

  Attributes:
    title: name for people, such as "top-5".
    unit: "%" for a value in [0, 1], which is shown times 100; any other unit is
      shown behind the title and scales nothing.
    is_share: whether the value is the share of the examples that are right, so
      that it has an interval.
  """

  title: str
  unit: str = ""
  is_share: bool = False

  @property
  def column(self) -> str:
    """Returns the title of a column: "accuracy %"."""
    return f"{self.title} {self.unit}".rstrip()

  @property
  def axis(self) -> str:
    """Returns the label of an axis: "accuracy in %"."""
    return f"{self.title} in {self.unit}" if self.unit else self.title

  def scaled(self, value: float) -> float:
    """Returns a value as it is shown."""
    return 100 * value if self.unit == "%" else value

  def text(self, value: float, spread: float | None = None) -> str:
    """Returns a value, and its spread if it has one, as text."""
    digits = 2 if self.unit == "%" else 4
    shown = f"{self.scaled(value):.{digits}f}"
    if spread is None:
      return shown
    return f"{shown} ± {self.scaled(spread):.{digits}f}"

  def interval(
    self, value: float, count: float | None
  ) -> tuple[float, float] | None:
    """Returns the interval that holds a value in 95 % of cases, as shown.

    Args:
      value: the value, not scaled.
      count: number of examples behind it; None if unknown.

    Returns:
      The ends of the interval; None where the metric has none.
    """
    if not (self.is_share and count):
      return None
    low, high = wilson(value, count)
    return self.scaled(low), self.scaled(high)


def from_report(report: Mapping[str, Any], name: str) -> Metric:
  """Returns the metric of a report, also of a report of version 0.1."""
  about = report.get("metrics", {}).get(name)
  if about is None:  # The headlines of version 0.1 were shares or mAP.
    return Metric(name, "%", is_share=name != "mAP")
  return Metric(**about)


def wilson(share: float, count: float) -> tuple[float, float]:
  """Returns Wilson's interval of a share, which holds it in 95 % of cases.

  The interval covers the choice of test examples, not that of the training's
  seed (E. B. Wilson, JASA 22, 1927).

  Args:
    share: in [0, 1].
    count: number of examples.
  """
  z = 1.96
  middle = (share + z * z / (2 * count)) / (1 + z * z / count)
  half = z / (1 + z * z / count)
  half *= math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
  return max(0.0, middle - half), min(1.0, middle + half)
