"""Tables of settings: the dials, what a setting costs, and its metrics."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.figures.metric import Metric

Row = dict[str, Any]
# The entry of a row that holds its headline before training.
BEFORE = "before_training"


def markdown(
  rows: Sequence[Row],
  metrics: Mapping[str, Metric],
  headline: str,
  kind: str = "image",
) -> str:
  """Returns the rows as a table, with spreads beside their means.

  Args:
    rows: of the settings, as in report.json.
    metrics: the display of the metrics to show.
    headline: the metric that gets an interval, if a row has its number of
      `examples`, and its value before training, if a row has that.
    kind: the model's input, "image" or "video".
  """

  def interval(row: Row) -> Row:
    bounds = metrics[headline].interval(row[headline], row.get("examples"))
    if bounds is None:
      return {}
    return {"95 % interval": "{:.1f} to {:.1f}".format(*bounds)}

  def before(row: Row) -> Row:
    metric = metrics[headline]
    if BEFORE not in row:
      return {}
    return {f"before: {metric.column}": metric.text(row[BEFORE])}

  return table.markdown(
    [
      {
        **shown_setting(row),
        "GMACs": terminal.number(row["gmacs"]),
        **_after_first(dict(_shown_metrics(row, metrics)), interval(row)),
        **before(row),
        # The rate of videos with all their views may be small.
        f"{kind}s/s": f"{(s := row['images_per_s']):.{0 if s >= 10 else 2}f}",
      }
      for row in rows
    ]
  )


def markdown_of_others(
  rows: Sequence[Row], metrics: Mapping[str, Metric]
) -> str:
  """Returns the rows of other things, by `name`, as a table."""
  return table.markdown(
    [
      {
        "": row["name"],
        **({"GMACs": terminal.number(row["gmacs"])} if "gmacs" in row else {}),
        **dict(_shown_metrics(row, metrics)),
      }
      for row in rows
    ]
  )


def shown_setting(row: Row) -> dict[str, Any]:
  """Returns the first columns of a row, which describe the setting."""
  columns = {k: v for k, v in dials.Setting.from_row(row).columns.items() if v}
  tokens = {} if row["seq_len"] is None else {"tokens": row["seq_len"]}
  return _after_first(columns, tokens)


def _after_first(shown: Row, more: Row) -> Row:
  """Inserts `more` after the first column of `shown`."""
  first = dict(itertools.islice(shown.items(), 1))
  return first | more | shown


def _shown_metrics(
  row: Row, metrics: Mapping[str, Metric]
) -> Iterator[tuple[str, str]]:
  """Yields column and cell of each metric of a row."""
  for name, metric in metrics.items():
    if name in row:
      yield metric.column, metric.text(row[name], row.get(f"{name}_std"))
