"""What the vision transformers share: all but how images become patches.

Letters: B batch, C classes, T frames of a video, h w grid, N tokens, S learned
tokens, D width.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn

from tokenlearner_flexivit.models import blocks, encoder, patch_embed, variants
from tokenlearner_flexivit.models import posemb as posembs
from tokenlearner_flexivit.models import token_learner as tl

POOLS = ("gap", "tok", "map")
DTYPES = ("float32", "bfloat16", "float16")
Outputs = tuple[jax.Array, dict[str, Any]]


class VisionTransformer(nn.Module):
  """The base of `ViT` and `ViViT`; its attributes are described there."""

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
  remat: bool = False
  scan: bool = False

  _posembs = posembs.POSEMBS
  _decode_variant = staticmethod(variants.decode_variant)

  @classmethod
  def from_variant(cls, variant: str | None, **overrides: Any) -> Self:
    """Builds a model from a name such as "B/16" or "B".

    Args:
      variant: see `variants`; None if the arguments say all.
      **overrides: constructor arguments; they beat those of the variant.

    Raises:
      ValueError: for an unknown variant or argument, listing those known.
    """
    known = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
    unknown = sorted(set(overrides) - known)
    if unknown:
      raise ValueError(
        f"Unknown arguments for {cls.__name__}: {', '.join(unknown)}. Known:"
        f" variant, {', '.join(sorted(known))}."
      )
    defaults = cls._decode_variant(variant) if variant else {}
    return cls(**(dict(num_classes=None) | defaults | overrides))

  def __post_init__(self):
    for name in ("width", "depth", "mlp_dim", "num_heads"):
      if getattr(self, name) < 1:
        raise ValueError(
          f"{name} must be at least 1, got {getattr(self, name)}."
        )
    # Plain, hashable fields, whatever a config or a JSON file held.
    if self.token_learner is not None:
      config = tl.TokenLearnerConfig.from_dict(self.token_learner)
      self.token_learner = core.FrozenDict(dataclasses.asdict(config))
      if not 0 <= config.layer < self.depth:
        raise ValueError(
          f"token_learner.layer={config.layer} is outside the model: its depth"
          f" is {self.depth}, so layers are 0 to {self.depth - 1}."
        )
    for name, known in (("posemb", self._posembs), ("pool", POOLS)):
      if getattr(self, name) not in known:
        raise ValueError(
          f"Unknown {name} {getattr(self, name)!r}. Known: {', '.join(known)}."
        )
    for name in ("dropout", "stochastic_depth"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f"{name} must be in [0, 1), got {getattr(self, name)}."
        )
    name = getattr(self.dtype, "__name__", str(self.dtype))
    if name not in DTYPES:
      raise ValueError(f"Unknown dtype {name!r}. Known: {', '.join(DTYPES)}.")
    self.dtype = jnp.dtype(name)
    if self.width % self.num_heads:
      raise ValueError(
        f"width={self.width} is not divisible by num_heads={self.num_heads}."
      )
    if self.posemb == "sincos2d":
      posembs.check_sincos_width(self.width)
    super().__post_init__()

  @property
  def _config(self) -> tl.TokenLearnerConfig | None:
    if self.token_learner is None:
      return None
    return tl.TokenLearnerConfig.from_dict(self.token_learner)

  @property
  def scanned_runs(self) -> tuple[range, ...]:
    """Numbers of the blocks in each loop; empty without `scan`."""
    runs = encoder.block_runs(self.depth, self._config) if self.scan else ()
    return tuple(run for run in runs if len(run) > 1)

  def _check_num_tokens(self, num_tokens: int | str | jax.Array | None) -> None:
    """Raises ValueError for an impossible number of learned tokens."""
    if self.token_learner is not None:
      config = self._config
      tl.check_num_tokens(num_tokens, config.num_tokens, config.version)
    elif num_tokens is not None:
      raise ValueError(
        f"num_tokens={num_tokens} given, but the model has no token_learner."
      )

  def _seq_lens(
    self, grid: Sequence[int], num_tokens: int | str | None
  ) -> tuple[int, ...]:
    """Returns how many tokens each block sees, for (h, w) or (T, h, w)."""
    num_cls = int(self.pool == "tok")
    config = None if tl.is_all(num_tokens) else self._config
    first = config.layer if config else self.depth
    before = (math.prod(grid) + num_cls,) * first
    if not config:
      return before
    learned = math.prod(grid[:-2]) * (num_tokens or config.num_tokens)
    return before + (learned + num_cls,) * (self.depth - first)

  @nn.nowrap
  def _patch_size_of(
    self, size: Sequence[int], patch_size: patch_embed.Size | None
  ) -> patch_embed.Size | None:
    """Returns the patch size of a call on images or videos of a size."""
    if self.is_initializing() and patch_size is None:
      # Parameters depend on no patch size: the stored one need not divide the
      # image (as 32 does not 240) for them to be created.
      rests = [s % p for s, p in zip(size, self.patch_size, strict=True)]
      return size if any(rests) else self.patch_size
    return patch_size

  @nn.nowrap
  def _apply_to_stem(
    self,
    stem: jax.Array,
    num_tokens: int | str | jax.Array | None,
    train: bool,
  ) -> Outputs:
    """Goes from embedded patches to logits, as part of a compact `__call__`.

    Args:
      stem: [B, h, w, D], of a video [B, T, h, w, D].
      num_tokens: see `__call__`.
      train: see `__call__`.

    Returns:
      the results of `__call__`.
    """
    out = dict(stem=stem)
    b, *grid, d = stem.shape
    if self.posemb == "learn":
      posemb = self.param(
        "pos_embedding",
        nn.initializers.normal(self.width**-0.5),
        (1, math.prod(self.posemb_grid), d),
      )
      posemb = posembs.resize_posemb(posemb, self.posemb_grid, grid)
    else:
      posemb = posembs.sincos2d(grid, d)
    posemb = posemb.astype(self.dtype)
    x = out["with_posemb"] = stem.reshape(b, -1, d) + posemb

    num_cls = int(self.pool == "tok")
    if num_cls:
      # It has no position, so that it is the same on every grid.
      cls = self.param("cls", nn.initializers.zeros, (1, 1, d))
      cls = jnp.broadcast_to(cls.astype(self.dtype), (b, 1, d))
      x = jnp.concatenate([cls, x], axis=1)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)

    x, mask, out["encoder"] = encoder.Encoder(
      self.depth,
      self.num_heads,
      self.mlp_dim,
      token_learner=self._config,
      dropout=self.dropout,
      stochastic_depth=self.stochastic_depth,
      dtype=self.dtype,
      remat=self.remat,
      scan=self.scan,
      name="Transformer",
    )(x, grid, num_cls, num_tokens, train)
    out["encoded"] = x
    if self.token_learner is not None and not tl.is_all(num_tokens):
      first = out["encoder"][f"block{self.token_learner['layer']:02d}"]
      out["token_learner"] = first["token_learner"]

    if self.pool == "map":
      x = blocks.MAPHead(self.num_heads, self.mlp_dim, dtype=self.dtype)(
        x, mask
      )
      x = x.astype(jnp.float32)
    elif self.pool == "tok":
      x = x[:, 0].astype(jnp.float32)
    else:
      where = None if mask is None else mask[None, :, None]
      x = jnp.mean(x, axis=1, dtype=jnp.float32, where=where)

    if self.rep_size:
      size = self.width if self.rep_size is True else self.rep_size
      x = nn.tanh(nn.Dense(size, name="pre_logits")(x))
    out["pre_logits"] = x
    if self.num_classes:
      init = nn.initializers.lecun_normal()
      x = out["logits"] = nn.Dense(
        self.num_classes,
        kernel_init=nn.initializers.zeros if self.head_zeroinit else init,
        bias_init=nn.initializers.constant(self.head_bias_init),
        name="head",
      )(x)
    return x, out
