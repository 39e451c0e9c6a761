"""Keeps imports from configuring the logging of the program that imports us."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
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
