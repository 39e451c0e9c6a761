"""Optimizers and schedules of optax, as `config.optimizer` names them.

Three optimizers are defined here, with the kinds of weight decay of published
recipes. Others of optax have their own names and arguments (`optax_names`).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
import optax

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.train import layer_rates, optax_names

# Kernels decay, as in big_vision; biases, norms and embeddings do not. The two
# matrices of Segmenter's mask transformer are kernels by other names.
DECAYED = (r".*/(kernel|proj_patch|proj_classes)",)
# Of schedules: the last factor, and the steps of the square root's decay.
END, TIMESCALE = 0.0, 10_000


def decay_mask(params: Any, patterns: str | Sequence[str] = DECAYED) -> Any:
  """Returns which parameters decay.

  Args:
    params: the parameter tree; only names and numbers of axes are read.
    patterns: regular expressions, one of which must match the whole
      "/"-joined name, as in checkpoints: a stack of blocks (`models.stacking`)
      has the names of all its blocks.

  Returns:
    A tree like `params` of arrays of bools [1, 1, ...], for a stack
    [blocks, 1, ...], with as many axes as the parameters.

  Raises:
    ValueError: a pattern is invalid, or matches nothing.
  """
  patterns = [patterns] if isinstance(patterns, str) else patterns
  configuration.check_list(patterns, "config.optimizer.decay")
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  names = {leaf: layer_rates.names(leaf) for leaf in flat}
  every = [name for several in names.values() for name in several]
  decays = {
    name
    for pattern in patterns
    for name in layer_rates.matching(pattern, every, "config.optimizer.decay")
  }
  mask = {
    leaf: layer_rates.per_block([name in decays for name in names[leaf]], value)
    for leaf, value in flat.items()
  }
  return flax.traverse_util.unflatten_dict(mask, sep="/")


def cosine(progress_steps: int, end: float) -> optax.Schedule:
  """Returns a schedule from 1 to `end` along half a cosine."""
  return optax.cosine_decay_schedule(1.0, max(1, progress_steps), end)


def linear(progress_steps: int, end: float) -> optax.Schedule:
  """Returns a schedule from 1 to `end` in a straight line."""
  return optax.linear_schedule(1.0, end, max(1, progress_steps))


def polynomial(
  progress_steps: int, end: float, power: float = 0.9
) -> optax.Schedule:
  """Returns a schedule from 1 to `end` along (1 - t) ** power.

  It is the "poly" of segmentation (PSPNet, arXiv 1612.01105, section 5.1).
  """
  configuration.check_number(
    power, "config.optimizer.schedule.power", "(0, inf)"
  )
  return optax.polynomial_schedule(1.0, end, power, max(1, progress_steps))


def constant(progress_steps: int, end: float) -> optax.Schedule:
  """Returns a schedule that is 1 throughout."""
  del progress_steps, end
  return optax.constant_schedule(1.0)


def rsqrt(
  progress_steps: int, end: float, timescale: int, cooldown_steps: int
) -> optax.Schedule:
  """Returns sqrt(t / (step + t)), then a linear cooldown (arXiv 2106.04560).

  Args:
    progress_steps: steps after the warmup.
    end: factor at the last step.
    timescale: t, in steps.
    cooldown_steps: length of the cooldown; 0 for none.
  """
  configuration.check_number(
    timescale, "config.optimizer.schedule.timescale", "[1, inf)"
  )

  def decay(count):
    return (timescale / (count + timescale)) ** 0.5

  if not cooldown_steps:
    return decay
  start = progress_steps - cooldown_steps
  if start < 0:
    raise ValueError(
      "config.optimizer.schedule: the cooldown of "
      f"{terminal.counted(cooldown_steps, 'step')} is longer than the "
      f"{terminal.counted(progress_steps, 'step')} after the warmup."
    )
  cooldown = optax.linear_schedule(decay(start), end, cooldown_steps)
  return optax.join_schedules([decay, cooldown], [start])


SCHEDULES = {
  "cosine": cosine,
  "linear": linear,
  "polynomial": polynomial,
  "constant": constant,
  "rsqrt": rsqrt,
}


def create_schedule(
  section: Mapping[str, Any],
  total_steps: int,
  *,
  batch_size: int,
  num_examples: int,
) -> optax.Schedule:
  """Builds the relative learning rate, from 0 to 1, of `optimizer.schedule`.

  Args:
    section: `name` (cosine, linear, polynomial, rsqrt, constant);
      `warmup_steps`, `_epochs`, `_examples` or `_percent` (of the training; 10
      is a tenth); `end`, the last factor (default 0); for polynomial `power`
      (default 0.9); for rsqrt `timescale` in steps (default 10,000) and
      `cooldown_*` in the same units.
    total_steps: length of the training, with the warmup.
    batch_size: for durations in examples.
    num_examples: for durations in epochs.

  Returns:
    A function from the step to the factor of the learning rate.
  """
  where = "config.optimizer.schedule"
  if not isinstance(section, Mapping):
    raise ValueError(f"{where}={section!r} must be a section: keys, values.")
  arguments = dict(section)
  name = configuration.value(arguments, "name", "cosine")
  arguments.pop("name", None)
  create = configuration.choose(name, SCHEDULES, f"{where}.name")
  kinds = ("warmup", "cooldown") if name == "rsqrt" else ("warmup",)
  keys = configuration.duration_keys(*kinds, units=configuration.PART_UNITS)
  own = inspect.signature(create).parameters.keys()
  own -= {"progress_steps", "cooldown_steps"}
  configuration.check_keys(section, ("name", *own, *keys), where)
  durations = dict.fromkeys(("warmup", "cooldown"), 0)
  for duration in kinds:
    durations[duration] = configuration.steps(
      arguments,
      duration,
      where,
      batch_size=batch_size,
      num_examples=num_examples,
      total_steps=total_steps,
      default=0,
    )
  arguments = {k: v for k, v in arguments.items() if k not in keys}
  warmup = durations["warmup"]
  if warmup >= total_steps > 0:
    raise ValueError(
      f"{where}: the warmup of {terminal.counted(warmup, 'step')} does not end "
      f"before the training of {terminal.counted(total_steps, 'step')} does. "
      "Train longer, or give the warmup as a part of the training: "
      "warmup_percent=10."
    )
  has_end = name != "constant" and (name != "rsqrt" or durations["cooldown"])
  if arguments.get("end") is None:
    arguments["end"] = END
  elif not has_end:
    raise ValueError(
      f"{where}.end={arguments['end']!r} has no part in {name!r}"
      f"{' without a cooldown' if name == 'rsqrt' else ''}. Leave it out."
    )
  configuration.check_number(arguments["end"], f"{where}.end", "[0, inf)")
  provided = {"progress_steps": total_steps - warmup}
  if name == "rsqrt":
    if arguments.get("timescale") is None:
      arguments["timescale"] = TIMESCALE
    provided["cooldown_steps"] = durations["cooldown"]
  decay = configuration.call(create, arguments, where, **provided)
  if not warmup:
    return decay
  rise = optax.linear_schedule(0.0, 1.0, warmup)
  return optax.join_schedules([rise, decay], [warmup])


def adamw(
  lr: float,
  schedule: optax.Schedule,
  mask: Any,
  weight_decay: float = 1e-4,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  mu_dtype: str | None = None,
) -> optax.GradientTransformation:
  """Returns AdamW as optax and PyTorch define it: lr multiplies the decay."""
  return optax.chain(
    optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype),
    _decayed(weight_decay, mask),
    optax.scale_by_learning_rate(lambda count: lr * schedule(count)),
  )


def _decayed(weight_decay: float, mask: Any) -> optax.GradientTransformation:
  """Returns a transformation that adds the decay of the masked parameters."""

  def add(updates: Any, params: Any) -> Any:
    return jax.tree.map(
      lambda decays, update, param: (
        update  # Masked parameters, here or by the caller, are left out.
        if isinstance(update, optax.MaskedNode)
        else update + weight_decay * decays * param
      ),
      mask,
      updates,
      params,
    )

  some = jax.tree.map(lambda decays: bool(decays.any()), mask)
  return optax.masked(optax.stateless(add), some)


def _decoupled(
  direction: optax.GradientTransformation,
  lr: float,
  schedule: optax.Schedule,
  mask: Any,
  weight_decay: float,
) -> optax.GradientTransformation:
  """Returns big_vision's decay: it follows the schedule, without lr."""
  return optax.chain(
    direction,
    optax.scale(lr),
    _decayed(weight_decay, mask),
    optax.scale_by_schedule(lambda count: -schedule(count)),
  )


