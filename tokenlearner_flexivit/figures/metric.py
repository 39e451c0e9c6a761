"""How measures of a model are shown, and how sure they are."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Metric:
  """How one measure of an evaluation is shown to people.

  Attributes:
    title: such as "top-5".
    unit: "%" of a value in [0, 1], which is shown times 100; any other stands
      behind the title as it is.
    is_share: whether the value is the share of the examples that are right, so
      that it has an interval.
  """

  title: str
  unit: str = ""
  is_share: bool = False

  @property
  def column(self) -> str:
    """The title of a column: "accuracy %"."""
    return f"{self.title} {self.unit}".rstrip()

  @property
  def axis(self) -> str:
    """The label of an axis: "accuracy in %"."""
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
      value: not yet scaled.
      count: of how many examples; None if that is not known.

    Returns:
      Its ends; None where it has none.
    """
    if not (self.is_share and count):
      return None
    low, high = wilson(value, count)
    return self.scaled(low), self.scaled(high)


def from_report(report: Mapping[str, Any], name: str) -> Metric:
  """Returns how a report's metric is shown, also that of version 0.1."""
  about = report.get("metrics", {}).get(name)
  if about is None:  # Version 0.1 had shares alone as headlines, and mAP.
    return Metric(name, "%", is_share=name != "mAP")
  return Metric(**about)


def wilson(share: float, count: float) -> tuple[float, float]:
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
