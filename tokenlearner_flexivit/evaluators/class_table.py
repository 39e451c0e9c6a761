"""A metric of each class: its names, and a report's table of it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tokenlearner_flexivit.evaluators import shown_settings
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.figures.metric import Metric


def metric_names(
  prefix: str, classes: Sequence[Any], others: Collection[str] = ()
) -> list[str]:
  """Returns a name of a metric for each class, all different.

  It is the prefix and the class, in which a slash becomes an underscore, since
  slashes separate settings from metrics. If this is the name of another metric
  or of an earlier class, the number of the class is put behind it.

  Args:
    prefix: of the names, such as "AP_".
    classes: their names or numbers, in order.
    others: names of metrics that are no class's, such as "AP_small".
  """
  names, taken = [], set(others)
  for number, label in enumerate(classes):
    name = f"{prefix}{label}".replace("/", "_")
    while name in taken:
      name = f"{name}_{number}"
    taken.add(name)
    names.append(name)
  return names


def class_table(
  rows: Sequence[Mapping[str, Any]],
  classes: Sequence[Any],
  names: Sequence[str],
  headline: str,
  metric: Metric,
) -> str:
  """Returns a metric of each class at the settings as Markdown.

  Args:
    rows: of the settings, with values by `names`.
    classes: names or numbers of the classes, in order.
    names: of their metrics, a result of `metric_names`.
    headline: the metric that tells the best setting of a patch size, where
      there are more settings than columns.
    metric: display of the values.
  """
  settings = shown_settings.columns(rows, headline)
  lines = [
    {
      f"{metric.column} of": label,
      **{
        shown_settings.in_words(setting): (
          metric.text(row[name]) if name in row else ""
        )
        for setting, row in settings
      },
    }
    for label, name in zip(classes, names, strict=True)
    if any(name in row for _, row in settings)
  ]
  return table.markdown(lines) if lines else ""
