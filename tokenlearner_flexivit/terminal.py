"""Output to any stream: a terminal, a log file, another program's, or none.

`sys.stdout` and `sys.stderr` are None in programs without a console, objects of
a logger in many others, and their encoding may lack some letters.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import tqdm

_FORMAT_WARNING = warnings.formatwarning


def is_watched(stream: Any) -> bool:
  """Tells whether `stream` is a terminal, where bars are drawn."""
  try:
    return bool(stream.isatty())
  except (AttributeError, OSError, ValueError):  # None, a logger's, or closed.
    return False


def write(text: str) -> None:
  """Prints a line to stdout, above progress bars, and ignores failures.

  A log file that is closed or on a full disk must not stop a run.
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


def encodable(text: str) -> str:
  r"""Returns a text that UTF-8 can encode, with other characters escaped.

  Python reads a byte of a file's name that is not UTF-8, such as Latin-1's é,
  as a character that UTF-8 has not; it becomes \udce9.
  """
  return text.encode(errors="backslashreplace").decode()


def say(text: str) -> None:
  """Prints a line on host 0, above the progress bar if there is one."""
  import jax  # Imported here, since commands print their help without JAX.

  if jax.process_index() == 0:
    write(text)


def counted(number: int, noun: str) -> str:
  """Returns a number of things, such as "1 patch size" or "3 classes"."""
  plural = noun + ("es" if noun.endswith(("s", "ch")) else "s")
  return f"{number} {noun if number == 1 else plural}"


def shortened(text: str, most: int) -> str:
  """Returns a text of at most so many letters, cut off if it is longer."""
  return text if len(text) <= most else f"{text[: most - 1]}…"


def gib(number: float | None) -> str:
  """Formats bytes in GiB; "?" for None."""
  return "?" if number is None else f"{number / 2**30:.2f}"


def number(value: float, digits: int = 4) -> str:
  """Formats a number to so many digits, as "0.1235" or "17,580".

  Where Python's "g" would write a power of ten, 1.758e+04, this does not.
  """
  text = f"{value:.{digits}g}"
  rounded = float(text)
  return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else text


def duration(seconds: float) -> str:
  """Formats seconds as "1:02:03" or "2:03"."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02}:{seconds:02}"
  return f"{minutes}:{seconds:02}"


@contextlib.contextmanager
def root_logger_unchanged() -> Iterator[None]:
  """Keeps the root logger's handlers unchanged while a library is imported.

  Orbax, which Grain imports too, logs at import through absl, which adds a
  handler to a root logger without one. After that a program's own
  `logging.basicConfig(...)` would do nothing.
  """
  handler = logging.NullHandler()
  logging.root.addHandler(handler)
  try:
    yield
  finally:
    logging.root.removeHandler(handler)


def prepare() -> None:
  """Prepares stdout, stderr and warnings for a command.

  Both escape letters that their encoding lacks: otherwise a "±", or a class
  named in Chinese, ends a command with an error in a locale that is not UTF-8.
  What the user is warned of is printed without the line of code that says it.
  """
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")
  warnings.formatwarning = _format_warning


def _format_warning(
  message: Warning | str,
  category: type[Warning],
  filename: str,
  lineno: int,
  line: str | None = None,
) -> str:
  if category is UserWarning:
    return f"Warning: {message}\n"
  return _FORMAT_WARNING(message, category, filename, lineno, line)
