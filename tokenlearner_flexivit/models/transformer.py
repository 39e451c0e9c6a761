"""The base of the vision transformers: all but how images become patches.

Letters: B batch, C classes, T frames of a video, h w grid, N tokens, S learned
tokens, D width.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Bool, Float, Float32, PyTree

from tokenlearner_flexivit.models import (
  blocks,
  encoder,
  hyperparameters,
  tiling,
)
from tokenlearner_flexivit.models import posemb as posembs
from tokenlearner_flexivit.models import token_learner as tl

# Answers are logits [B, C], of a dense task [B, ..., C], or a dict of arrays.
Outputs = tuple[PyTree[Float32[Array, "B ..."]], dict[str, Any]]


class VisionTransformer(hyperparameters.Hyperparameters):
  """The base of `ViT` and `ViViT`, which describe its attributes."""

  @property
  def own_patch_size(self) -> tuple[int, int]:
    """Returns (height, width) in pixels of the stored kernel."""
    # Tubelets have a number of frames in front.
    return self.patch_size[-2:]

  def seq_len(self, size: Sequence[int], **setting: Any) -> int:
    """Returns the number of tokens before TokenLearner, cls and all."""
    return math.prod(self.check(size, **setting)) + self.num_prefix

  def cost(self, shape: Sequence[int], **setting: Any) -> int:
    """Returns the multiply-adds of a forward pass; see `cost.macs`."""
    from tokenlearner_flexivit.models import cost  # It needs all models.

    return cost.macs(self, shape, **setting)

  @property
  def scanned_runs(self) -> tuple[range, ...]:
    """Returns the numbers of the blocks in each loop; () without `scan`."""
    runs = encoder.block_runs(self.depth, self._config) if self.scan else ()
    return tuple(run for run in runs if len(run) > 1)

  def _check_num_tokens(self, num_tokens: tl.NumTokens) -> None:
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
    prefix, config = self.num_prefix, self._config
    return encoder.seq_lens(grid, prefix, num_tokens, self.depth, config)

  @nn.nowrap
  def _patch_size_for(
    self, size: Sequence[int], patch_size: tiling.Size | None
  ) -> tiling.Size | None:
    """Returns the patch size for a call on images or videos of a size."""
    if self.is_initializing() and patch_size is None:
      # Parameters depend on no patch size, so that creating them needs no
      # stored patch size that divides the image (32 does not divide 240).
      rests = [s % p for s, p in zip(size, self.patch_size, strict=True)]
      return size if any(rests) else self.patch_size
    return patch_size

  @nn.nowrap
  def _apply_to_stem(
    self,
    stem: Float[Array, "B *grid D"],
    num_tokens: tl.NumTokens,
    train: bool,
  ) -> Outputs:
    """Returns the result of a compact `__call__` from embedded patches."""
    out = dict(stem=stem)
    b, *grid, d = stem.shape
    x = stem.reshape(b, -1, d)
    x = out["with_posemb"] = x + self._position(grid, self.posemb_grid)
    x, mask, out["encoder"] = self._encode(x, grid, num_tokens, train)
    out["encoded"] = x
    if self._keeps_grid(num_tokens):
      patches = x[:, self.num_prefix :]
      out["tokens_2d"] = patches.reshape(b, *grid, d)
    self._add_token_learner(out, num_tokens)
    return self._head(x, mask, out, num_tokens, train)

  # The methods below are steps of a compact `__call__`, in the order of use.

  @nn.nowrap
  def _position(
    self,
    grid: Sequence[int],
    stored_grid: Sequence[int],
    name: str = "pos_embedding",
  ) -> Float[ArrayLike, "1 N {self.width}"]:
    """Returns the position embedding of the N cells of a grid."""
    if self.posemb == "learn":
      posemb = self.param(
        name,
        nn.initializers.normal(self.width**-0.5),
        (1, math.prod(stored_grid), self.width),
      )
    else:
      posemb = posembs.sincos2d(stored_grid, self.width)
    posemb = posembs.resize_posemb(posemb, stored_grid, grid)
    return posemb.astype(self.dtype)

  @nn.nowrap
  def _encode(
    self,
    x: Float[Array, "B N D"],
    grid: Sequence[int],
    num_tokens: tl.NumTokens,
    train: bool,
    *,
    cls_name: str = "cls",
    **overrides: Any,
  ) -> tuple[
    Float[Array, "B encoded D"], Bool[Array, " encoded"] | None, dict[str, Any]
  ]:
    """Encodes tokens, with a cls token and registers in front of them.

    Returns the results of an `Encoder`, whose attributes `overrides` replace.
    """
    # These tokens have no position, so that they are the same on every grid.
    prefix = []
    if self.has_cls:
      prefix.append((cls_name, nn.initializers.zeros, 1))
    if self.registers:
      init = nn.initializers.normal(0.02)
      prefix.append(("registers", init, self.registers))
    for name, init, count in reversed(prefix):
      tokens = self.param(name, init, (1, count, self.width))
      tokens = tokens.astype(self.dtype)
      tokens = jnp.broadcast_to(tokens, (x.shape[0], count, self.width))
      x = jnp.concatenate([tokens, x], axis=1)
    if self.pre_norm:
      x = blocks.layer_norm(self.dtype, "pre_norm", self.norm_eps)(x)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    attributes = dict(
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      token_learner=self._config,
      dropout=self.dropout,
      stochastic_depth=self.stochastic_depth,
      dtype=self.dtype,
      remat=self.remat,
      scan=self.scan,
      norm_eps=self.norm_eps,
      gelu=self.gelu,
      final_norm=self.norm == "before_pool",
      name="Transformer",
    )
    return encoder.Encoder(**(attributes | overrides))(
      x, grid, self.num_prefix, num_tokens, train
    )

  @nn.nowrap
  def _keeps_grid(self, num_tokens: tl.NumTokens) -> bool:
    """Tells whether the encoded tokens are those of the patches."""
    if self.token_learner is None or tl.is_all(num_tokens):
      return True
    return self.token_learner["fuser"]

  @nn.nowrap
  def _add_token_learner(
    self, out: dict[str, Any], num_tokens: tl.NumTokens
  ) -> None:
    """Adds the first TokenLearner's outputs to `out`, unless it is off."""
    if self.token_learner is not None and not tl.is_all(num_tokens):
      first = out["encoder"][f"block{self.token_learner['layer']:02d}"]
      out["token_learner"] = first["token_learner"]

  @nn.nowrap
  def _head(
    self,
    x: Float[Array, "B encoded D"],
    mask: Bool[Array, " encoded"] | None,
    out: dict[str, Any],
    num_tokens: tl.NumTokens,
    train: bool,
  ) -> Outputs:
    """Returns the result of `__call__` from the encoded tokens.

    Networks with another head override it.

    Args:
      x: the tokens, with cls and registers in front if there are any.
      mask: False for tokens that are not in use; None if all are.
      out: the intermediates so far, to which it adds its own.
      num_tokens: as in the call.
      train: as in the call.
    """
    del num_tokens, train
    pooled = self._pooled(x, mask)
    if self.pool == "tok_dist" and self.num_classes:
      out["pre_logits"] = pooled
      pairs = zip(("head", "head_dist"), (x[:, 0], x[:, 1]), strict=True)
      logits = [self._logits(y.astype(jnp.float32), name) for name, y in pairs]
      out["logits"] = (logits[0] + logits[1]) / 2
      return out["logits"], out
    return self._classify(pooled, out)

  @nn.nowrap
  def _pooled(
    self, x: Float[Array, "B N D"], mask: Bool[Array, " N"] | None = None
  ) -> Float32[Array, "B pooled"]:
    """Pools encoded tokens; cls and registers stand in front of the patches."""
    if self.pool == "tok":
      x = x[:, 0].astype(jnp.float32)
    elif self.pool == "tok_dist":
      x = jnp.mean(x[:, :2], axis=1, dtype=jnp.float32)
    else:
      patches = x[:, self.num_prefix :]
      mask = None if mask is None else mask[self.num_prefix :]
      pooled = self._pooled_patches(patches, mask)
      if self.pool == "tok_gap":
        cls = x[:, 0].astype(jnp.float32)
        pooled = jnp.concatenate([cls, pooled], axis=1)
      x = pooled
    if self.norm == "after_pool":
      x = blocks.layer_norm(jnp.float32, "fc_norm", self.norm_eps)(x)
    return x

  @nn.nowrap
  def _pooled_patches(
    self, x: Float[Array, "B N D"], mask: Bool[Array, " N"] | None
  ) -> Float32[Array, "B D"]:
    """Pools encoded patches or learned tokens."""
    if self.pool == "map":
      x = blocks.MAPHead(
        self.num_heads,
        self.mlp_dim,
        dtype=self.dtype,
        norm_eps=self.norm_eps,
        gelu=self.gelu,
      )(x, mask)
      return x.astype(jnp.float32)
    where = None if mask is None else mask[None, :, None]
    return jnp.mean(x, axis=1, dtype=jnp.float32, where=where)

  @nn.nowrap
  def _classify(
    self, x: Float32[Array, "B pooled"], out: dict[str, Any]
  ) -> Outputs:
    """Returns the result of `__call__` from the pooled tokens."""
    if self.rep_size:
      size = self.width if self.rep_size is True else self.rep_size
      x = nn.tanh(nn.Dense(size, name="pre_logits")(x))
    out["pre_logits"] = x
    if self.num_classes:
      x = out["logits"] = self._logits(x, "head")
    return x, out

  @nn.nowrap
  def _logits(
    self, x: Float32[Array, "B pooled"], name: str
  ) -> Float32[Array, "B C"]:
    init = nn.initializers.lecun_normal()
    return nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.zeros if self.head_zeroinit else init,
      bias_init=nn.initializers.constant(self.head_bias_init),
      name=name,
    )(x)