def scale_by_adam(
  lr: float,
  schedule: optax.Schedule,
  mask: Any,
  weight_decay: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  mu_dtype: str | None = "bfloat16",
) -> optax.GradientTransformation:
  """Returns Adam with bfloat16 momentum and decoupled decay, as FlexiViT's.

  The published `wd` values are meant for this optimizer: the weights shrink by
  `weight_decay` times the schedule's factor, whatever lr is.
  """
  adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
  return _decoupled(adam, lr, schedule, mask, weight_decay)


def sgd(
  lr: float,
  schedule: optax.Schedule,
  mask: Any,
  weight_decay: float = 0.0,
  momentum: float = 0.9,
  nesterov: bool = False,
  mu_dtype: str | None = None,
) -> optax.GradientTransformation:
  """Returns SGD with momentum and the decoupled decay of `scale_by_adam`."""
  trace = optax.trace(momentum, nesterov, accumulator_dtype=mu_dtype)
  return _decoupled(trace, lr, schedule, mask, weight_decay)


# The intervals of their arguments that are numbers.
_INTERVALS = {
  "lr": "[0, inf)",
  "weight_decay": "[0, inf)",
  "b1": "[0, 1)",
  "b2": "[0, 1)",
  "eps": "(0, inf)",
  "momentum": "[0, 1)",
  "grad_clip_norm": "(0, inf)",
}
# Half precision cannot hold squares and small means of gradients.
_DTYPES = (None, "float32", "bfloat16")


