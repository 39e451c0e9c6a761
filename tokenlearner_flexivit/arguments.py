"""Types of command-line arguments, for argparse."""


def whole_numbers(text: str) -> list[int]:
  """Reads "24,12,6"."""
  return [int(part) for part in text.split(",")]


def numbers(text: str) -> list[float]:
  """Reads "0.485,0.456,0.406"."""
  return [float(part) for part in text.split(",")]


def patch_size(text: str) -> int | list[int]:
  """Reads "8", or "8,16" for height and width."""
  size = whole_numbers(text)
  return size[0] if len(size) == 1 else size


def num_tokens(text: str) -> int | str:
  """Reads a number of learned tokens, or "all"."""
  return int(text) if text.isdecimal() else text


def names(text: str) -> list[str]:
  """Reads "one,two"."""
  return text.split(",")
