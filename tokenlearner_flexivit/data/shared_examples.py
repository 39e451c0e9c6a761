"""Tells which examples a split takes, and whether two splits share some."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data import splits

# How many examples a slice needs is told if they are fewer.
_MOST = 1000


class Part(NamedTuple):
  """Describes the examples that a split, or a summand, takes of a dataset.

  Attributes:
    text: the split or summand as it is asked for, such as "val[:10]".
    known: the dataset's split, such as "validation" or a folder.
    size: number of examples of the dataset's split.
    positions: those that are taken.
  """

  text: str
  known: str
  size: int
  positions: range


def shared(parts: Iterable[Part], others: Iterable[Part]) -> str:
  """Returns in words which parts share examples; "" if none do."""
  for part, other in itertools.product(parts, others):
    if part.known == other.known and _meet(part.positions, other.positions):
      return f"{part.text} and {other.text} share some"
  return ""


def _meet(positions: range, others: range) -> bool:
  """Tells whether two ranges without gaps have a position in common."""
  return max(positions.start, others.start) < min(positions.stop, others.stop)


def check_parts(
  parts: Sequence[Part], split: str, dataset: str, where: str
) -> None:
  """Raises ValueError if a part is empty, or two parts share examples.

  Args:
    parts: the parts of a split.
    split: the split, perhaps a sum.
    dataset: name of the dataset for the error.
    where: name of the split for the error.
  """
  for part in parts:
    # A dataset may have a split without examples.
    if not part.positions and part.text != "all":
      raise ValueError(
        f"{where}={split!r}: {part.text} of {dataset} is empty. "
        + _why_empty(part)
      )
  for part, other in itertools.combinations(parts, 2):
    if words := shared([part], [other]):
      raise _twice(split, words, where)


def _why_empty(part: Part) -> str:
  """Returns in words why a part takes no example, and what to do."""
  number = terminal.counted(part.size, "example")
  words = f"There {'is' if part.size == 1 else 'are'} {number} in {part.known}"
  if not part.size:
    return f"{words}: add some, or name another split."
  ((name, share),) = splits.parse(part.text)
  sizes = () if "shard" in share else range(part.size + 1, _MOST)
  needed = next((n for n in sizes if splits.positions(share, n, name)), None)
  if needed is None:
    return f"{words}, and a slice is [START:STOP], with START before STOP."
  advice = (
    f"{words}, and the slice takes none of so few: at least {needed} are "
    "needed. Add examples"
  )
  if part.size == 1:
    return advice + "."
  bound = part.size - 1
  return (
    f"{advice}, or name other splits, such as train={name}[:{bound}],"
    f"test={name}[{bound}:] where a config has these arguments."
  )


def _twice(split: str, words: str, where: str) -> ValueError:
  return ValueError(
    f"{where}={split!r} has examples twice: {words}. Name each part once."
  )


def overlap(
  split: str,
  other: str,
  parts: Iterable[Part] = (),
  known: Callable[[str], str] = str,
) -> bool:
  """Tells whether two splits of a dataset share examples.

  Args:
    split: a split, perhaps a sum.
    other: another.
    parts: those of `split`, for the sizes of the dataset's splits. Without
      them, the result is False if it depends on these, as for "train[10%:]" and
      "train[:100]".
    known: returns the dataset's split that a name means, or the name itself.

  Raises:
    ValueError: a split or a slice cannot be read.
  """
  sizes = {part.text: part.size for part in parts}
  for name, part in splits.parse(split):
    for other_name, other_part in splits.parse(other):
      if not _share_examples(known(name), known(other_name)):
        continue
      if not (part and other_part):
        return True
      both = part + other_part
      depends = ("%" in part) != ("%" in other_part) or "-" in both
      size = sizes.get(name + part)
      if "shard" in both or (depends and size is None):
        continue
      # Percents of this length are exact, and it holds all absolute positions.
      size = size or 10**9
      if _meet(*(splits.positions(p, size, name) for p in (part, other_part))):
        return True
  return False


def _share_examples(name: str, other: str) -> bool:
  """Tells whether two names mean the same split, or one includes the other."""
  if "all" in (name, other):
    return name == other or bool(splits.role(name) or splits.role(other))
  return (splits.role(name) or name) == (splits.role(other) or other)


def check_disjoint(split: str, where: str) -> None:
  """Raises ValueError if parts of a sum share examples, which count twice.

  Args:
    split: a split, such as "train[:90%]+val".
    where: name of the split for the error.
  """
  for part, other in itertools.combinations(split.split("+"), 2):
    with contextlib.suppress(ValueError):  # Reading the split raises it.
      if overlap(part, other):
        break
  else:
    return
  raise _twice(split, f"{part} and {other} share some", where)
