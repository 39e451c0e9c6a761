"""Tells the classes of labels, and whether two datasets number them alike."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from tokenlearner_flexivit.data import preprocess
from tokenlearner_flexivit.data.ops import label as label_ops
from tokenlearner_flexivit.data.sources.base import Source

# The number of classes and their names, None for what is not known.
Classes = tuple[int | None, Sequence[str] | None]


def classes(
  data_config: Mapping[str, Any], source: Source, where: str = "data"
) -> Classes:
  """Returns the number and the names of the classes of preprocessed labels.

  Args:
    data_config: dict or ConfigDict; its preprocessing may make the label of
      another entry by `copy`.
    source: what it names.
    where: name of the section for errors.

  Returns:
    See `Source.classes`.

  Raises:
    ValueError: the preprocessing cannot be parsed.
  """
  key, text = "label", data_config.get("pp")
  try:
    steps = preprocess.parse(text).steps if text else ()
  except ValueError as error:
    raise ValueError(f"{where}.pp: {error}") from None
  for step in reversed(steps):
    if step.fn is label_ops.copy:
      bound = inspect.signature(step.fn).bind(None, *step.args, **step.kwargs)
      if bound.arguments["outkey"] == key:
        key = bound.arguments["inkey"]
  return source.classes(key)


def comparable(
  classes: Classes, expected: Classes
) -> tuple[Sequence[str], Sequence[str]] | None:
  """Returns the names to compare, or None if one of both has none.

  The classes of data without names are their numbers. These are compared with
  names that are the same numbers, such as those of folders, which are in the
  order of texts: "10" before "2". Beside other names they say nothing.

  Args:
    classes: number and names, as of `Source.classes`.
    expected: number and names of the classes that they should be.
  """
  (count, names), (expected_count, expected_names) = classes, expected
  if names is None and expected_names is None:
    return None
  names = names or _numbers(count, expected_names)
  expected_names = expected_names or _numbers(expected_count, names)
  return names and expected_names and (names, expected_names)


def _numbers(
  count: int | None, names: Sequence[str] | None
) -> list[str] | None:
  """Returns the numbers of classes as texts, if `names` are among them."""
  numbers = [str(i) for i in range(count or 0)]
  return numbers if names and set(names) <= set(numbers) else None


def check_same(
  names: Sequence[str], expected: Sequence[str], where: str, of_expected: str
) -> None:
  """Raises ValueError if numbers stand for other classes than they should.

  Fewer classes are fine if they are the first ones.

  Args:
    names: of the classes 0, 1, ....
    expected: what they should be.
    where: what `names` are of, for errors.
    of_expected: what `expected` are of, for errors.
  """
  missing = [None] * (len(names) - len(expected))
  pairs = zip(names, [*expected, *missing], strict=False)
  different = [i for i, (name, other) in enumerate(pairs) if name != other]
  if not different:
    return
  number = different[0]
  other = repr(expected[number]) if number < len(expected) else "missing"
  order = ""
  if sorted(names) == sorted(expected):
    order = " The names are the same, in another order."
  raise ValueError(
    f"{where} has other classes than {of_expected}: the class {number} is "
    f"{names[number]!r} here and {other} there, of {len(names)} classes here "
    f"and {len(expected)} there.{order} Answers are numbers, so they would be "
    "counted as right or wrong for other classes. Take data with the same "
    "classes; in folders, those of the training data are numbered for all "
    "splits of one path."
  )
