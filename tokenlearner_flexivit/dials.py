"""The dials of a model: what may be chosen per call, and how it is drawn.

One setting is drawn per training step for the whole global batch (FlexiViT,
section 3.3). The draw is a function of (seed, step) alone, so that every
device and every host takes the same one, also after a restart.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import config as configuration

# Of a curriculum: so many that a step from one to the next means nothing.
_MAX_STAGES = 100


class Setting(NamedTuple):
  """One position of the dials; None leaves the choice to the model.

  Attributes:
    patch_size: (height, width) in pixels.
    num_tokens: learned tokens that the deeper layers see.
  """

  patch_size: tuple[int, int] | None = None
  num_tokens: int | None = None

  @property
  def name(self) -> str:
    """Names the setting in metrics: "patch16", "patch16x8", "patch16_tok8"."""
    parts = []
    if self.patch_size is not None:
      height, width = self.patch_size
      parts.append(f"patch{height}" + (f"x{width}" if width != height else ""))
    if self.num_tokens is not None:
      parts.append(f"tok{self.num_tokens}")
    return "_".join(parts) or "default"


def as_patch_size(value: Any, where: str) -> tuple[int, int]:
  """Reads a patch size given as an int or as (height, width)."""
  pair = (value, value) if isinstance(value, int) else tuple(value)
  if len(pair) != 2 or not all(isinstance(p, int) and p > 0 for p in pair):
    raise ValueError(
      f"{where}: {value!r} is no patch size. Give a positive integer or a "
      "pair (height, width) of them."
    )
  return pair


@dataclasses.dataclass(frozen=True)
class PatchSizes:
  """The patch sizes that training draws from.

  Attributes:
    values: the (height, width) pairs, in the order of the config.
    stages: the probabilities of the values, summing to 1, in each stage of the
      training; one stage if they do not change.
    stage_steps: length of a stage. The last one has no end.
  """

  values: tuple[tuple[int, int], ...]
  stages: tuple[tuple[float, ...], ...]
  stage_steps: int = 1

  @property
  def settings(self) -> tuple[Setting, ...]:
    """The values as settings of the model."""
    return tuple(Setting(patch_size=value) for value in self.values)

  @property
  def shares(self) -> tuple[float, ...]:
    """The share of the steps that each value gets, if all stages are done."""
    return tuple(np.mean(self.stages, axis=0).tolist())

  def draw(self, key: jax.Array, step: jax.Array) -> jax.Array:
    """Draws an index into `values`: int32 scalar, traceable.

    The cumulative probabilities are constants from NumPy, so the host and
    every backend agree on the index to the last bit.
    """
    cumulative = np.cumsum(self.stages, axis=1)[:, :-1].astype(np.float32)
    stage = jnp.minimum(step // self.stage_steps, len(self.stages) - 1)
    draws = jax.random.uniform(key)[None] >= jnp.asarray(cumulative)[stage]
    return jnp.sum(draws, dtype=jnp.int32)


def from_config(
  section: dict[str, Any] | None,
  default: tuple[int, int],
  total_steps: int = 1,
) -> tuple[PatchSizes, str]:
  """Reads `config.flexi`.

  Args:
    section: `dict(patch_size=dict(values=, weights=None, end_weights=None),
      dispatch="auto")`, or None for a model of one patch size. The weights of
      the draw become, linearly over the training, `end_weights`: a curriculum,
      such as from large patches to small ones.
    default: the model's own patch size, used where the section names none.
    total_steps: of the training.

  Returns:
    The patch sizes, and the dispatch mode "switch" or "host".
  """
  section = section or {}
  configuration.check_keys(section, ("patch_size", "dispatch"), "config.flexi")
  patch_size = section.get("patch_size") or {"values": (default,)}
  where = "config.flexi.patch_size"
  configuration.check_keys(
    patch_size, ("values", "weights", "end_weights"), where
  )
  values = tuple(as_patch_size(v, where) for v in patch_size["values"])
  if not values:
    raise ValueError(f"{where}.values is empty; give at least one size.")
  if len(set(values)) != len(values):
    raise ValueError(f"{where}.values={values} names a size twice.")
  start, end = (
    _probabilities(patch_size.get(key), values, f"{where}.{key}")
    for key in ("weights", "end_weights")
  )
  stages, stage_steps = [start], 1
  if patch_size.get("end_weights") is not None:
    stage_steps = -(-total_steps // _MAX_STAGES)
    shares = np.linspace(0, 1, -(-total_steps // stage_steps))
    stages = [(1 - share) * start + share * end for share in shares]
  dispatch = section.get("dispatch", "auto")
  known = {"switch": "switch", "host": "host", "auto": default_dispatch()}
  return (
    PatchSizes(
      values, tuple(tuple(stage.tolist()) for stage in stages), stage_steps
    ),
    configuration.choose(dispatch, known, "config.flexi.dispatch"),
  )


def _probabilities(
  weights: Sequence[float] | None, values: Sequence[Any], where: str
) -> np.ndarray:
  weights = np.ones(len(values)) if weights is None else np.asarray(weights)
  if len(weights) != len(values) or not (weights > 0).all():
    raise ValueError(
      f"{where}={weights.tolist()} must be {len(values)} positive numbers, one "
      "for each value."
    )
  return weights / weights.sum()


def default_dispatch() -> str:
  """The dispatch mode that suits this backend.

  On CPUs XLA copies the parameters into and out of the branch of a switch, at
  every step: 1.07x the time in `benchmarks/dispatch.py`. One program compiles
  sooner (0.47x), so the others, not measured yet, take the switch.
  """
  return "host" if jax.default_backend() == "cpu" else "switch"
