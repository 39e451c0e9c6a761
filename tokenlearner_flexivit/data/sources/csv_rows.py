"""Rows of CSV files as spreadsheets write them."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

# Excel reads, and some programs write for it, the separator in a first line.
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t]*', re.IGNORECASE)


def split(
  text: str, separators: Sequence[str]
) -> tuple[Iterator[list[str]], str, str]:
  """Returns the rows of a table, the line of the columns, and the separator.

  A first line such as "sep=;" names the separator and is no row. Otherwise the
  separator is the most frequent one in the line of the columns.

  Args:
    text: of the file.
    separators: those to choose from.

  Returns:
    A `csv.reader` whose next row is that of the columns; it counts all lines of
    the text. The line, "" without one. The separator.
  """
  lines = text.splitlines()
  match = _SEPARATOR_LINE.fullmatch(lines[0]) if lines else None
  header, *_ = [*lines[1 if match else 0 :], ""]
  separator = match[1] if match else max(separators, key=header.count)
  rows = csv.reader(
    io.StringIO(text, newline=""),
    delimiter=separator,
    skipinitialspace=True,
    strict=True,
  )
  if match:
    next(rows)
  return rows, header, separator
