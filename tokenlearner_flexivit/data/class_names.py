"""Tells the classes of labels, and whether two datasets number them alike."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from tokenlearner_flexivit.data import preprocess
from tokenlearner_flexivit.data.ops import label as label_ops
from tokenlearner_flexivit.data.sources.base import Source


def classes(
  data_config: Mapping[str, Any], source: Source, where: str = "data"
) -> tuple[int | None, Sequence[str] | None]:
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


def known(names: Sequence[str] | None) -> list[str] | None:
  """Returns the names of classes, None if they are but their numbers.

  TFDS calls classes so which have no names.
  """
  if names is None or list(names) == [str(i) for i in range(len(names))]:
    return None
  return list(names)


def comparable(
  names: Sequence[str] | None, expected: Sequence[str] | None
) -> bool:
  """Tells whether names say if numbers stand for the same classes.

  Numbers in the place of names say nothing beside real names. They do beside
  the same numbers: folders of these are in the order of texts, "10" before "2".

  Args:
    names: of the classes 0, 1, ..., or None.
    expected: likewise, of other data.
  """
  if names is None or expected is None:
    return False
  real = None not in (known(names), known(expected))
  return real or set(names) <= set(expected)


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
