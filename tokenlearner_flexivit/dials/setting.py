"""A setting: one position of the dials, by their names."""

import dataclasses
import itertools
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tokenlearner_flexivit.models.token_learner import ALL


def as_patch_size(value: Any, where: str) -> tuple[int, int]:
  """Reads a patch size given as an int or as (height, width)."""
  pair = tuple(value) if isinstance(value, Sequence) else (value, value)
  # Integral, so that NumPy's integers are taken, too.
  are_sizes = [
    isinstance(p, numbers.Integral) and type(p) is not bool and p > 0
    for p in pair
  ]
  if are_sizes != [True, True]:
    raise ValueError(
      f"{where}: {value!r} is no patch size. Give a positive integer or a "
      "pair (height, width) of them."
    )
  return int(pair[0]), int(pair[1])


def as_num_tokens(value: Any, where: str) -> int | str:
  """Reads a number of learned tokens; None and "all" mean all patches."""
  if value is None or value == ALL:
    return ALL
  is_number = isinstance(value, numbers.Integral) and type(value) is not bool
  if not is_number or value < 1:
    raise ValueError(
      f"{where}: {value!r} is no number of learned tokens. Give a positive "
      f"integer, or None or {ALL!r} for all patches to the end."
    )
  return int(value)


def _patch_size_text(size: tuple[int, int]) -> str:
  height, width = size
  return f"{height}" if height == width else f"{height}x{width}"


def _patch_size_name(size: tuple[int, int]) -> str:
  return f"patch{_patch_size_text(size)}"


def _patch_size_in_json(size: tuple[int, int]) -> int | list[int]:
  height, width = size
  return height if height == width else [height, width]


@dataclasses.dataclass(frozen=True)
class Kind:
  """The kind of a dial: how its values are read, named and written.

  Attributes:
    read: returns the value for an entry of a config or a report; its second
      argument is the entry's key, for errors.
    name: returns a value's name in metrics, such as "patch16".
    title: the dial's name for people, such as "learned tokens".
    hint: the values that people may give, for the help of commands.
    key: the key of a list of values in an entry of `config.evals`.
    column: the dial's name in wide tables; None for the title.
    text: returns a value for people, such as "16x8".
    in_json: returns a value as JSON, for reports.
    is_mask: whether several numbers share a program, in which the number is a
      traced scalar that masks unused tokens.
  """

  read: Callable[[Any, str], Any]
  name: Callable[[Any], str]
  title: str
  hint: str
  key: str
  column: str | None = None
  text: Callable[[Any], str] = str
  in_json: Callable[[Any], Any] = lambda value: value
  is_mask: bool = False


# The keyword arguments of a model's call that are dials. To add a dial, add its
# name here.
KINDS = {
  "patch_size": Kind(
    as_patch_size,
    _patch_size_name,
    "patch size",
    "in pixels, as 8 or 8,16",
    "patch_sizes",
    text=_patch_size_text,
    in_json=_patch_size_in_json,
  ),
  "num_tokens": Kind(
    as_num_tokens,
    "tok{}".format,
    "learned tokens",
    "learned tokens, or all",
    "num_tokens",
    column="learned",
    is_mask=True,
  ),
}


class Setting(Mapping[str, Any]):
  """One position of the dials: maps the name of a dial to its value.

  The model chooses the value of a dial that is missing or None. A model is
  called with `**setting`.

  Attributes:
    patch_size: (height, width) in pixels, or None.
    num_tokens: learned tokens that the deeper layers see; "all" switches
      TokenLearner off; a traced scalar while a program for all numbers is
      traced; or None.
  """

  def __init__(
    self,
    patch_size: tuple[int, int] | None = None,
    num_tokens: Any = None,
    **others: Any,
  ):
    """Stores the values of the dials, in the form that `Kind.read` returns."""
    values = {"patch_size": patch_size, "num_tokens": num_tokens, **others}
    self._values = {k: values[k] for k in KINDS if values.get(k) is not None}
    if unknown := values.keys() - KINDS.keys():
      raise TypeError(
        f"No dial is called {', '.join(sorted(unknown))}. Known: "
        f"{', '.join(KINDS)}."
      )

  def __getitem__(self, name: str) -> Any:
    return self._values[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._values)

  def __len__(self) -> int:
    return len(self._values)

  def __hash__(self) -> int:
    return hash(tuple(self._values.items()))

  def __repr__(self) -> str:
    values = (f"{name}={value!r}" for name, value in self._values.items())
    return f"Setting({', '.join(values)})"

  @property
  def patch_size(self) -> tuple[int, int] | None:
    """Returns (height, width) in pixels, or None."""
    return self.get("patch_size")

  @property
  def num_tokens(self) -> Any:
    """Returns a number of learned tokens, "all", or None."""
    return self.get("num_tokens")

  def replace(self, **values: Any) -> "Setting":
    """Returns a setting with other values of some dials; None removes one."""
    return Setting(**{**self._values, **values})

  @property
  def name(self) -> str:
    """Returns the name in metrics: "patch16", "patch16x8", "patch16_tok8"."""
    parts = (KINDS[name].name(value) for name, value in self._values.items())
    return "_".join(parts) or "default"

  @property
  def row(self) -> dict[str, Any]:
    """Returns the value of every dial, for reports; None for a missing one."""
    return {
      name: kind.in_json(self[name]) if name in self else None
      for name, kind in KINDS.items()
    }

  @property
  def cells(self) -> dict[str, str]:
    """Returns the value of every dial by its title; "" for a missing one."""
    return {
      kind.title: kind.text(self[name]) if name in self else ""
      for name, kind in KINDS.items()
    }

  @property
  def columns(self) -> dict[str, str]:
    """Returns `cells` under shorter titles, for wide tables."""
    titles = (kind.column or kind.title for kind in KINDS.values())
    return dict(zip(titles, self.cells.values(), strict=True))

  @classmethod
  def from_row(cls, row: Mapping[str, Any]) -> "Setting":
    """Returns the setting that a row of a report names."""
    return cls(
      **{
        name: kind.read(row[name], name)
        for name, kind in KINDS.items()
        if row.get(name) is not None
      }
    )


def positions(values: Mapping[str, Iterable[Any]]) -> tuple[Setting, ...]:
  """Returns every setting with these values; the last dial changes first.

  Args:
    values: of dials by name; None leaves one to the model.
  """
  return tuple(
    Setting(**dict(zip(values, chosen, strict=True)))
    for chosen in itertools.product(*values.values())
  )
