"""The classes of labels, and whether two datasets number them alike."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data import preprocess
from tokenlearner_flexivit.data.ops import label as label_ops
from tokenlearner_flexivit.data.sources.base import Source

# The number of classes and their names; None for unknown ones.
Classes = tuple[int | None, Sequence[str] | None]


def classes(
  data_config: Mapping[str, Any],
  source: Source,
  where: str = "data",
  key: str = "label",
) -> Classes:
  """Returns the number and the names of the classes of preprocessed labels.

  Args:
    data_config: dict or ConfigDict; its preprocessing may copy another entry to
      the label.
    source: the source that it names.
    where: name of the section for errors.
    key: the entry with the labels.

  Returns:
    The result of `Source.classes`.

  Raises:
    ValueError: the preprocessing cannot be parsed.
  """
  text = data_config.get("pp")
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
  """Returns the names to compare, or None if they cannot be compared.

  Classes without names are compared by number with names that are numbers,
  such as those of folders, which are in text order: "10" before "2". They are
  not compared with other names.

  Args:
    classes: number and names, a result of `Source.classes`.
    expected: number and names of the classes that are expected.
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
  names: Sequence[str], expected: Sequence[str], where: str, reference: str
) -> None:
  """Raises ValueError if class numbers stand for unexpected classes.

  Fewer classes are fine if they are the first ones.

  Args:
    names: names of the classes 0, 1, ....
    expected: their expected names.
    where: the data with `names`, for errors.
    reference: the data with the expected names, for errors.
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
    f"{where} has other classes than {reference}: the class {number} is "
    f"{names[number]!r} here and {other} there, of "
    f"{terminal.counted(len(names), 'class')} here and {len(expected)} there."
    f"{order} Answers are numbers, so they would be "
    "counted as right or wrong for other classes. Take data with the same "
    "classes; in folders, those of the training data are numbered for all "
    "splits of one path."
  )
