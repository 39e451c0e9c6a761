"""Tables that are Markdown and readable as plain text."""

from collections.abc import Sequence
from typing import Any


def markdown(rows: Sequence[dict[str, Any]]) -> str:
  """Formats rows, dicts of equal keys, which become the columns."""
  columns = list(rows[0])
  cells = [columns, *([str(row[c]) for c in columns] for row in rows)]
  widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
  lines = [
    "| "
    + " | ".join(c.rjust(w) for c, w in zip(line, widths, strict=True))
    + " |"
    for line in cells
  ]
  rule = "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|"
  return "\n".join([lines[0], rule, *lines[1:]])
