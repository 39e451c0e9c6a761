"""Output that works on any stream: terminal, log file, another program's, none.

`sys.stdout` and `sys.stderr` are None in programs without a console, objects of
a logger in many others, and their encoding need not know every letter.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
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


def say(text: str) -> None:
  """Prints a line on host 0, above the progress bar if there is one."""
  import jax  # Here, as commands print their help without JAX.

  if jax.process_index() == 0:
    write(text)


def counted(number: int, noun: str) -> str:
  """Returns a number of things, such as "1 patch size" or "3 classes"."""
  plural = noun + ("es" if noun.endswith("s") else "s")
  return f"{number} {noun if number == 1 else plural}"


def duration(seconds: float) -> str:
  """Formats seconds as "1:02:03" or "2:03"."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02}:{seconds:02}"
  return f"{minutes}:{seconds:02}"


@contextlib.contextmanager
def root_logger_unchanged() -> Iterator[None]:
  """Leaves the root logger's handlers as they are while a library is imported.

  Orbax, which Grain imports too, logs at import through absl, which gives a
  root logger without handlers one. After that a program's own
  `logging.basicConfig(...)` would do nothing.
  """
  handler = logging.NullHandler()
  logging.root.addHandler(handler)
  try:
    yield
  finally:
    logging.root.removeHandler(handler)


def escape_unknown_letters() -> None:
  """Makes stdout and stderr escape what their encoding lacks, for commands.

  Else a "±", or a class named in Chinese, ends a command in a locale that is
  not UTF-8.
  """
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")
