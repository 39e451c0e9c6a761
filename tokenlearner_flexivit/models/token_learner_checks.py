"""Checks of TokenLearner at the settings of a run, for `protocol.Model`."""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.models.token_learner import ALL


def check_tokens_become_fewer(
  model: Any, shape: Sequence[int], grids: Iterable[tuple[int, ...]]
) -> None:
  """Raises for a TokenLearner that never gets more tokens than it learns.

  Args:
    model: a `protocol.Model`.
    shape: [H, W, C] or [T, H, W, C] of an input.
    grids: of patches, at the settings of the run.
  """
  if model.token_learner is None:
    return
  most = max(math.prod(grid[-2:]) for grid in grids)  # The tokens of a frame.
  num_tokens = model.token_learner["num_tokens"]
  if num_tokens > most:
    height, width, _ = shape[-3:]
    seen = {"image": "images", "video": "frames"}[model.input]
    raise ValueError(
      f"config.model.token_learner.num_tokens={num_tokens}, but {seen} of "
      f"{height}x{width} pixels give at most "
      f"{terminal.counted(most, 'token')}. Learn fewer, or use a smaller patch "
      f"size or larger {seen}."
    )


def warn_of_sum_pooling(model: Any, settings: Sequence[Any]) -> None:
  """Warns of the published TokenLearner v1.0 with several patch sizes."""
  config = model.token_learner or {"version": None}
  sums = config["version"] == "1.0" and config["pooling"] == "sum"
  if sums and len({setting.get("patch_size") for setting in settings}) > 1:
    warnings.warn(
      "TokenLearner v1.0 with sum pooling gives tokens that grow with the "
      "number of patches, so every patch size gives another scale. Under "
      "several patch sizes use pooling='mean' or version='1.1'.",
      stacklevel=4,
    )


def dearer_settings(
  model: Any, shape: Sequence[int], settings: Sequence[Any]
) -> str | None:
  """Returns in words the settings whose TokenLearner does not pay.

  Args:
    model: a `protocol.Model`.
    shape: [H, W, C] or [T, H, W, C] of an input.
    settings: `dials.Setting`s of the run.
  """
  if model.token_learner is None:
    return None
  parts = []
  for setting in settings:
    without = setting.replace(num_tokens=ALL)
    costs = [model.cost(shape, **each) for each in (setting, without)]
    if setting != without and costs[0] >= costs[1]:
      num_patches = math.prod(model.check(shape[:-1], **setting)[-2:])
      number = setting.num_tokens or model.token_learner["num_tokens"]
      dear, cheap = (terminal.number(cost / 1e6) for cost in costs)
      parts.append(
        f"{setting.name}: from {terminal.counted(num_patches, 'patch')} to "
        f"{terminal.counted(number, 'token')}, {dear} M multiply-adds instead "
        f"of {cheap} M"
      )
  if not parts:
    return None
  return (
    "TokenLearner makes these settings dearer rather than cheaper: "
    f"{'; '.join(parts)}. At large patches learn fewer tokens, or none."
  )
