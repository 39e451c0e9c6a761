"""The dials of a model: what may be chosen per call, and how it is drawn.

One setting is drawn per training step for the whole global batch (FlexiViT,
section 3.3), each dial on its own. The draw is a function of (seed, step)
alone, so that every device and every host takes the same one, also after a
restart.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int, Int32, Key

from tokenlearner_flexivit.dials.setting import KINDS, Setting, positions
from tokenlearner_flexivit.models.token_learner import ALL


@dataclasses.dataclass(frozen=True)
class Dial:
  """One dial: its values, and how often each is drawn.

  Attributes:
    values: in the order of the config.
    stages: the probabilities of the values, summing to 1, in each stage of the
      training; one stage if they do not change.
    stage_steps: number of steps of a stage. The last stage has no end.
  """

  values: tuple[Any, ...] = (None,)
  stages: tuple[tuple[float, ...], ...] = ((1.0,),)
  stage_steps: int = 1

  @property
  def shares(self) -> tuple[float, ...]:
    """Returns the share of the steps of each value, over all stages."""
    return tuple(np.mean(self.stages, axis=0).tolist())

  def draw(
    self, key: Key[Array, ""], step: Int[ArrayLike, ""]
  ) -> Int32[Array, ""]:
    """Draws an index into `values`; traceable.

    The cumulative probabilities are constants from NumPy, so the host and
    every backend agree on the index to the last bit.
    """
    cumulative = np.cumsum(self.stages, axis=1)[:, :-1].astype(np.float32)
    stage = jnp.minimum(step // self.stage_steps, len(self.stages) - 1)
    draws = jax.random.uniform(key)[None] >= jnp.asarray(cumulative)[stage]
    return jnp.sum(draws, dtype=jnp.int32)


def cost_by_size(setting: Setting) -> tuple[float, ...]:
  """Returns a key that orders settings by patch size, then number of tokens.

  This order is from cheap to dear if fewer tokens are learned than there are
  patches.
  """
  height, width = setting.patch_size or (0, 0)
  number = setting.num_tokens or 0
  return -height * width, np.inf if number == ALL else number


@dataclasses.dataclass(frozen=True)
class Dials:
  """The dials that training draws settings from.

  Each patch size needs its own program, and so does `num_tokens="all"`.
  Different numbers of learned tokens share a program, which computes all tokens
  and masks the unused ones.

  Attributes:
    dials: dials by name; the model chooses for the `KINDS` that are missing.
    sandwich: whether each step trains the largest and the smallest setting
      beside the one drawn (Universally Slimmable Networks, arXiv 1903.05134).
    inplace_distillation: whether all settings but the largest then learn from
      its answers instead of from its targets (same paper).
    cost: orders settings from cheap to dear.
  """

  dials: Mapping[str, Dial]
  sandwich: bool = False
  inplace_distillation: bool = False
  cost: Callable[[Setting], Any] = cost_by_size

  def __getitem__(self, name: str) -> Dial:
    """Returns the dial of a name; one with the value None if it is missing."""
    return self.dials.get(name, Dial())

  @property
  def largest(self) -> Setting:
    """Returns the dearest setting."""
    return max(self.settings, key=self.cost)

  @property
  def smallest(self) -> Setting:
    """Returns the cheapest setting."""
    return min(self.settings, key=self.cost)

  @property
  def settings(self) -> tuple[Setting, ...]:
    """Returns every setting, all numbers of tokens of a patch size in a row."""
    return positions({name: self[name].values for name in KINDS})

  @property
  def shares(self) -> tuple[float, ...]:
    """Returns the share of the steps that each setting gets."""
    shares = itertools.product(*(self[name].shares for name in KINDS))
    return tuple(map(math.prod, shares))

  @property
  def branches(self) -> tuple[Setting, ...]:
    """Returns the settings with their own program, without masked numbers."""
    return positions(
      {
        name: dict.fromkeys(
          self._in_branch(name, value) for value in self[name].values
        )
        for name in KINDS
      }
    )

  def _in_branch(self, name: str, value: Any) -> Any:
    return None if value in self._masked(name) else value

  def _masked(self, name: str) -> tuple[int, ...]:
    """Returns the numbers that share a program by a mask.

    A single number shares none: it is a slice, which is cheaper.
    """
    if not KINDS[name].is_mask:
      return ()
    numbers = tuple(v for v in self[name].values if v not in (None, ALL))
    return numbers if len(numbers) > 1 else ()

  def draw(
    self, key: Key[Array, ""], step: Int[ArrayLike, ""]
  ) -> Int32[Array, ""]:
    """Draws an index into `settings`; traceable."""
    index = jnp.int32(0)
    for number, name in enumerate(KINDS):
      # The first dial uses the key itself, as if it were the only one.
      own = jax.random.fold_in(key, number) if number else key
      index = index * len(self[name].values) + self[name].draw(own, step)
    return index

  def branch_index(
    self, setting: Int[ArrayLike, "*shape"]
  ) -> Int32[Array, "*shape"]:
    """Returns indices into `branches` for indices into `settings`."""
    branches = self.branches
    numbers = [
      branches.index(
        Setting(**{name: self._in_branch(name, s[name]) for name in s})
      )
      for s in self.settings
    ]
    return jnp.asarray(numbers, jnp.int32)[setting]

  def in_program(self, branch: Setting, setting: Int[ArrayLike, ""]) -> Setting:
    """Returns the setting for the program of a branch, with numbers as masks.

    Args:
      branch: one of `branches`.
      setting: an index into `settings`, of a setting of this branch. The index
        of an "all" keeps all learned tokens: a mask of no token gives NaN.
    """
    for name in KINDS:
      masked = self._masked(name)
      if masked and name not in branch:
        numbers = [
          s[name] if s.get(name) in masked else max(masked)
          for s in self.settings
        ]
        number = jnp.asarray(numbers, jnp.int32)[setting]
        branch = branch.replace(**{name: number})
    return branch
