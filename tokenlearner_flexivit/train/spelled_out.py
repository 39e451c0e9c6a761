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
  if name in _NAMES and name not in inspect.signature(reader).parameters:
    return True  # It names the reader.
  first, second = (
    configuration.with_default(reader, _section(section, config), name)
    for config in configs
  )
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
      return optimizer.OPTIMIZERS.get(section.get("name") or "adamw")
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
