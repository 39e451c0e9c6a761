"""Tables that are Markdown and readable as plain text."""

import re
from collections.abc import Sequence
from typing import Any

_NUMBER = re.compile(r"[-+]?\d|$")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
  """Returns a table of rows, dicts whose equal keys become the columns.

  Columns that hold only numbers, perhaps with units, are right-aligned. A "|"
  in a cell, as in a class's name, is escaped.
  """
  columns = list(rows[0])
  cells = [
    [str(row[column]).replace("|", "\\|") for row in rows] for column in columns
  ]
  lines = [[] for _ in range(len(rows) + 2)]
  for column, values in zip(columns, cells, strict=True):
    width = max(map(len, [column, *values]))
    if all(map(_NUMBER.match, values)):
      align, rule = str.rjust, "-" * (width + 1) + ":"
    else:
      align, rule = str.ljust, "-" * (width + 2)
    padded = [f" {align(value, width)} " for value in (column, *values)]
    for line, cell in zip(lines, [padded[0], rule, *padded[1:]], strict=True):
      line.append(cell)
  return "\n".join("|" + "|".join(line) + "|" for line in lines)
