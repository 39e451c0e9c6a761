"""The dials of a model: what may be chosen per call, and how it is drawn.

One setting is drawn per training step for the whole global batch (FlexiViT,
section 3.3), each dial on its own. The draw is a function of (seed, step)
alone, so that every device and every host takes the same one, also after a
restart.
"""

import dataclasses
import itertools
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models.token_learner import ALL

# Draws are numbers of float32, of which there are 2 ** 23 in [0, 1).
_LEAST_SHARE = 1e-6
# Of a curriculum: so many that a step from one to the next means nothing.
_MAX_STAGES = 100


class Setting(NamedTuple):
  """One position of the dials; None leaves the choice to the model.

  Attributes:
    patch_size: (height, width) in pixels.
    num_tokens: learned tokens that the deeper layers see; "all" switches
      TokenLearner off; a traced scalar while a program of all numbers is built.
  """

  patch_size: tuple[int, int] | None = None
  num_tokens: Any = None

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

  @property
  def row(self) -> dict[str, Any]:
    """Names it in reports: `patch_size`, an int or [h, w], and `num_tokens`."""
    height, width = self.patch_size
    size = height if height == width else [height, width]
    return {"patch_size": size, "num_tokens": self.num_tokens}

  @classmethod
  def of_row(cls, row: Mapping[str, Any]) -> "Setting":
    """Returns the setting that a row of a report names."""
    size = as_patch_size(row["patch_size"], "patch_size")
    return cls(size, row["num_tokens"])


def as_patch_size(value: Any, where: str) -> tuple[int, int]:
  """Reads a patch size given as an int or as (height, width)."""
  pair = tuple(value) if isinstance(value, Sequence) else (value, value)
  # Integral, so that NumPy's integers are taken, too.
  are_sizes = [
    isinstance(p, numbers.Integral) and type(p) is not bool and p > 0
    for p in pair
  ]
  if are_sizes != [True, True]:
    raise ValueError(
      f"{where}: {value!r} is no patch size. Give a positive integer or a "
      "pair (height, width) of them."
    )
  return int(pair[0]), int(pair[1])


@dataclasses.dataclass(frozen=True)
class Dial:
  """The values of one dial, and how often each is drawn.

  Attributes:
    values: in the order of the config.
    stages: the probabilities of the values, summing to 1, in each stage of the
      training; one stage if they do not change.
    stage_steps: length of a stage. The last one has no end.
  """

  values: tuple[Any, ...] = (None,)
  stages: tuple[tuple[float, ...], ...] = ((1.0,),)
  stage_steps: int = 1

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


def cost_by_size(setting: Setting) -> tuple[float, ...]:
  """Orders settings by the size of the patches, then the number of tokens.

  That is from cheap to dear where fewer tokens are learned than there are
  patches.
  """
  height, width = setting.patch_size
  number = setting.num_tokens or 0
  return -height * width, np.inf if number == ALL else number


