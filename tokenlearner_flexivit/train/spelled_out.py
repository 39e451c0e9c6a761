"""Tells which changes of a config only spell out a default, or leave it out."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import dials, evaluators, tasks
from tokenlearner_flexivit.data.settings import Settings
from tokenlearner_flexivit.train import optimizer

Config = Mapping[str, Any]
_NAMES = ("name", "type")
# Defaults of keys that are read beside the function that a section names.
_SCHEDULE = ("optimizer", "schedule")
_DURATIONS = configuration.duration_keys(
  "warmup", "cooldown", units=configuration.PART_UNITS
)
_DEFAULTS = {
  ("optimizer", "decay"): list(optimizer.DECAYED),
  (*_SCHEDULE, "end"): optimizer.END,
  (*_SCHEDULE, "timescale"): optimizer.TIMESCALE,
  **{(*_SCHEDULE, key): 0 for key in _DURATIONS},
}
# Enough to compare curricula of weights.
_STEPS = 100


def is_same(key: str, old: Config, new: Config) -> bool:
  """Tells whether two configs mean the same by a key in which they differ.

  Args:
    key: such as "config.optimizer.b2".
    old: complete.
    new: complete.
  """
  top, *_ = *section, name = key.split(".")[1:]
  configs = (old, new)
  values = [_section(section, config).get(name) for config in configs]
  if None not in values:
    return False
  # Where nothing else is known, None says as much as a missing key.
  otherwise = values == [None, None]
  if top in _BUILD:
    return _same_when_built(_BUILD[top], old, new, otherwise)
  reader, other = (_reader(section, config) for config in configs)
  if reader is None or reader is not other:
    return otherwise
  is_argument = name in inspect.signature(reader).parameters
  if name in _NAMES and not is_argument:
    return True  # It names the reader.
  if (*section, name) == _SCHEDULE:
    keys = _section(_SCHEDULE, old) | _section(_SCHEDULE, new)
    return all(is_same(f"{key}.{inner}", old, new) for inner in keys)
  default = _DEFAULTS.get((*section, name))
  # RMSprop has a `decay` of its own.
  if default is not None and not (is_argument and name == "decay"):
    return all(value in (None, default) for value in values)
  try:
    first, second = (
      configuration.with_default(reader, _section(section, config), name)
      for config in configs
    )
  except ValueError:  # The default is a function, which no config can name.
    return otherwise
  return first == second


def _model(config: Config) -> Any:
  return tasks.named(config["task"]).build_model(config["model"])


def _dials(config: Config) -> Any:
  own = _model(config).own_patch_size
  return dials.from_config(config["flexi"], own, _STEPS)


_BUILD = {"model": _model, "flexi": _dials}


def _same_when_built(
  build: Callable[[Config], Any], old: Config, new: Config, otherwise: bool
) -> bool:
  try:
    return build(old) == build(new)
  except (OSError, ValueError):  # Of an older version, or of lost files.
    return otherwise


def _reader(path: Sequence[str], config: Config) -> Callable[..., Any] | None:
  """Returns what reads the keys of a section; None for others."""
  section = _section(path, config)
  match path:
    case ["task"]:
      return tasks.TASKS.get(section.get("name") or "classification")
    case ["data"] | ["evals", _, "data"]:
      return Settings
    case ["evals", _]:
      kind = section.get("type") or "classification"
      return evaluators.EVALUATORS.get(kind)
    case ["optimizer"]:
      return optimizer.known().get(section.get("name") or "adamw")
    case ["optimizer", "schedule"]:
      return optimizer.SCHEDULES.get(section.get("name") or "cosine")
  return None


def _section(path: Sequence[str], config: Config) -> Mapping[str, Any]:
  """Returns a section of a config, empty where it has none."""
  for key in path:
    config = config.get(key) or {}
    if not isinstance(config, Mapping):
      return {}
  return config
