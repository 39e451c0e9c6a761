"""Files of configs, and the values that `--config.KEY=VALUE` overrides.

Every key can be set, also one that the file leaves out; the reader of a section
refuses unknown keys. A value must have the type that it has in the file; None
is always accepted.
"""

import ast
import importlib.util
import inspect
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import paths

# The module name of a config file while its functions run.
MODULE = "config_file"

_FLAG = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)
_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_DURATION = re.compile(rf"(.+)_({'|'.join(configuration.PART_UNITS)})")


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Separates flags such as `--config.seed=1` from others.

  Args:
    argv: arguments of a program; `--config.seed 1`, `--config.flexi.sandwich`
      for True and `--noconfig.flexi.sandwich` for False are read, too.

  Returns:
    The values as "seed=1", and the other arguments.
  """
  values, others, rest = [], [], list(argv)
  while rest:
    argument = rest.pop(0)
    match = _FLAG.fullmatch(argument)
    if argument == "--":
      return values, [*others, argument, *rest]
    if match is None:
      others.append(argument)
      continue
    negated, key, value = match.groups()
    if value is None:
      follows = not negated and rest and not re.match(r"-[^\d.]", rest[0])
      value = rest.pop(0) if follows else str(not negated)
    values.append(f"{key}={value}")
  return values, others


def load(source: str) -> ml_collections.ConfigDict:
  """Calls `get_config` of a file.

  Args:
    source: the file, or FILE:ARGUMENT. A relative path is looked for in the
      working directory, then beside this package, where `configs/` is.

  Raises:
    ValueError: the file does not exist, or is no file of a config.
  """
  name, colon, argument = source.partition(":")
  path = paths.local(name, "--config")
  if not path.is_file():
    beside = pathlib.Path(__file__).parents[1] / path
    path = beside if beside.is_file() else path
  if not path.is_file():
    raise ValueError(f"--config={source}: there is no file {path}.")
  spec = importlib.util.spec_from_file_location(MODULE, path)
  if spec is None:
    raise ValueError(f"--config={source}: {path} is no file of Python (.py).")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise ValueError(f"--config={source}: {path} has no function get_config.")
  arguments = [argument] if colon else []
  try:
    inspect.signature(module.get_config).bind(*arguments)
  except TypeError as error:
    raise ValueError(
      f"--config={source}: get_config cannot be called in this way ({error}). "
      f"Its argument is what follows a colon: --config={name}:ARGUMENT."
    ) from None
  config = module.get_config(*arguments)
  if isinstance(config, dict):
    config = ml_collections.ConfigDict(config, allow_dotted_keys=True)
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
      f"--config={source}: get_config returns a {type(config).__name__}, not a "
      "ConfigDict."
    )
  return config


def apply(
  config: ml_collections.ConfigDict,
  values: Iterable[str],
  defaults: Mapping[str, Any],
) -> list[str]:
  """Sets values in `config`, as "optimizer.lr=0.1" names them.

  Keys of the file that say the same in another way are removed: `total_epochs`
  if `total_steps` is set, the weights of values if the values are set.

  Args:
    config: changed in place.
    values: KEY=VALUE each.
    defaults: of the keys outside of sections, for those missing in `config`.

  Returns:
    Sentences that name the removed keys.

  Raises:
    ValueError: a value of another type than the file's, or of no section.
  """
  parts = [value.partition("=")[::2] for value in values]
  said, keys = [], {key for key, _ in parts}
  for key, text in parts:
    *sections, name = key.split(".")
    where, node = "config", config
    for section in sections:
      if node.get(section) is None:
        _set(node, section, {})
      where, node = f"{where}.{section}", node[section]
      if not isinstance(node, ml_collections.ConfigDict):
        raise ValueError(
          f"--config.{key}={text}: {where}={node!r} is a value, it has no keys."
        )
    if not name or "[" in key or any(not section for section in sections):
      raise ValueError(
        f"--config.{key}={text}: give a key as section.key, and a list whole."
      )
    old = node.get(name, None if sections else defaults.get(name))
    new = _read(text, old, f"--config.{key}={text}")
    if isinstance(new, str):
      new = paths.at_home(new)
    _set(node, name, new)
    for other in _beside(name) if new is not None and new != old else ():
      path = ".".join([*sections, other])
      if node.get(other) is not None and path not in keys:
        said.append(
          f"Because of --config.{key}, the config's {path}={node[other]!r} is "
          "left out."
        )
        _set(node, other, None)
  return said


def _set(node: ml_collections.ConfigDict, key: str, value: Any) -> None:
  if isinstance(value, dict):  # Keys may be patterns, which contain dots.
    value = ml_collections.ConfigDict(value, allow_dotted_keys=True)
  with node.unlocked(), node.ignore_type():
    node[key] = value


def _beside(name: str) -> list[str]:
  """Returns the keys that lose their meaning if `name` changes."""
  if name == "values":
    return ["weights", "end_weights"]
  if match := _DURATION.fullmatch(name):
    keys = configuration.duration_keys(match[1], units=configuration.PART_UNITS)
    return [key for key in keys if key != name]
  return []


def _read(text: str, old: Any, where: str) -> Any:
  """Returns the value of a text, converted to the type of `old`."""
  value = _literal(text)
  if value is None:
    return None
  if isinstance(old, bool):
    known = str(value).lower()
    if known not in _BOOLS:
      raise ValueError(f"{where} must be true, false or None.")
    return _BOOLS[known]
  if isinstance(old, str):
    # A number may be a name, and a list means several names.
    return value if isinstance(value, str | tuple | list) else text
  if isinstance(old, int | float):
    if isinstance(value, str | bool):
      raise ValueError(f"{where} must be a number, as {old!r} in the file.")
    if isinstance(old, float) and isinstance(value, int):
      return float(value)
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if isinstance(old, int) and is_whole else value
  if isinstance(old, tuple | list):
    if isinstance(value, str):
      # In quotes it is one text, such as a pattern with a comma.
      is_quoted = value != text
      parts = [value] if is_quoted else text.split(",")
      return tuple(part.strip() for part in parts if part.strip())
    return tuple(value) if isinstance(value, tuple | list) else (value,)
  if isinstance(old, ml_collections.ConfigDict) and not isinstance(value, dict):
    raise ValueError(
      f"{where} must be keys and values, {{'key': value}}, or None. One key of "
      f"it: {where.partition('=')[0]}.KEY=VALUE. It has {', '.join(old)}."
    )
  return (
    {"true": True, "false": False}.get(text, value) if old is None else value
  )


def _literal(text: str) -> Any:
  """Returns the text as a Python literal, or else the text itself."""
  try:
    return ast.literal_eval(text.strip())
  except (ValueError, SyntaxError):
    return text
