"""Tells whether the head of weights to start from is for the classes here."""

import os
from collections.abc import Sequence

from tokenlearner_flexivit import interop, terminal
from tokenlearner_flexivit.data import class_names as class_names_lib
from tokenlearner_flexivit.models import segmenter

# Parameters with a number for each class.
_CLASS_LEAVES = ("head/bias", *segmenter.CLASS_LEAVES)


def warn_of_other_classes(
  source: str | os.PathLike,
  class_names: Sequence[str] | None,
  report: interop.Report,
) -> None:
  """Warns of a head that was trained for classes of other names, or order.

  Nothing is said if either names are unknown.

  Args:
    source: of the weights, `config.init`.
    class_names: of the training data; None where they are not known.
    report: of what was loaded.
  """
  if class_names is None:
    return
  heads = [
    row.name
    for row in report.rows
    if row.name in _CLASS_LEAVES
    and row.fate == "loaded"
    and row.model_shape == (len(class_names),)
  ]
  names = interop.class_names(source) if heads else None
  if names is None or len(names) != len(class_names):
    return
  number = class_names_lib.first_different(names, class_names)
  if number is not None:
    head = heads[0].partition("/")[0]
    terminal.say(
      f"WARNING: the head of config.init={os.fspath(source)!r} is of other "
      f"classes: the class {number} is {names[number]!r} there and "
      f"{class_names[number]!r} in the training data. It is taken all the same;"
      f" let a new one start by config.init_fresh=({head + '/'!r},)."
    )
