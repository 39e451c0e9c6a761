"""Optimizers of optax by their names, beside those of `optimizer`.

Many of them depend on a whole parameter, such as its norm, or its rows and
columns. So they get the parameters of each block separately, also those of a
stack (`models.stacking`), and do the same with `scan=True` as without.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models import stacking

# Functions that would train without an error, but not as intended.
_OTHER_LOOPS = {
  "dpsgd": "needs gradients of single examples",
  "schedule_free_adamw": "evaluates other parameters than those that it trains",
  "schedule_free_sgd": "evaluates other parameters than those that it trains",
}
_MASKS = ("mask", "weight_decay_mask")


def functions() -> dict[str, Callable[..., optax.GradientTransformation]]:
  """Returns optax's public functions that build an optimizer, by name."""

  def builds(name: str, value: Any) -> bool:
    if not inspect.isfunction(value) or name.startswith(("scale_by_", "_")):
      return False
    parameters = inspect.signature(value).parameters
    return next(iter(parameters), None) == "learning_rate"

  public = {**vars(optax.contrib), **vars(optax)}
  return {name: value for name, value in public.items() if builds(name, value)}


def create(
  name: str,
  section: Mapping[str, Any],
  params: Any,
  schedule: optax.Schedule,
  mask: Any,
) -> optax.GradientTransformation:
  """Builds an optimizer of optax with a config's keys as its arguments.

  Args:
    name: of one of `functions`.
    section: its arguments, with `lr` for its learning rate and `decay` for its
      mask. `decay` is refused for an optimizer without a mask, which decays all
      parameters; RMSprop has one of its own, a number.
    params: the parameters (only names, shapes and dtypes are read).
    schedule: the relative learning rate, by step.
    mask: which parameters decay, from `optimizer.decay_mask`.

  Raises:
    ValueError: an argument that is unknown or missing, or that optax refuses;
      an optimizer that needs more than gradients.
  """
  where, function = "config.optimizer", functions()[name]
  if name in _OTHER_LOOPS:
    raise ValueError(
      f"{where}.name={name!r} {_OTHER_LOOPS[name]}, as this training cannot. "
      "Choose another optimizer."
    )
  parameters = inspect.signature(function).parameters
  masks = [key for key in _MASKS if key in parameters]
  known = {*parameters, "lr", *(["decay"] if masks else [])}
  configuration.check_keys(section, known - {"learning_rate", *masks}, where)
  if section.get("lr") is None:
    raise ValueError(f"{where} needs lr.")
  ours = ("lr", "decay") if masks else ("lr",)
  arguments = {k: v for k, v in section.items() if k not in ours}
  for key, value in arguments.items():
    _check_type(value, parameters[key].default, f"{where}.{key}")
  rates = {"learning_rate": section["lr"]}
  rates |= {k: v for k, v in arguments.items() if k.endswith("learning_rate")}
  provided = {
    key: lambda count, rate=rate: rate * schedule(count)
    for key, rate in rates.items()
    if rate is not None
  }
  mask = jax.tree.map(lambda decays: bool(decays.any()), stacking.unstack(mask))
  provided |= dict.fromkeys(masks, mask)
  if name == "muon":
    provided["muon_weight_dimension_numbers"] = _muon_axes
  arguments = {k: v for k, v in arguments.items() if k not in provided}
  runs = stacking.runs(params)
  try:
    optimizer = configuration.call(function, arguments, where, **provided)
    optimizer = _block_by_block(optimizer, runs) if runs else optimizer
    jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), params)
  except (AssertionError, AttributeError, TypeError, ValueError) as error:
    raise ValueError(
      f"{where}: optax's {name} does not work with these values, or needs "
      f"more than gradients and a learning rate that changes: {error}"
    ) from error
  return optimizer


def _check_type(value: Any, default: Any, where: str) -> None:
  """Raises ValueError for a value of another type than the default."""
  if isinstance(default, bool) and not isinstance(value, bool | None):
    raise ValueError(f"{where}={value!r} must be true or false.")
  if type(default) in (int, float) and value is not None:
    configuration.check_number(value, where)


def _block_by_block(
  optimizer: optax.GradientTransformation, runs: list[range]
) -> optax.GradientTransformation:
  """Returns an optimizer that updates each block of a stack by `optimizer`."""

  def init(params: Any) -> Any:
    return stacking.stack(optimizer.init(stacking.unstack(params)), runs)

  def update(*stacked: Any) -> Any:
    return stacking.stack(optimizer.update(*stacking.unstack(stacked)), runs)

  return optax.GradientTransformation(init, update)


def _muon_axes(params: Any) -> Any:
  """Returns which axes of kernels are those of a matrix, None for the rest.

  By default Muon would treat biases of attention, [heads, dim], as matrices,
  and its kernels not.
  """

  def axes(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
    *_, module, name = [None, *(key.key for key in path)]
    by_rank = {2: (0, 1), 3: ((0, 1), 2) if module == "out" else (0, (1, 2))}
    if name != "kernel" or leaf.ndim not in by_rank:
      return None
    return optax.contrib.MuonDimensionNumbers(*by_rank[leaf.ndim])

  return jax.tree_util.tree_map_with_path(axes, params)
