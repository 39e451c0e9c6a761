"""Counts the operations of a training step, in matrix products."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import numpy as np

from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.models import layer_costs
from tokenlearner_flexivit.train import layer_rates

# Of a second tower, whose operations the task counts.
_TEXT = "txt/"


def trained(frozen: Any) -> dict[str, bool]:
  """Returns which parameters are trained, by name.

  Args:
    frozen: as `step.make_train_step` takes it.
  """
  flat = flax.traverse_util.flatten_dict(frozen, sep="/")
  return {
    name: not stays
    for leaf, values in flat.items()
    for name, stays in zip(
      layer_rates.names(leaf), np.ravel(values).tolist(), strict=True
    )
  }


def input_macs(
  total: int,
  model: Any,
  image_shape: Sequence[int],
  setting: dials.Setting,
  is_trained: Mapping[str, bool],
) -> int:
  """Returns the multiply-adds of a step for an image, forward and backward.

  For each product of the forward pass the backward pass has two: one for the
  weights, if they are trained, and one for what they multiply, if anything
  before them is trained. Both are counted block by block.

  Args:
    total: of the forward pass.
    model: that is trained.
    image_shape: (H, W, C), or (T, H, W, C).
    setting: of the dials.
    is_trained: of the parameters, by name.
  """
  own = {k: v for k, v in is_trained.items() if not k.startswith(_TEXT)}
  if all(own.values()):
    return 3 * total
  if not any(own.values()):
    return total
  numbers, last = layer_rates.layers(list(own), model)
  first = min(numbers[name] for name, trains in own.items() if trains)
  blocks = _blocks(model, image_shape, setting)
  if last != len(blocks) + 1:
    return 3 * total  # The model is not made of such blocks.
  train_blocks = {numbers[name] for name, trains in own.items() if trains}
  rest = total - sum(blocks)
  if first:  # The product of the patches with their kernel.
    rest -= math.prod(image_shape) * model.width
  backward = 2 * rest
  for number, macs in enumerate(blocks, start=1):
    backward += macs * ((number >= first) + (number in train_blocks))
  return total + backward


def text_macs(macs: int, is_trained: Mapping[str, bool]) -> int:
  """Returns the multiply-adds of a step for a text, forward and backward.

  Args:
    macs: of the forward pass.
    is_trained: of the parameters, by name.
  """
  trains = any(v for k, v in is_trained.items() if k.startswith(_TEXT))
  return macs * (3 if trains else 1)


def _blocks(
  model: Any, image_shape: Sequence[int], setting: dials.Setting
) -> list[int]:
  """Returns the multiply-adds of each block; [] for blocks of other kinds."""
  if not isinstance(model, models.ViT | models.ViViT) or isinstance(
    model, models.BottleneckViViT
  ):
    return []
  size = image_shape[:-1]
  lengths = model.seq_lens(size, **setting)
  macs = [
    layer_costs.block(n, model.width, model.mlp_dim, model.num_heads).macs
    for n in lengths
  ]
  if isinstance(model, models.ViViTFactorised):
    frames, *_ = model.check(size, **setting)
    in_space = range(model.depth)
    macs = [m * frames if i in in_space else m for i, m in enumerate(macs)]
  return macs
