"""Values over seeds: their spread, and the one rule that judges claims."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

from tokenlearner_flexivit.figures import table

Row = dict[str, Any]
_CONFIDENCE = 0.95


def spread(values: Iterable[float]) -> Row:
  """Returns mean, standard deviation (of the sample) and values of the seeds.

  One seed has no deviation: it is None.
  """
  values = list(values)
  return {
    "mean": statistics.fmean(values),
    "std": statistics.stdev(values) if len(values) > 1 else None,
    "by_seed": values,
  }


def minutes(seconds: Iterable[float]) -> str:
  """Returns the mean of the seeds' training times, given in seconds."""
  return f"{statistics.fmean(seconds) / 60:.1f}"


def points(over: Sequence[float], under: Sequence[float]) -> list[float]:
  """Returns the differences of shares in points, seed by seed."""
  return [100 * (a - b) for a, b in zip(over, under, strict=True)]


def between(rows: Mapping[str, Row], over: str, under: str) -> list[float]:
  """Returns by how many points a cell is above another, seed by seed.

  Args:
    rows: of results.json, by cell.
    over: a cell.
    under: the one to compare it with.
  """
  return points(*(rows[cell]["accuracy"]["by_seed"] for cell in (over, under)))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
  """Returns the mean and its standard error over the seeds, None for one."""
  error = float(stats.sem(values)) if len(values) > 1 else None
  return statistics.fmean(values), error


def shown(points: Sequence[float]) -> str:
  """Returns the mean of differences in points, with its standard error."""
  return plus_minus(*mean_and_error(points), "+.1f")


def listed(points: Mapping[Any, Sequence[float]]) -> str:
  """Returns differences in points by name, such as "6: +1.2 ± 0.3, ..."."""
  return ", ".join(f"{name}: {shown(each)}" for name, each in points.items())


def verdict(*margins: float | Sequence[float]) -> str:
  """Judges a claim by how far numbers are above what it asks for.

  This is the rule of all studies. A margin with a value for each seed is above
  0 if its 95 % t interval is, and below 0 if its interval is; of one seed
  nothing can be said. For differences seed by seed it is the paired t test.
  A margin of one number, which no seed moves (a count, a cost in closed form,
  a measured time), is compared with 0 as it is.

  Args:
    *margins: all must be above 0, for the claim to hold. One number may be 0.

  Returns:
    "yes", "no" (one is below 0), or "undecided".
  """
  verdicts = {_verdict(margin) for margin in margins} or {"undecided"}
  return next(v for v in ("no", "undecided", "yes") if v in verdicts)


def _verdict(margin: float | Sequence[float]) -> str:
  if not isinstance(margin, Sequence):
    return "yes" if margin >= 0 else "no"
  low, high = interval(margin)
  return "yes" if low > 0 else "no" if high < 0 else "undecided"


def interval(values: Sequence[float]) -> tuple[float, float]:
  """Returns the t interval that holds the mean over seeds in 95 % of cases."""
  mean, error = mean_and_error(values)
  if error is None:
    return -math.inf, math.inf
  half = error * stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)
  return mean - half, mean + half


def claim(
  text: str,
  source: str,
  expected: str,
  measured: str | float,
  *margins: float | Sequence[float],
) -> Row:
  """Returns a row of results.json's claims: what is said, and what was found.

  Args:
    text: the statement.
    source: who says so.
    expected: what they found, or what would satisfy it.
    measured: what was found here.
    *margins: see `verdict`.
  """
  return {
    "claim": text,
    "source": source,
    "expected": expected,
    "measured": measured,
    "verdict": verdict(*margins),
  }


def table_of_claims(claims: Iterable[Row]) -> str:
  """Returns claims as a table in Markdown."""
  return table.markdown(
    [
      {
        "statement": claim["claim"],
        "source": claim["source"],
        "expected": claim["expected"],
        "here": claim["measured"],
        "holds": claim["verdict"],
      }
      for claim in claims
    ]
  )


def plus_minus(
  value: float, error: float | None, pattern: str, unit: str = ""
) -> str:
  """Returns a value with its error, or with the remark that it has none.

  Args:
    value: a mean over seeds.
    error: its deviation or standard error; None for one seed.
    pattern: formats the value, such as "+.2f".
    unit: of both, such as " %".
  """
  if error is None:
    return f"{value:{pattern}}{unit} (one seed)"
  return f"{value:{pattern}} ± {error:{pattern.removeprefix('+')}}{unit}"


def percent(values: Mapping[str, Any], digits: int, unit: str = " %") -> str:
  """Returns a share of `spread` in percent, with its deviation."""
  std = None if values["std"] is None else 100 * values["std"]
  return plus_minus(100 * values["mean"], std, f".{digits}f", unit)


def bars(errors: Iterable[float | None]) -> list[float]:
  """Returns the lengths of error bars: none is drawn for one seed."""
  return [math.nan if error is None else error for error in errors]
