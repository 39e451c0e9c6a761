"""A report's table of a metric of each class."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenlearner_flexivit.evaluators import shown_settings
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.figures.metric import Metric


def class_table(
  rows: Sequence[Mapping[str, Any]],
  names: Sequence[str],
  headline: str,
  prefix: str,
  metric: Metric,
) -> str:
  """Returns a metric of each class at the settings as Markdown.

  Args:
    rows: of the settings, with values named by prefix and class.
    names: of the classes, in order.
    headline: the metric that tells the best setting of a patch size, where
      there are more settings than columns.
    prefix: of the values' names.
    metric: their display.
  """
  settings = shown_settings.columns(rows, headline)
  known = [
    name
    for name in names
    if any(f"{prefix}{name}" in row for _, row in settings)
  ]
  lines = [
    {
      f"{metric.column} of": name,
      **{
        shown_settings.in_words(setting): (
          metric.text(row[f"{prefix}{name}"])
          if f"{prefix}{name}" in row
          else ""
        )
        for setting, row in settings
      },
    }
    for name in known
  ]
  return table.markdown(lines) if lines else ""
