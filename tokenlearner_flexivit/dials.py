"""The dials of a model: what may be chosen per call, and how it is drawn.

One setting is drawn per training step for the whole global batch (FlexiViT,
section 3.3). The draw is a function of (seed, step) alone, so that every
device and every host takes the same one, also after a restart.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import config as configuration


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
    probabilities: one for each, summing to 1.
  """

  values: tuple[tuple[int, int], ...]
  probabilities: tuple[float, ...]

  @property
  def settings(self) -> tuple[Setting, ...]:
    """The values as settings of the model."""
    return tuple(Setting(patch_size=value) for value in self.values)

  def draw(self, key: jax.Array) -> jax.Array:
    """Draws an index into `values`: int32 scalar, traceable.

    The cumulative probabilities are constants from NumPy, so the host and
    every backend agree on the index to the last bit.
    """
    cumulative = np.cumsum(self.probabilities)[:-1].astype(np.float32)
    draws = jax.random.uniform(key)[None] >= jnp.asarray(cumulative)
    return jnp.sum(draws, dtype=jnp.int32)


def from_config(
  section: dict[str, Any] | None, default: tuple[int, int]
) -> tuple[PatchSizes, str]:
  """Reads `config.flexi`.

  Args:
    section: `dict(patch_size=dict(values=, weights=None), dispatch="auto")`,
      or None for a model of one patch size.
    default: the model's own patch size, used where the section names none.

  Returns:
    The patch sizes, and the dispatch mode "switch" or "host".
  """
  section = section or {}
  configuration.check_keys(section, ("patch_size", "dispatch"), "config.flexi")
  patch_size = section.get("patch_size") or {"values": (default,)}
  where = "config.flexi.patch_size"
  configuration.check_keys(patch_size, ("values", "weights"), where)
  values = tuple(as_patch_size(v, where) for v in patch_size["values"])
  if not values:
    raise ValueError(f"{where}.values is empty; give at least one size.")
  if len(set(values)) != len(values):
    raise ValueError(f"{where}.values={values} names a size twice.")
  weights = patch_size.get("weights")
  weights = np.ones(len(values)) if weights is None else np.asarray(weights)
  if len(weights) != len(values) or not (weights > 0).all():
    raise ValueError(
      f"{where}.weights={weights.tolist()} must be {len(values)} positive "
      "numbers, one for each value."
    )
  probabilities = weights / weights.sum()
  dispatch = section.get("dispatch", "auto")
  known = {"switch": "switch", "host": "host", "auto": default_dispatch()}
  return (
    PatchSizes(values, tuple(probabilities.tolist())),
    configuration.choose(dispatch, known, "config.flexi.dispatch"),
  )


def default_dispatch() -> str:
  """The dispatch mode that suits this backend.

  On CPUs XLA copies the parameters into and out of the branch of a switch, at
  every step: 1.07x the time in `benchmarks/dispatch.py`. One program compiles
  sooner (0.47x), so the others, not measured yet, take the switch.
  """
  return "host" if jax.default_backend() == "cpu" else "switch"