@dataclasses.dataclass(frozen=True)
class Dials:
  """What training draws from.

  A patch size needs a program of its own, and so do all tokens to the end.
  Different numbers of learned tokens share one: it computes all of them and
  masks those that are not in use.

  Attributes:
    patch_size: values are (height, width).
    num_tokens: values are ints, "all", or None alone for the model's own.
    sandwich: whether each step trains the largest and the smallest setting
      beside the one drawn (Universally Slimmable Networks, arXiv 1903.05134).
    inplace_distillation: whether all but the largest then learn from its
      answers, instead of what it learns from (ibid.).
    cost: orders settings from cheap to dear.
  """

  patch_size: Dial
  num_tokens: Dial = Dial()
  sandwich: bool = False
  inplace_distillation: bool = False
  cost: Callable[[Setting], Any] = cost_by_size

  @property
  def largest(self) -> Setting:
    """The dearest setting."""
    return max(self.settings, key=self.cost)

  @property
  def smallest(self) -> Setting:
    """The cheapest setting."""
    return min(self.settings, key=self.cost)

  @property
  def settings(self) -> tuple[Setting, ...]:
    """Every position, all numbers of tokens of one patch size in a row."""
    return tuple(
      map(
        Setting._make,
        itertools.product(self.patch_size.values, self.num_tokens.values),
      )
    )

  @property
  def shares(self) -> tuple[float, ...]:
    """The share of the steps that each setting gets."""
    return tuple(
      a * b
      for a, b in itertools.product(
        self.patch_size.shares, self.num_tokens.shares
      )
    )

  @property
  def branches(self) -> tuple[Setting, ...]:
    """What has a program of its own; a number that is a mask stays None."""
    numbers = dict.fromkeys(map(self._of_program, self.num_tokens.values))
    return tuple(
      map(Setting._make, itertools.product(self.patch_size.values, numbers))
    )

  def _of_program(self, num_tokens: Any) -> Any:
    return None if num_tokens in self._masked else num_tokens

  @property
  def _masked(self) -> tuple[int, ...]:
    """The numbers that share a program; a single one is a cheaper slice."""
    numbers = tuple(n for n in self.num_tokens.values if n not in (None, ALL))
    return numbers if len(numbers) > 1 else ()

  def draw(self, key: jax.Array, step: jax.Array) -> jax.Array:
    """Draws an index into `settings`: int32 scalar, traceable."""
    patch_size = self.patch_size.draw(key, step)
    # The key itself is the first dial's, as if there were no other.
    num_tokens = self.num_tokens.draw(jax.random.fold_in(key, 1), step)
    return patch_size * len(self.num_tokens.values) + num_tokens

  def branch_of(self, setting: Any) -> Any:
    """The index into `branches` of an index, or of several, into `settings`."""
    found = [
      self.branches.index(s._replace(num_tokens=self._of_program(s.num_tokens)))
      for s in self.settings
    ]
    return jnp.asarray(found, jnp.int32)[setting]

  def in_program(self, branch: Setting, setting: jax.Array) -> Setting:
    """The setting for the program of a branch, its number of tokens a mask.

    Args:
      branch: of `branches`.
      setting: an index into `settings` of one that belongs to the branch. An
        index of "all" keeps all learned tokens: a mask of none gives NaN.
    """
    if branch.num_tokens is not None or not self._masked:
      return branch
    most = max(self._masked)
    numbers = [n if n in self._masked else most for _, n in self.settings]
    number = jnp.asarray(numbers, jnp.int32)[setting]
    return branch._replace(num_tokens=number)


def from_config(
  section: dict[str, Any] | None,
  default: tuple[int, int],
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
    default: the model's own patch size, used where the section names none.
    total_steps: of the training.
    cost: see `Dials`.

  Returns:
    The dials, and the dispatch mode "switch" or "host".

  Raises:
    ValueError: an unknown key, no value or one twice, an impossible value,
      weights that are not a positive number for each, a sandwich of one
      setting, or distillation in place without a sandwich.
  """
  section = section or {}
  switches = ("sandwich", "inplace_distillation")
  configuration.check_keys(
    section, ("patch_size", "num_tokens", *switches, "dispatch"), "config.flexi"
  )
  sizes = section.get("patch_size")
  patch_size = _dial(
    {"values": (default,)} if sizes is None else sizes,
    as_patch_size,
    "config.flexi.patch_size",
    total_steps,
  )
  num_tokens = Dial()
  if section.get("num_tokens") is not None:
    num_tokens = _dial(
      section["num_tokens"],
      as_num_tokens,
      "config.flexi.num_tokens",
      total_steps,
    )
  dispatch = section.get("dispatch")
  dispatch = "auto" if dispatch is None else dispatch
  known = {"switch": "switch", "host": "host", "auto": default_dispatch()}
  sandwich, inplace = (section.get(name) or False for name in switches)
  for name, value in zip(switches, (sandwich, inplace), strict=True):
    if not isinstance(value, bool):
      raise ValueError(f"config.flexi.{name}={value!r} must be True or False.")
  dials = Dials(patch_size, num_tokens, sandwich, inplace, cost)
  if sandwich and len(dials.settings) < 2:
    raise ValueError(
      "config.flexi.sandwich: there is one setting only. Give several values "
      "of patch_size or num_tokens."
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
  """Reads the section of one dial; `read` makes its values."""
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


def as_num_tokens(value: Any, where: str) -> int | str:
  """Reads a number of learned tokens; None and "all" are all patches."""
  if value is None or value == ALL:
    return ALL
  is_number = isinstance(value, numbers.Integral) and type(value) is not bool
  if not is_number or value < 1:
    raise ValueError(
      f"{where}: {value!r} is no number of learned tokens. Give a positive "
      f"integer, or None or {ALL!r} for all patches to the end."
    )
  return int(value)


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
    raise ValueError(f"{where}={weights!r} are too large to be added up.")
  return np.asarray(weights, np.float64) / total


def default_dispatch() -> str:
  """The dispatch mode that suits this backend.

  On CPUs XLA copies the parameters into and out of the branch of a switch, at
  every step: 1.07x the time in `benchmarks/dispatch.py`. One program compiles
  sooner (0.47x), so the others, not measured yet, take the switch.
  """
  return "host" if jax.default_backend() == "cpu" else "switch"