def _check_values(arguments: Mapping[str, Any], where: str) -> None:
  """Raises ValueError for a value that no optimizer accepts."""
  for key, interval in _INTERVALS.items():
    if arguments.get(key) is not None:
      configuration.check_number(arguments[key], f"{where}.{key}", interval)
  if arguments.get("mu_dtype") not in _DTYPES:
    raise ValueError(
      f"{where}.mu_dtype={arguments['mu_dtype']!r} must be 'float32', "
      "'bfloat16' or None, that of the parameters."
    )
  if not isinstance(arguments.get("nesterov"), bool | None):
    raise ValueError(
      f"{where}.nesterov={arguments['nesterov']!r} must be true or false."
    )


OPTIMIZERS = {"adamw": adamw, "scale_by_adam": scale_by_adam, "sgd": sgd}


def known() -> dict[str, Callable[..., optax.GradientTransformation]]:
  """Returns the functions that build an optimizer, here and in optax."""
  return {**optax_names.functions(), **OPTIMIZERS}


def check(section: Mapping[str, Any], batch_size: int) -> None:
  """Raises ValueError for faults of `config.optimizer` by itself.

  Patterns for names of parameters are not checked, nor whether the warmup ends
  before the training does.

  Args:
    section: as `create` takes it.
    batch_size: of the training.
  """
  by_name = ("decay", *layer_rates.KEYS)
  section = {k: v for k, v in section.items() if k not in by_name}
  params = {"head": {"kernel": np.zeros((2, 2), np.float32)}}
  create(section, params, 10**9, batch_size=batch_size, num_examples=1)


def create(
  section: Mapping[str, Any],
  params: Any,
  total_steps: int,
  *,
  batch_size: int,
  num_examples: int,
  model: Any = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Builds the optimizer that `config.optimizer` describes.

  Args:
    section: `name` and the keyword arguments of that optimizer, here or in
      optax ("lion", "lamb", "adafactor", "muon", ...), and `lr`, its learning
      rate; `schedule`, for `create_schedule`; `grad_clip_norm`, the largest
      global norm of the gradient, or None; `decay`, patterns for `decay_mask`;
      `layer_decay`, `freeze` and `lr_scales`, for `layer_rates.factors`.
    params: the parameters (only names, shapes and dtypes are read).
    total_steps: length of the training.
    batch_size: for durations in examples.
    num_examples: for durations in epochs.
    model: of the parameters, for `layer_decay`.

  Returns:
    The optax transformation, and the learning rate, of parameters whose factor
    is 1, as a function of the step.

  Raises:
    ValueError: an unknown name or key, or a value out of range.
  """
  where = "config.optimizer"
  arguments = dict(section)
  name = configuration.value(arguments, "name", "adamw")
  arguments.pop("name", None)
  configuration.choose(name, known(), f"{where}.name")
  checked = arguments
  # For some optimizers of optax, an eps of 0 has a meaning.
  if name not in OPTIMIZERS:
    checked = {k: v for k, v in arguments.items() if k != "eps"}
  _check_values(checked, where)
  schedule = create_schedule(
    configuration.value(arguments, "schedule", {}),
    total_steps,
    batch_size=batch_size,
    num_examples=num_examples,
  )
  arguments.pop("schedule", None)
  clip = arguments.pop("grad_clip_norm", None)
  rates = {key: arguments.pop(key, None) for key in layer_rates.KEYS}
  factors = layer_rates.factors(params, **rates, model=model)
  # RMSprop has a `decay` of its own.
  is_own = "decay" in inspect.signature(known()[name]).parameters
  decay = None if is_own else arguments.get("decay")
  mask = decay_mask(params, DECAYED if decay is None else decay)
  if name in OPTIMIZERS:
    arguments.pop("decay", None)
    optimizer = configuration.call(
      OPTIMIZERS[name], arguments, where, schedule=schedule, mask=mask
    )
  else:
    optimizer = optax_names.create(name, arguments, params, schedule, mask)
  if clip is not None:
    optimizer = optax.chain(optax.clip_by_global_norm(clip), optimizer)
  optimizer = layer_rates.scale(optimizer, factors)
  lr = section["lr"]
  return optimizer, lambda step: lr * schedule(step)
