"""The arguments of the vision transformers, and what is wrong with them."""

import dataclasses
from typing import Any, Self

from flax import core

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models import (
  blocks,
  checks,
  encoder,
  protocol,
  variants,
)
from tokenlearner_flexivit.models import posemb as posembs
from tokenlearner_flexivit.models import token_learner as tl

POOLS = ("gap", "tok", "map")
NORMS = ("before_pool", "after_pool")
# Arguments without a default.
_SIZES = ("width", "depth", "mlp_dim", "num_heads")


class Hyperparameters(protocol.Model):
  """The base of `VisionTransformer`: its arguments, checked."""

  num_classes: int | None
  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  patch_size: Any = (32, 32)
  posemb_grid: Any = (7, 7)
  posemb: str = "learn"
  pool: str = "gap"
  token_learner: Any = None
  rep_size: int | bool | None = None
  head_zeroinit: bool = True
  head_bias_init: float = 0.0
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  dtype: Any = "float32"
  remat: str | bool = "none"
  scan: bool = False
  norm_eps: float = blocks.LAYER_NORM_EPS
  gelu: str = "tanh"

  # Only models for images have these as arguments.
  pre_norm = False
  registers = 0
  norm = "before_pool"

  _posembs = posembs.POSEMBS
  _pools = POOLS
  _decode_variant = staticmethod(variants.decode_variant)

  @classmethod
  def from_variant(
    cls, variant: str | None, *, name: str | None = None, **overrides: Any
  ) -> Self:
    """Builds a model from a name such as "B/16" or "B".

    Args:
      variant: a name that `variants` decodes; None if the arguments name every
        size.
      name: of the module within another one; see `flax.linen.Module`.
      **overrides: constructor arguments; they beat those of the variant.

    Raises:
      ValueError: for an unknown variant or argument, listing those known.
    """
    known = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
    configuration.check_keys(overrides, {"variant", *known}, cls.__name__)
    defaults = cls._decode_variant(variant) if variant else {}
    arguments = dict(num_classes=None) | defaults | overrides
    missing = [size for size in _SIZES if size not in arguments]
    if missing:
      raise ValueError(
        f"{cls.__name__} needs {', '.join(missing)}: give them, or a variant"
        " such as 'S'."
      )
    return cls(**arguments, name=name)

  def __post_init__(self):
    for name in _SIZES:
      checks.whole(getattr(self, name), name)
    if self.num_classes is not None:
      checks.whole(self.num_classes, "num_classes", least=0)
    if self.rep_size is not None and not isinstance(self.rep_size, bool):
      checks.whole(self.rep_size, "rep_size")
    if isinstance(self.remat, bool):
      self.remat = "blocks" if self.remat else "none"
    for name in ("head_zeroinit", "scan"):
      checks.boolean(getattr(self, name), name)
    for name in ("head_bias_init", "norm_eps"):
      checks.number(getattr(self, name), name)
    if self.norm_eps <= 0:
      raise ValueError(f"norm_eps must be above 0, got {self.norm_eps}.")
    for name in ("dropout", "stochastic_depth"):
      checks.share(getattr(self, name), name)
    checks.choice(self.posemb, "posemb", self._posembs)
    checks.choice(self.pool, "pool", self._pools)
    checks.choice(self.gelu, "gelu", tuple(blocks.GELUS))
    checks.choice(self.remat, "remat", (*encoder.REMATS, encoder.AUTO))
    # The fields become plain and hashable, from a config or a JSON file, too.
    if self.token_learner is not None:
      config = tl.TokenLearnerConfig.from_dict(self.token_learner)
      self.token_learner = core.FrozenDict(dataclasses.asdict(config))
      config.check_depth(self.depth)
    self.dtype = checks.dtype(self.dtype)
    if self.width % self.num_heads:
      raise ValueError(
        f"width={self.width} is not divisible by num_heads={self.num_heads}."
      )
    if self.posemb == "sincos2d":
      posembs.check_sincos_width(self.width)
    super().__post_init__()

  @property
  def has_cls(self) -> bool:
    """Tells whether the first token is a cls token."""
    return self.pool.startswith("tok")

  @property
  def num_prefix(self) -> int:
    """Returns how many tokens precede the patches: cls and registers."""
    return int(self.has_cls) + self.registers

  @property
  def _config(self) -> tl.TokenLearnerConfig | None:
    if self.token_learner is None:
      return None
    return tl.TokenLearnerConfig.from_dict(self.token_learner)
