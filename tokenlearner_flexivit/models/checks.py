"""Checks of a model's arguments, which a config or a JSON file may hold."""

import numbers
from typing import Any


def whole(value: Any, name: str, least: int | None = 1) -> None:
  """Raises ValueError unless a value is a whole number of at least `least`."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise ValueError(f"{name} must be a whole number, got {value!r}.")
  if least is not None and value < least:
    raise ValueError(f"{name} must be at least {least}, got {value}.")


def number(value: Any, name: str) -> None:
  """Raises ValueError unless a value is a number."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise ValueError(f"{name} must be a number, got {value!r}.")


def boolean(value: Any, name: str) -> None:
  """Raises ValueError unless a value is True or False."""
  if not isinstance(value, bool):
    raise ValueError(f"{name} must be True or False, got {value!r}.")
