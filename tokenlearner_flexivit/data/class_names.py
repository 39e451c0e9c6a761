"""The classes of labels, and whether two datasets number them alike."""

import collections
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data import mask_classes, preprocess
from tokenlearner_flexivit.data import steps as steps_lib
from tokenlearner_flexivit.data.ops import dense_label
from tokenlearner_flexivit.data.ops import label as label_ops
from tokenlearner_flexivit.data.ops import panoptic as panoptic_ops
from tokenlearner_flexivit.data.sources.base import Source

# The number of classes and their names; None for unknown ones.
Classes = tuple[int | None, Sequence[str] | None]

# Ops that name or number the classes of an entry.
_FOLLOWED = (
  label_ops.copy,
  label_ops.multihot,
  dense_label.objects,
  dense_label.map_labels,
  dense_label.ignore,
  panoptic_ops.panoptic,
)


def classes(
  data_config: Mapping[str, Any],
  source: Source,
  where: str = "data",
  key: str = "label",
) -> Classes:
  """Returns the number and the names of the classes of preprocessed labels.

  Args:
    data_config: dict or ConfigDict; its preprocessing may copy another entry to
      the label, make boxes of objects or maps of segments, join the classes of
      several entries, and give classes other numbers.
    source: the source that it names.
    where: name of the section for errors.
    key: the entry with the labels.

  Returns:
    The number and the names, each None if it is not known. Classes that get the
    same number have their names joined by "/"; those of `multihot` are called
    by their entry and name, such as "shape heart".

  Raises:
    ValueError: the preprocessing cannot be parsed, or maps the ids of
      Cityscapes to trainIds where masks hold these already.
  """
  text = data_config.get("pp")
  try:
    steps = preprocess.parse(text).steps if text else ()
  except ValueError as error:
    raise ValueError(f"{where}.pp: {error}") from None
  try:
    return _classes_after(steps, source, key)
  except ValueError as error:
    raise ValueError(f"{where}.pp: {error}") from None


def stuff(source: Source, names: Sequence[str] | None) -> list[str] | None:
  """Returns the names of classes that are no things, such as sky.

  Args:
    source: the data.
    names: of the classes, as `classes` returns them.

  Returns:
    Those among the names; None if the names or the data do not tell.
  """
  if names is None or not source.stuff:
    return None
  known = {name for several in source.stuff.values() for name in several}
  return [name for name in names if name in known]


def _classes_after(
  steps: Sequence[steps_lib.Step], source: Source, key: str
) -> Classes:
  """Returns the classes of an entry after the steps of a preprocessing."""
  known, changes = None, []
  for i, step in reversed(list(enumerate(steps))):
    if step.fn not in _FOLLOWED:
      continue
    arguments = step.arguments()
    if step.fn is label_ops.copy:
      key = arguments["inkey"] if arguments["outkey"] == key else key
    elif step.fn is label_ops.multihot:
      if arguments["outkey"] == key:
        counts = arguments["counts"]
        parts = {e: _classes_after(steps[:i], source, e)[1] for e in counts}
        known = _joined(counts, parts)
        break
    elif step.fn is dense_label.objects:
      if key == steps_lib.BOX_LABEL:
        labels = steps_lib.as_names(arguments["label"])
        key = [f"{arguments['key']}/{label}" for label in labels]
    elif step.fn is panoptic_ops.panoptic:
      if key == panoptic_ops.SEMANTIC:
        key = f"{arguments['objects']}/label"
    elif arguments["key"] == key:
      changes.append(arguments)
  if known is None:
    known = _combined(source, steps_lib.as_names(key))
  for arguments in reversed(changes):
    known = _renumbered(known, arguments)
  return known


