"""Types of command-line arguments, for argparse."""

import argparse
import math
import os
import pathlib

from tokenlearner_flexivit import paths

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


def picture(text: str) -> pathlib.Path:
  """Reads the path of a picture, and checks that it can be written.

  Otherwise a command might compute for hours and then lose its result.
  """
  try:
    path = paths.local(text, "path")
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from None
  problem = None
  if path.suffix.lower() not in _PICTURES:
    problem = f"must end in one of {', '.join(_PICTURES)}"
  elif path.is_dir():
    problem = "is a folder"
  elif not path.parent.is_dir():
    problem = f"there is no folder {path.parent}"
  elif not os.access(
    path if paths.is_stream(path) else path.resolve().parent, os.W_OK
  ):
    problem = "you may not write there"
  if problem:
    raise argparse.ArgumentTypeError(f"{path}: {problem}")
  return path


def whole_numbers(text: str) -> list[int]:
  """Reads "24,12,6"."""
  return [int(part) for part in text.split(",")]


def count(text: str) -> int:
  """Reads a whole number of at least 1, such as "8"."""
  try:
    number = int(text)
  except ValueError:
    number = 0
  if number < 1:
    raise argparse.ArgumentTypeError(
      f"{text!r} must be a whole number of at least 1."
    )
  return number


def counts(text: str) -> list[int]:
  """Reads whole numbers of at least 1, such as "1,8"."""
  return [count(part) for part in text.split(",")]


def above_zero(text: str) -> float:
  """Reads a finite number above 0, such as "0.5"."""
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not 0 < number < math.inf:
    raise argparse.ArgumentTypeError(
      f"{text!r} must be a finite number above 0."
    )
  return number


def numbers(text: str) -> list[float]:
  """Reads "0.485,0.456,0.406"."""
  return [float(part) for part in text.split(",")]


def dial(text: str) -> int | str | list[int | str]:
  """Reads the value of a dial, such as "8", "8,16" or "all"."""
  parts = [int(part) if part.isdecimal() else part for part in text.split(",")]
  return parts[0] if len(parts) == 1 else parts


def num_tokens(text: str) -> int | str:
  """Reads a number of learned tokens, or "all"."""
  return int(text) if text.isdecimal() else text


def names(text: str) -> list[str]:
  """Reads "one,two"."""
  return text.split(",")
