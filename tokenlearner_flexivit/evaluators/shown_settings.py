"""The settings that tables and pictures of a report show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.figures.metric import Metric

Row = Mapping[str, Any]
# A wider table is cut off in many viewers.
_MAX_COLUMNS = 10
_MAX_PICTURES = 3


def by_patch_size(
  rows: Sequence[Row], headline: str
) -> list[tuple[dials.Setting, Row]]:
  """Returns the best setting of each patch size, from small to large.

  Args:
    rows: of the settings, as in a report.
    headline: the metric that tells the best.
  """
  best = {}
  for row in rows:
    setting = dials.Setting.from_row(row)
    size = setting.patch_size or (0, 0)
    if size not in best or row[headline] > best[size][1][headline]:
      best[size] = setting, row
  return [best[size] for size in sorted(best, key=lambda s: (s[0] * s[1], s))]


def columns(
  rows: Sequence[Row], headline: str
) -> list[tuple[dials.Setting, Row]]:
  """Returns the settings of a table's columns: all, or the best of some sizes.

  Args:
    rows: of the settings, as in a report.
    headline: the metric that tells the best.
  """
  if len(rows) <= _MAX_COLUMNS:
    return [(dials.Setting.from_row(row), row) for row in rows]
  return thinned(by_patch_size(rows, headline), _MAX_COLUMNS)


def pictured(
  rows: Sequence[Row], headline: str
) -> list[tuple[dials.Setting, Row]]:
  """Returns the best settings of the smallest, middle and largest patch size.

  Args:
    rows: of the settings, as in a report.
    headline: the metric that tells the best.
  """
  return thinned(by_patch_size(rows, headline), _MAX_PICTURES)


def heading(
  setting: dials.Setting, row: Row, headline: str, metric: Metric
) -> str:
  """Returns the head of a setting's pictures: its name, and how good it is.

  Args:
    setting: of the dials.
    row: of the report.
    headline: the metric to tell.
    metric: its display.
  """
  value = f"{metric.title} {metric.text(row[headline])} {metric.unit}"
  return f"{in_words(setting)}\n{value}".rstrip()


def thinned(items: Sequence[Any], number: int) -> list[Any]:
  """Returns at most so many items, evenly spaced, with both ends."""
  if len(items) <= number:
    return list(items)
  return [
    items[round(i)] for i in np.linspace(0, len(items) - 1, number).tolist()
  ]


def in_words(setting: dials.Setting) -> str:
  """Returns a setting for the head of a column: "patch 16, 8 tokens"."""
  cells = [text for text in setting.cells.values() if text]
  if not cells:
    return "the model's own"
  first, *others = cells
  if setting.patch_size is None:
    return f"{first} tokens"
  return ", ".join([f"patch {first}", *(f"{text} tokens" for text in others)])
