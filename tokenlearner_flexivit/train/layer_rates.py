"""Learning rates by parameter: layer-wise decay, scales, frozen layers.

A factor multiplies the whole update of a parameter, weight decay included, like
a separate learning rate; 0 keeps the parameter unchanged. A stack of blocks
(`models.stacking`) has a factor for each block.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
import optax

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models import stacking

# Keys of `config.optimizer` that are arguments of `factors`.
KEYS = ("layer_decay", "freeze", "lr_scales")

_STACK = re.compile(r"(.*)encoderblocks_(\d+)-(\d+)(/.*)")
_BLOCK = re.compile(r"(.*)encoderblock_(\d+)/.*")
_LEARNED = re.compile(r".*Token(?:Learner|Fuser)_(\d+)/.*")
_EMBEDDING = re.compile(
  r"(embedding|pos_embedding|cls|registers|pre_norm)(/.*)?"
)
# The second encoder of a factorised model for videos, and the layers before it.
_TEMPORAL = "TemporalTransformer/"
_BETWEEN = re.compile(
  r"(Transformer/encoder_norm|MAPHead_0)/.*"
  r"|(pos_embedding|cls)_TemporalTransformer"
)


def factors(
  params: Any,
  layer_decay: float | None = None,
  freeze: str | Sequence[str] | None = None,
  lr_scales: Mapping[str, float] | Sequence[Any] | None = None,
  model: Any = None,
) -> Any:
  """Returns the factor of every parameter, the product over three keys.

  Layer-wise decay is that of the code of BEiT (arXiv 2106.08254), MAE (arXiv
  2111.06377) and timm: the head and all other layers after the blocks have 1,
  block k of `depth` (from 0 on) has layer_decay^(depth - k), and the layers
  before the blocks have layer_decay^(depth + 1). TokenLearner has the factor of
  the block that it feeds, TokenFuser that of the block that it follows. In a
  factorised model for videos the blocks in time come after those in space, and
  the layers between the two encoders have the factor of the first block in
  time.

  Args:
    params: the parameters; only names and numbers of axes are read.
    layer_decay: in (0, 1], or None for 1 everywhere.
    freeze: regular expressions. A parameter is frozen, with factor 0, if one of
      them matches its "/"-joined name, or the beginning of it up to a "/":
      "embedding", "Transformer/encoderblock_[0-5]", or "(?!head/).*" for all
      but the head. None freezes nothing.
    lr_scales: factors of at least 0 by regular expressions that match the
      whole "/"-joined name: {"head/.*": 10, ".*pos_embedding": 0}. Files of
      configs use pairs, (("head/.*", 10), (".*pos_embedding", 0)), since a
      ConfigDict takes no keys with dots. Other parameters have 1. Patterns that
      give one parameter different factors are refused.
    model: of the parameters, which defines the position of TokenLearner; None
      is allowed without TokenLearner.

  Returns:
    A tree like `params` of float32 arrays [1, 1, ...], for a stack
    [blocks, 1, ...], with as many axes as the parameters.

  Raises:
    ValueError: a number out of its range, an invalid pattern, one that matches
      nothing, no parameter left to train, or a model without blocks.
  """
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  every = [name for leaf in flat for name in names(leaf)]
  rates = dict.fromkeys(every, 1.0)
  if layer_decay is not None:
    rates = _decayed(every, layer_decay, model)
  scales = _scaled(every, () if lr_scales is None else lr_scales)
  scales |= _frozen(every, () if freeze is None else freeze)
  if not any(scales.get(name, 1.0) for name in every):
    keys = {"freeze": freeze, "lr_scales": lr_scales}
    said = " and ".join(f"{k}={v!r}" for k, v in keys.items() if v)
    raise ValueError(
      f"config.optimizer: {said} leaves nothing to train. Parameters are "
      f"{', '.join(_beginnings(every))}."
    )
  rates |= {name: rates[name] * scale for name, scale in scales.items()}

  arrays = {
    leaf: per_block(np.float32([rates[name] for name in names(leaf)]), value)
    for leaf, value in flat.items()
  }
  return flax.traverse_util.unflatten_dict(arrays, sep="/")


def matching(
  pattern: str, names: Sequence[str], where: str, *, or_beginning: bool = False
) -> list[str]:
  """Returns the names that a pattern matches as a whole.

  Args:
    pattern: a regular expression.
    names: of parameters.
    where: the pattern's name for errors.
    or_beginning: whether the beginning of a name up to a "/" is enough.

  Raises:
    ValueError: the pattern is invalid, or matches nothing.
  """
  where = f"{where}: {pattern!r}"
  try:
    regex = re.compile(rf"(?:{pattern})(?:/.*)?" if or_beginning else pattern)
  except (TypeError, re.error) as error:
    raise ValueError(f"{where} is no regular expression: {error}.") from None
  matched = [name for name in names if regex.fullmatch(name)]
  if not matched and or_beginning:
    raise ValueError(
      f"{where} matches no parameter, nor the beginning of a name up to a "
      f"'/'. Names begin with {', '.join(_beginnings(names))}."
    )
  if not matched:
    raise ValueError(
      f"{where} matches the whole of no parameter's name. Names are such as "
      f"{', '.join(names[:: max(1, len(names) // 6)])}."
    )
  return matched


def per_block(values: Sequence[Any], leaf: Any) -> np.ndarray:
  """Returns values in a shape that broadcasts to a leaf.

  Args:
    values: a single value, or one for each block of a stack.
    leaf: of the parameters.

  Returns:
    [1, 1, ...] or [blocks, 1, ...], with as many axes as `leaf`.
  """
  shape = (len(values), *[1] * (leaf.ndim - 1))[: leaf.ndim]
  return np.asarray(values).reshape(shape)


def frozen(factors: Any) -> Any:
  """Returns a tree of bools: which arrays are entirely frozen."""
  return jax.tree.map(lambda leaf: not leaf.any(), factors)


def scale(
  optimizer: optax.GradientTransformation, factors: Any
) -> optax.GradientTransformation:
  """Returns an optimizer whose updates are multiplied by factors.

  Frozen arrays have no state (no moments) in the optimizer, and are excluded
  from quantities over all gradients, such as their norm. If only some blocks of
  a stack are frozen, these have gradients of zero.

  Args:
    optimizer: for equal learning rates of all parameters.
    factors: the result of the function `factors`.
  """
  leaves = jax.tree.leaves(factors)
  before, after = [], []
  if any(0 in leaf and leaf.any() for leaf in leaves):
    before = [_multiply(jax.tree.map(np.sign, factors))]
  if any((leaf != 1).any() for leaf in leaves if leaf.any()):
    after = [_multiply(factors)]
  mask = frozen(factors)
  if any(jax.tree.leaves(mask)):
    optimizer = optax.selective_transform(optimizer, freeze_mask=mask)
  parts = [*before, optimizer, *after]
  # A chain of one element would change the structure of the state.
  return optax.chain(*parts) if len(parts) > 1 else optimizer


def _multiply(factors: Any) -> optax.GradientTransformation:
  return optax.stateless(
    lambda updates, params: jax.tree.map(
      lambda update, factor: update * factor, updates, factors
    )
  )


def names(leaf: str) -> list[str]:
  """Returns the names of the parameters in a leaf, several for a stack."""
  match = _STACK.fullmatch(leaf)
  if match is None:
    return [leaf]
  start, first, last, end = match.groups()
  blocks = range(int(first), int(last) + 1)
  return [f"{start}{stacking.block_name(i)}{end}" for i in blocks]


def _decayed(
  names: Sequence[str], layer_decay: float, model: Any
) -> dict[str, float]:
  where = "config.optimizer.layer_decay"
  configuration.check_number(layer_decay, where, "(0, 1]")
  numbers, last = layers(names, model)
  if last == 1:
    raise ValueError(
      f"{where}={layer_decay} needs a model with blocks encoderblock_0, ...."
    )
  return {name: layer_decay ** (last - numbers[name]) for name in names}


def layers(names: Sequence[str], model: Any) -> tuple[dict[str, int], int]:
  """Returns the number of each parameter's layer, and that of the last layer.

  What comes before the blocks is layer 0, and what comes after them, or belongs
  to no encoder, is the last. TokenLearner counts to the block that it feeds.

  Args:
    names: of all parameters.
    model: of the parameters, which defines the position of TokenLearner.
  """
  blocks = {m.groups() for name in names if (m := _BLOCK.fullmatch(name))}
  depth = len(blocks)
  in_space = sum(encoder != _TEMPORAL for encoder, _ in blocks)

  def layer(name: str) -> int:
    if _EMBEDDING.fullmatch(name):
      return 0
    if match := _BLOCK.fullmatch(name):
      before = in_space if match[1] == _TEMPORAL else 0
      return before + int(match[2]) + 1
    if in_space < depth and _BETWEEN.fullmatch(name):
      return in_space + 1
    if match := _LEARNED.fullmatch(name):
      # Several exist only with a fuser, at consecutive blocks.
      return model.token_learner["layer"] + int(match[1]) + 1
    return depth + 1

  return {name: layer(name) for name in names}, depth + 1


def _scaled(names: Sequence[str], lr_scales: Any) -> dict[str, float]:
  where = "config.optimizer.lr_scales"
  if isinstance(lr_scales, Mapping):
    lr_scales = list(lr_scales.items())
  is_list = isinstance(lr_scales, list | tuple)
  if not is_list or not all(
    isinstance(pair, list | tuple) and len(pair) == 2 for pair in lr_scales
  ):
    raise ValueError(
      f"{where}={lr_scales!r} must be factors by patterns, such as "
      "{'head/.*': 10}, or pairs, such as (('head/.*', 10),)."
    )
  scales, patterns = {}, {}
  for pattern, factor in lr_scales:
    configuration.check_number(factor, f"{where}[{pattern!r}]", "[0, inf)")
    for name in matching(pattern, names, where):
      if scales.setdefault(name, factor) != factor:
        raise ValueError(
          f"{where}: {patterns[name]!r} gives {name} the factor "
          f"{scales[name]}, but {pattern!r} gives it {factor}. Let one leave "
          f"out what is the other's, as '(?!head/).*' does the head."
        )
      patterns[name] = pattern
  return scales


def _frozen(
  names: Sequence[str], patterns: str | Sequence[str]
) -> dict[str, float]:
  where = "config.optimizer.freeze"
  patterns = [patterns] if isinstance(patterns, str) else patterns
  configuration.check_list(patterns, where)
  return {
    name: 0.0
    for pattern in patterns
    for name in matching(pattern, names, where, or_beginning=True)
  }


def _beginnings(names: Sequence[str]) -> list[str]:
  """Returns the top-level names, with those inside Transformer."""
  parts = [name.split("/") for name in names]
  return list(dict.fromkeys("/".join(p[:-1][:2]) or p[0] for p in parts))
