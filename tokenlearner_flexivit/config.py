"""Reads configs strictly: every key is known, every duration is explicit.

A section of a config becomes the keyword arguments of the function or class
that reads it, so the signature there is the list of allowed keys. A key that
nothing reads is refused: a misspelt `warmup_step` must not train for a day.
"""

import difflib
import inspect
import math
import os
import re
import typing
from collections.abc import (
  Callable,
  Hashable,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any

import numpy as np

from tokenlearner_flexivit import paths


def plain(config: Any, where: str = "config") -> Any:
  """Returns `config` as plain dicts and lists, as reading its JSON would.

  Paths become strings, NumPy's scalars those of Python.

  Args:
    config: a ConfigDict, or anything else that JSON holds.
    where: its name for errors.

  Raises:
    ValueError: a value that JSON cannot hold, such as a function or an array;
      names its key.
  """
  if hasattr(config, "to_dict"):  # A ConfigDict.
    config = config.to_dict()
  if isinstance(config, Mapping):
    return {
      _plain_key(key, where): plain(value, f"{where}.{key}")
      for key, value in config.items()
    }
  if isinstance(config, list | tuple):
    return [plain(value, f"{where}[{i}]") for i, value in enumerate(config)]
  if isinstance(config, np.generic):
    config = config.item()
  if isinstance(config, os.PathLike):
    return os.fspath(config)
  if not isinstance(config, str | int | float | None):
    raise ValueError(
      f"{where}={config!r} is a {type(config).__name__}, which config.json "
      "cannot hold. Give a number, a text, a list or keys with values."
    )
  if isinstance(config, float) and not math.isfinite(config):
    raise ValueError(f"{where}={config!r} must be a finite number.")
  return config


def _plain_key(key: Any, where: str) -> str:
  if not isinstance(key, str):
    raise ValueError(f"{where} has the key {key!r}; keys are texts.")
  return key


def check_keys(keys: Iterable[str], known: Iterable[str], where: str) -> None:
  """Raises ValueError for keys that are not in `known`."""
  known = sorted(known)
  for key in keys:
    if key not in known:
      close = difflib.get_close_matches(key, known, n=1)
      hint = f" Did you mean {close[0]!r}?" if close else ""
      raise ValueError(
        f"{where} has no key {key!r}.{hint} Known keys: {', '.join(known)}."
      )


_ARGUMENT = re.compile(
  r"""([^,=]*)(?:=(?:(["'])(.*?)\2(?=,|$)|((?:\\,|[^,])*)))?(?:,|$)"""
)


def parse_arg(arg: str, **defaults: Any) -> dict[str, Any]:
  r"""Reads the argument of a config, as in `--config=FILE:runlocal,size=96`.

  Args:
    arg: comma-separated `name` (for True) or `name=value`. A value with a comma
      is quoted, `path='/a,b'`, or has it escaped, `path=/a\,b`.
    **defaults: the allowed names and their default values, whose types the
      values take; a number of epochs may be a fraction. A `~` at the start of
      a text is expanded, also after "folder:" and similar prefixes.

  Raises:
    ValueError: an unknown name, a repeated one, or a value of another type.
  """
  texts = {}
  for match in _ARGUMENT.finditer(arg):
    name, _, quoted, bare = match.groups()
    name = name.strip()
    if not match[0].strip(" ,"):
      continue
    if name in texts:
      raise ValueError(f"The config's argument {arg!r} has {name!r} twice.")
    texts[name] = bare.replace("\\,", ",") if bare is not None else quoted
  try:
    check_keys(texts, defaults, "The config's argument")
  except ValueError as error:
    raise ValueError(f"{error} A comma in a value: path='/a,b'.") from None
  values = {
    name: _argument(name, t, defaults[name]) for name, t in texts.items()
  }
  return {**defaults, **values}


def _argument(name: str, text: str | None, default: Any) -> Any:
  """Returns a text as a value of the default's type; None stands for True."""
  where = f"The config's {name}"
  if isinstance(default, bool):
    known = {"true": True, "1": True, "false": False, "0": False}
    return choose((text or "true").lower(), known, where)
  if text is None:
    raise ValueError(f"{where} needs a value: {name}=VALUE.")
  if not isinstance(default, int | float):
    return paths.at_home(text)
  is_fraction = isinstance(default, float) or name.endswith("epochs")
  try:
    return int(text)
  except ValueError:
    pass
  try:
    if is_fraction:
      return float(text)
  except ValueError:
    pass
  kind = "number" if is_fraction else "whole number"
  raise ValueError(f"{where}={text!r} must be a {kind}.")


def read_sizes(
  text: str, default: Sequence[int], name: str = "patch_sizes"
) -> tuple[int, ...]:
  """Returns the patch sizes of an argument such as "15+12".

  Args:
    text: whole numbers joined by a plus, or "".
    default: the result for "".
    name: of the argument.

  Raises:
    ValueError: it is something else.
  """
  if not text:
    return tuple(default)
  if not all(p.isdecimal() and int(p) for p in text.split("+")):
    raise ValueError(
      f"The config's {name}={text!r} must be whole numbers joined by a plus, "
      f"such as {'+'.join(map(str, default))}."
    )
  return tuple(map(int, text.split("+")))


def choose(name: str, known: Mapping[str, Any], where: str) -> Any:
  """Returns `known[name]`, or raises ValueError with the known names."""
  if not isinstance(name, Hashable) or name not in known:
    close = difflib.get_close_matches(str(name), known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise ValueError(
      f"{where}={name!r} is unknown.{hint} Known: {', '.join(sorted(known))}."
    )
  return known[name]


def check_number(
  value: Any, where: str, interval: str = "(-inf, inf)", *, whole: bool = False
) -> None:
  """Raises ValueError unless a value of a config is a number in an interval.

  Args:
    value: of the config.
    where: the key's name for errors, such as "config.task.temperature".
    interval: in mathematical notation: "[0, 1)" includes 0 but not 1. With two,
      as in "(-inf, 0) or (0, inf)", the number must be in one of them.
    whole: whether it must be a whole number, of Python's type int.
  """
  # In Python, True is an int.
  is_number = type(value) in ((int,) if whole else (int, float))
  parts = interval.split(" or ")
  if not is_number or not any(_is_in(value, part) for part in parts):
    kind = "whole number" if whole else "number"
    raise ValueError(f"{where}={value!r} must be a {kind} in {interval}.")


def _is_in(value: float, interval: str) -> bool:
  low, high = map(float, interval[1:-1].split(","))
  return (
    low < value < high
    or (value == low and interval[0] == "[")
    or (value == high and interval[-1] == "]")
  )


def check_list(value: Any, where: str) -> None:
  """Raises ValueError unless a value of a config is a list or a tuple."""
  if not isinstance(value, list | tuple):
    shown = (value,)
    if isinstance(value, str):  # The command line may pass the text 3,all.
      parts = [part.strip() for part in value.split(",")]
      shown = tuple(int(p) if p.isdecimal() else p for p in parts)
    raise ValueError(f"{where}={value!r} must be a list, such as {shown!r}.")


def check_numbers(value: Any, where: str, interval: str) -> None:
  """Raises ValueError unless a value of a config is a list of numbers.

  Args:
    value: of the config.
    where: the key's name for errors.
    interval: of each number, as `check_number` takes it.
  """
  check_list(value, where)
  if not value:
    raise ValueError(f"{where} is empty; leave it out, or give a number.")
  for number in value:
    check_number(number, where, interval)


def check_text(value: Any, where: str) -> None:
  """Raises ValueError unless a value of a config is a text and not empty."""
  if not isinstance(value, str) or not value:
    raise ValueError(f"{where}={value!r} must be a string.")


def call(
  function: Callable[..., Any],
  section: Mapping[str, Any],
  where: str,
  /,
  **provided: Any,
) -> Any:
  """Calls `function` with a config section as its keyword arguments.

  Args:
    function: its keyword parameters are the keys that the section may have.
      None stands for the default of one that cannot be None.
    section: the config section, without keys that named the function.
    where: the section's name for errors, such as "config.optimizer".
    **provided: arguments from the caller; no config key may set them.

  Raises:
    ValueError: an unknown key (the known ones are listed) or a missing one.
  """
  return function(**check_call(function, section, where, provided), **provided)


def check_call(
  function: Callable[..., Any],
  section: Mapping[str, Any],
  where: str,
  provided: Iterable[str],
) -> dict[str, Any]:
  """Returns the arguments that `call` takes from a section; calls nothing.

  Args:
    function: as in `call`.
    section: as in `call`.
    where: as in `call`.
    provided: names of the arguments from the caller.

  Raises:
    ValueError: as in `call`.
  """
  parameters = inspect.signature(function).parameters
  allowed = [name for name in parameters if name not in provided]
  check_keys(section, allowed, where)
  section = {
    name: value
    for name, value in section.items()
    if value is not None or _may_be_none(parameters.get(name))
  }
  required = [
    name
    for name in allowed
    if parameters[name].default is inspect.Parameter.empty
    and parameters[name].kind is not inspect.Parameter.VAR_KEYWORD
  ]
  missing = [name for name in required if name not in section]
  if missing:
    raise ValueError(f"{where} needs {', '.join(missing)}.")
  return section


def value(section: Mapping[str, Any], key: str, default: Any) -> Any:
  """Returns a value of a section, or the default where it has none or None."""
  own = section.get(key)
  return default if own is None else own


def with_default(
  function: Callable[..., Any], section: Mapping[str, Any], key: str
) -> Any:
  """Returns the value of a key that `call` would pass, as `plain` has it.

  Args:
    function: as in `call`.
    section: as in `call`.
    key: of the section, perhaps missing there.
  """
  parameter = inspect.signature(function).parameters.get(key)
  value = section.get(key)
  is_left_out = key not in section or (
    value is None and not _may_be_none(parameter)
  )
  if not is_left_out or parameter is None:
    return value
  default = parameter.default
  return plain(None if default is inspect.Parameter.empty else default, key)


def _may_be_none(parameter: inspect.Parameter | None) -> bool:
  """Tells whether a parameter accepts None, or that is unknown."""
  if parameter is None or parameter.default is None:
    return True
  annotation = parameter.annotation
  unknown = annotation in (Any, inspect.Parameter.empty)
  is_text = isinstance(annotation, str)  # The module defers annotations.
  return unknown or is_text or type(None) in typing.get_args(annotation)


DURATION_UNITS = ("steps", "epochs", "examples")
# The duration is a part of the training.
PART_UNITS = (*DURATION_UNITS, "percent")


def steps(
  section: Mapping[str, Any],
  name: str,
  where: str,
  *,
  batch_size: int,
  num_examples: int,
  total_steps: int | None = None,
  default: int | None = None,
) -> int | None:
  """Resolves `{name}_steps | _epochs | _examples | _percent` to steps.

  A duration that is no whole number of steps is rounded up to the step that
  completes it, so no example is left out. Only percents of the training are
  rounded down: a part of the training ends before it does.

  Args:
    section: the section that holds the key.
    name: "total", "log", "eval", "checkpoint", "warmup", ...
    where: the section's name for errors.
    batch_size: examples in a step, over all hosts.
    num_examples: examples in an epoch.
    total_steps: length of the training, for `{name}_percent`: 10 is a tenth.
      None if percents are not allowed.
    default: the result if the section has no such key.

  Raises:
    ValueError: two units at once, or a value out of its range.
  """
  units = DURATION_UNITS if total_steps is None else PART_UNITS
  values = {
    unit: section[f"{name}_{unit}"]
    for unit in units
    if section.get(f"{name}_{unit}") is not None
  }
  if len(values) > 1:
    raise ValueError(
      f"{where} sets {name} more than once "
      f"({', '.join(f'{name}_{unit}' for unit in values)}); keep one."
    )
  if not values:
    return default
  unit, value = next(iter(values.items()))
  key = f"{where}.{name}_{unit}"
  fractions = unit in ("epochs", "percent")
  if (
    isinstance(value, bool)
    or not isinstance(value, int | float)
    or not 0 <= value < float("inf")
    or (int(value) != value and not fractions)
  ):
    raise ValueError(
      f"{key}={value!r} must be a non-negative "
      f"{'number' if fractions else 'integer'}."
    )
  if unit == "percent":
    if 0 < value < 1 or value >= 100:
      raise ValueError(
        f"{key}={value!r} must be 0 or in [1, 100): 10 is a tenth of the "
        f"training. For less there is {name}_steps."
      )
    return int(total_steps * value * (1 + 1e-9) / 100)
  if unit == "steps":
    return int(value)
  examples = value * num_examples if unit == "epochs" else value
  # The tolerance prevents an additional step for 0.1 * 30 epochs.
  return int(-((-examples * (1 - 1e-9)) // batch_size))


def duration_keys(
  *names: str, units: Iterable[str] = DURATION_UNITS
) -> list[str]:
  """Returns all keys for durations of these names, for `check_keys`."""
  return [f"{name}_{unit}" for name in names for unit in units]


def changes(
  old: Any, new: Any, where: str = "config", left_out: Any = None
) -> Iterator[tuple[str, Any, Any]]:
  """Yields the leaves that differ in two configs: key, old and new value.

  Args:
    old: a config, or a part of one.
    new: the same of another.
    where: its name.
    left_out: stands for a missing key beside None: anything but None lets the
      two differ, since None may mean something else than the default.
  """
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted(old.keys() | new.keys()):
      values = old.get(key), new.get(key)
      if values == (None, None):
        values = old.get(key, left_out), new.get(key, left_out)
      yield from changes(*values, f"{where}.{key}", left_out)
  elif old != new:
    yield where, old, new


def differences(old: Any, new: Any, where: str = "config") -> list[str]:
  """Returns the leaves that differ in two configs as "key: old -> new"."""
  return [f"{key}: {a!r} -> {b!r}" for key, a, b in changes(old, new, where)]