def _joined(
  counts: Mapping[str, int], parts: Mapping[str, Sequence[str] | None]
) -> Classes:
  """Returns the classes that `multihot` makes of several entries.

  Args:
    counts: numbers of classes by entry.
    parts: their names by entry, None for unknown ones.
  """
  names = []
  for entry, count in counts.items():
    known = parts[entry]
    if known is None or len(known) != count:
      known = range(count)
    names += [f"{entry} {name}" for name in known]
  is_known = any(part is not None for part in parts.values())
  return len(names), names if is_known else None


def _combined(source: Source, keys: Sequence[str]) -> Classes:
  """Returns the classes of one entry, or of the combinations of several."""
  known = [source.classes(key) for key in keys]
  if len(known) == 1:
    return known[0]
  if any(count is None for count, _ in known):
    return None, None
  count = math.prod(count for count, _ in known)
  if any(names is None for _, names in known):
    return count, None
  names = itertools.product(*(names for _, names in known))
  return count, [" ".join(each) for each in names]


def _renumbered(known: Classes, arguments: Mapping[str, Any]) -> Classes:
  """Returns the classes after `map_labels` or `ignore`, by its arguments."""
  count, names = known
  if "mapping" not in arguments:
    if count is None or not arguments["reduce_zero"]:
      return known
    return count - 1, names and names[1:]
  mapping = arguments["mapping"]
  if isinstance(mapping, str):
    if list(names or ()) == list(mask_classes.CITYSCAPES_TRAIN_IDS):
      raise ValueError(
        f"map_labels({mapping!r}) makes trainIds of labelIds, but the masks "
        "hold trainIds already. Leave it out."
      )
    mapping = dense_label.MAPPINGS[mapping]
  if arguments["other"] is not None:
    rest = dict.fromkeys(range(count or 0), arguments["other"])
    mapping = {**rest, **mapping}
  parts = collections.defaultdict(list)
  for old, new in sorted(mapping.items()):
    if new != mask_classes.IGNORE:
      parts[new].append(names[old] if 0 <= old < len(names or ()) else None)
  count = max(parts, default=-1) + 1
  if any(None in parts.get(i, [None]) for i in range(count)):
    return count, None
  return count, ["/".join(parts[i]) for i in range(count)]


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


def check_order(
  names: Sequence[str], expected: Sequence[str], where: str, reference: str
) -> None:
  """Raises ValueError if a name that both lists have stands for other numbers.

  Two libraries may name the same classes differently, as ImageNet's are called
  "n01440764" and "tench, Tinca tinca". It is said if that leaves names that
  cannot be compared.

  Args:
    names: names of the classes 0, 1, ....
    expected: their expected names, as many.
    where: the model or data with `names`, for errors.
    reference: the data with the expected names, for errors.
  """
  ours, theirs = (list(map(_plain, several)) for several in (names, expected))
  numbers = collections.defaultdict(set)
  for number, name in enumerate(theirs):
    numbers[name].add(number)
  other = 0
  for number, name in enumerate(ours):
    if name in numbers and number not in numbers[name]:
      raise ValueError(
        f"{where} has the classes in another order than {reference}: "
        f"{names[number]!r} is the class {number} here and "
        f"{min(numbers[name])} there. Answers are numbers, so they would stand "
        "for other classes."
      )
    other += name not in numbers
  if other:
    number = next(i for i, name in enumerate(ours) if name not in numbers)
    terminal.say(
      f"{where} calls {other} of {terminal.counted(len(names), 'class')} by "
      f"names that {reference} does not have, such as {names[number]!r} for "
      f"{expected[number]!r}. That they are the same classes cannot be checked."
    )


def first_different(
  names: Sequence[str], expected: Sequence[str]
) -> int | None:
  """Returns the first class of another name, apart from its spelling.

  Args:
    names: names of the classes 0, 1, ....
    expected: their expected names, as many.
  """
  pairs = zip(map(_plain, names), map(_plain, expected), strict=True)
  return next((i for i, (a, b) in enumerate(pairs) if a != b), None)


def _plain(name: str) -> str:
  """Returns a name in lower case, with blanks for underscores."""
  return " ".join(str(name).casefold().replace("_", " ").split())
