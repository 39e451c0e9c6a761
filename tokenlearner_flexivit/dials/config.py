"""Reads the dials of a config, `config.flexi`."""

import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.dials.drawing import Dial, Dials, cost_by_size
from tokenlearner_flexivit.dials.setting import KINDS, Setting

# Draws are float32 numbers, of which there are 2 ** 23 in [0, 1).
_LEAST_SHARE = 1e-6
# Stages of a curriculum: so many that the change between two is negligible.
_MAX_STAGES = 100


def from_config(
  section: dict[str, Any] | None,
  default: tuple[int, int] | None,
  total_steps: int = 1,
  cost: Callable[[Setting], Any] = cost_by_size,
) -> tuple[Dials, str]:
  """Reads `config.flexi`.

  Args:
    section: `dict(patch_size=DIAL, num_tokens=DIAL, sandwich=False,
      inplace_distillation=False, dispatch="auto")`, see `Dials`, where DIAL
      is `dict(values=, weights=None, end_weights=None)`; None for a model of
      one setting. The weights of the draw become, linearly over the training,
      `end_weights`: a curriculum, such as from large patches to small ones.
      Among the numbers of tokens None, or "all", switches TokenLearner off.
    default: the model's own patch size, used where the section names none; None
      for a model without patches.
    total_steps: number of steps of the training.
    cost: orders settings from cheap to dear.

  Returns:
    The dials, and the dispatch mode "switch" or "host".

  Raises:
    ValueError: a key is unknown, a dial has no value or one twice, a value is
      impossible, weights are not one positive number for each value, a sandwich
      has one setting only, or inplace distillation has no sandwich.
  """
  section = section or {}
  switches = ("sandwich", "inplace_distillation")
  configuration.check_keys(
    section, (*KINDS, *switches, "dispatch"), "config.flexi"
  )
  if section.get("patch_size") is None and default is not None:
    section = {**section, "patch_size": {"values": (default,)}}
  drawn = {
    name: _dial(section[name], kind.read, f"config.flexi.{name}", total_steps)
    for name, kind in KINDS.items()
    if section.get(name) is not None
  }
  dispatch = section.get("dispatch")
  dispatch = "auto" if dispatch is None else dispatch
  known = {"switch": "switch", "host": "host", "auto": default_dispatch()}
  sandwich, inplace = (
    configuration.value(section, name, False) for name in switches
  )
  for name, value in zip(switches, (sandwich, inplace), strict=True):
    if not isinstance(value, bool):
      raise ValueError(f"config.flexi.{name}={value!r} must be True or False.")
  dials = Dials(drawn, sandwich, inplace, cost)
  if sandwich and len(dials.settings) < 2:
    raise ValueError(
      "config.flexi.sandwich=True needs several settings, but there is one. "
      f"Give several values of {' or '.join(KINDS)}."
    )
  if inplace and not sandwich:
    raise ValueError(
      "config.flexi.inplace_distillation needs config.flexi.sandwich=True: "
      "the teacher is the largest setting of the same step."
    )
  return (
    dials,
    configuration.choose(dispatch, known, "config.flexi.dispatch"),
  )


def _dial(
  section: dict[str, Any],
  read: Callable[[Any, str], Any],
  where: str,
  total_steps: int,
) -> Dial:
  """Reads the section of one dial; `read` parses its values."""
  if not isinstance(section, Mapping):
    raise ValueError(f"{where}={section!r} must be a dict(values=...).")
  configuration.check_keys(section, ("values", "weights", "end_weights"), where)
  configuration.check_list(section.get("values"), f"{where}.values")
  values = tuple(read(value, where) for value in section["values"])
  if not values:
    raise ValueError(f"{where}.values is empty; give at least one.")
  if len(set(values)) != len(values):
    raise ValueError(f"{where}.values={values} names a value twice.")
  start, end = (
    _probabilities(section.get(key), values, f"{where}.{key}")
    for key in ("weights", "end_weights")
  )
  stages, stage_steps = [start], 1
  if section.get("end_weights") is not None:
    stage_steps = -(-total_steps // _MAX_STAGES)
    shares = np.linspace(0, 1, -(-total_steps // stage_steps))
    stages = [(1 - share) * start + share * end for share in shares]
  dial = Dial(
    values, tuple(tuple(stage.tolist()) for stage in stages), stage_steps
  )
  _check_drawn(dial, where)
  return dial


def _check_drawn(dial: Dial, where: str) -> None:
  """Raises ValueError for a value that is hardly ever drawn, or never."""
  for value, share in zip(dial.values, dial.shares, strict=True):
    if share < _LEAST_SHARE:
      raise ValueError(
        f"{where}: by its weights {value!r} is drawn in a share of {share:.3g} "
        f"of the steps, hardly ever or never. Leave it out, or give it "
        f"{_LEAST_SHARE:g} at least."
      )


def _probabilities(
  weights: Sequence[float] | None, values: Sequence[Any], where: str
) -> np.ndarray:
  if weights is None:
    return np.full(len(values), 1 / len(values))
  are_numbers = isinstance(weights, Sequence) and all(
    isinstance(w, numbers.Real)
    and type(w) is not bool
    and 0 < w <= sys.float_info.max
    for w in weights
  )
  if not are_numbers or len(weights) != len(values):
    raise ValueError(
      f"{where}={weights!r} must be {len(values)} positive numbers, one for "
      "each value."
    )
  with np.errstate(over="ignore"):
    total = np.sum(weights, dtype=np.float64)
  if not np.isfinite(total):
    raise ValueError(
      f"{where}={weights!r} are too large to be added up; give smaller ones."
    )
  return np.asarray(weights, np.float64) / total


def default_dispatch(platform: str | None = None) -> str:
  """Returns the dispatch mode that suits a platform.

  On CPUs XLA copies the parameters into and out of the branch of a switch, at
  every step: 1.07x the time in `benchmarks/dispatch.py`. One program compiles
  sooner (0.47x there), and on accelerators needs no more memory than its
  dearest setting alone (docs/accelerators.md), so these use the switch.

  Args:
    platform: such as "tpu"; None for that of JAX's default backend.
  """
  platform = platform or jax.default_backend()
  return "host" if platform == "cpu" else "switch"
