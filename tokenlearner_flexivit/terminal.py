"""Output that works on any stream: terminal, log file, another program's, none.

`sys.stdout` and `sys.stderr` are None in programs without a console, objects of
a logger in many others, and their encoding need not know every letter.
"""

import sys
from typing import Any

import tqdm


def is_watched(stream: Any) -> bool:
  """Tells whether `stream` is a terminal; only there bars are drawn."""
  try:
    return bool(stream.isatty())
  except (AttributeError, OSError, ValueError):  # None, a logger's, closed.
    return False


def write(text: str) -> None:
  """Prints a line to stdout, above progress bars; what fails is left out.

  A log file on a full disk, or closed, is no reason to stop a run.
  """
  stream = sys.stdout
  if stream is None:
    return
  try:
    try:
      tqdm.tqdm.write(text, file=stream)
    except UnicodeEncodeError:
      escaped = text.encode("ascii", "backslashreplace").decode()
      tqdm.tqdm.write(escaped, file=stream)
    if hasattr(stream, "flush"):
      stream.flush()
  except (OSError, ValueError):
    pass


def escape_unknown_letters() -> None:
  """Makes stdout and stderr escape what their encoding lacks, for commands.

  Else a "±", or a class named in Chinese, ends a command in a locale that is
  not UTF-8.
  """
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")
