"""The stack of transformer blocks, with learned tokens from some depth on.

Letters: B batch, T frames of a video, N tokens (of one frame), S learned
tokens (of one frame), D width.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from tokenlearner_flexivit.models import blocks, stacking, token_fuser
from tokenlearner_flexivit.models import token_learner as tl

# Leaves the choice to the training, by the memory that its steps need; a model
# by itself keeps everything.
AUTO = "auto"
# What the backward pass takes from the forward pass instead of computing it
# again, as a policy of `jax.checkpoint`: everything; the matrix products and
# what attention returns; the tokens between blocks.
REMATS = {
  "none": jax.checkpoint_policies.everything_saveable,
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.checkpoint_dots,
    jax.checkpoint_policies.save_only_these_names(blocks.ATTENDED),
  ),
  "blocks": jax.checkpoint_policies.nothing_saveable,
}


class Encoder(nn.Module):
  """Transformer blocks and a final LayerNorm.

  Without a fuser, TokenLearner runs once, before block `layer`, and all later
  blocks see S tokens. With a fuser, every block from `layer` on becomes
  TokenLearner, block, TokenFuser and a residual, and N tokens come out
  (TokenLearner, Sections 2 and 3). In a video TokenLearner and TokenFuser work
  on each frame alone, and blocks on the tokens of all frames together.

  Repeated modules are numbered in the order of their use, as in Scenic:
  `TokenLearner_0`, ... and `TokenFuser_0`, .... Scenic calls the former
  `TokenLearnerModule_0` (v1.0) and `TokenLearnerModuleV11_0`.

  Attributes:
    depth: number of blocks.
    num_heads: attention heads.
    mlp_dim: hidden features of the MLPs.
    token_learner: None or a `TokenLearnerConfig`.
    dropout: rate, in blocks, TokenLearner and TokenFuser.
    stochastic_depth: probability of skipping a branch of the last block; it
      grows linearly from zero in the first.
    dtype: of the computation.
    remat: what the backward pass recomputes, see `REMATS`; or `AUTO`.
    scan: whether blocks in a row are one `lax.scan`, which compiles once for
      all of them. Parameters are the same, stacked or not (see `stacking`), and
      so are results without dropout and stochastic depth, whose draws differ
      but have the same distribution.
    block_cls: the class of the blocks, with the attributes and the call of
      `Encoder1DBlock`.
    learner_cls: the class that learns tokens, with the attributes and the call
      of `TokenLearner`.
    norm_eps: added to the variance in LayerNorm of the blocks and after them.
    gelu: a key of `blocks.GELUS`, of the blocks.
    final_norm: whether a LayerNorm stands after the blocks.
  """

  depth: int
  num_heads: int
  mlp_dim: int
  token_learner: tl.TokenLearnerConfig | None = None
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  dtype: jnp.dtype = jnp.float32
  remat: str = "none"
  scan: bool = False
  block_cls: type[nn.Module] = blocks.Encoder1DBlock
  learner_cls: type[nn.Module] = tl.TokenLearner
  norm_eps: float = blocks.LAYER_NORM_EPS
  gelu: str = "tanh"
  final_norm: bool = True

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B tokens D"],
    grid: Sequence[int],
    num_cls: int = 0,
    num_tokens: tl.NumTokens = None,
    train: bool = False,
  ) -> tuple[
    Float[Array, "B encoded D"], Bool[Array, " encoded"] | None, dict[str, Any]
  ]:
    """Encodes tokens.

    Args:
      x: num_cls + N tokens; num_cls + T * N for a video.
      grid: (h, w) with h * w = N; (T, h, w) for a video.
      num_cls: how many leading tokens bypass TokenLearner.
      num_tokens: how many learned tokens to use, see `TokenLearner`; "all"
        leaves out TokenLearner and TokenFuser.
      train: whether dropout and stochastic depth are active.

    Returns:
      num_cls + N or S tokens; a mask, False for unused tokens, or None if all
      are used; a dict `block00`, ... of the intermediates of each block.
      For a video, N and S are multiplied by T, and TokenLearner's outputs have
      an axis T after B.
    """
    config = self.token_learner
    (b, _, d), frames = x.shape, tuple(grid[:-2])
    num_frames = math.prod(frames)
    mask = None
    out = {}
    for run in block_runs(self.depth, config):
      if config is None or run[0] < config.layer or tl.is_all(num_tokens):
        x, run_out = self._blocks(run, x, mask, train)
        out |= run_out
        continue

      cls, patches = x[:, :num_cls], x[:, num_cls:]
      patches = patches.reshape(b * num_frames, -1, d)
      tokens, maps = self.learner_cls(
        config.num_tokens,
        version=config.version,
        pooling=config.pooling,
        bottleneck_dim=config.bottleneck_dim,
        dropout_rate=self.dropout,
        dtype=self.dtype,
        name=f"TokenLearner_{run[0] - config.layer}",
      )(patches, grid[-2:], num_tokens, train)
      mask = tl.token_mask(num_tokens, config.num_tokens)
      if mask is not None:
        mask = jnp.concatenate([jnp.ones(num_cls, bool), *[mask] * num_frames])
      learned = tokens.reshape(b, -1, d)
      x, run_out = self._blocks(
        run, jnp.concatenate([cls, learned], axis=1), mask, train
      )
      if config.fuser:
        # The cls token attends, and is attended to, together with the learned
        # tokens; the block's own residual updates it, so it needs no fuser.
        fused = token_fuser.TokenFuser(
          config.num_tokens,
          bottleneck_dim=config.bottleneck_dim,
          dropout_rate=self.dropout,
          dtype=self.dtype,
          name=f"TokenFuser_{run[0] - config.layer}",
        )(x[:, num_cls:].reshape(tokens.shape), patches, num_tokens, train)
        patches = (patches + fused).reshape(b, -1, d)
        x = jnp.concatenate([x[:, :num_cls], patches], axis=1)
        mask = None
      run_out[_out_name(run[0])]["token_learner"] = {
        name: value.reshape(b, *frames, *value.shape[1:])
        for name, value in (("maps", maps), ("tokens", tokens))
      }
      out |= run_out
    if self.final_norm:
      x = blocks.layer_norm(self.dtype, "encoder_norm", self.norm_eps)(x)
    return x, mask, out

  @nn.nowrap
  def _blocks(
    self,
    run: range,
    x: Float[Array, "B N D"],
    mask: Bool[Array, " N"] | None,
    train: bool,
  ) -> tuple[Float[Array, "B N D"], dict[str, Any]]:
    """Runs blocks in a row, as part of a compact `__call__`."""
    # Parameters are created block by block, under the names of the blocks.
    if self.scan and len(run) > 1 and not self.is_initializing():
      return self._scan(run, x, mask, train)
    out = {}
    for i in run:
      x, out[_out_name(i)] = self._block(i)(x, mask, train)
    return x, out

  @nn.nowrap
  def _block(self, index: int) -> nn.Module:
    """Returns a block, as part of a compact `__call__`."""
    block_cls = self.block_cls
    if self.remat not in ("none", AUTO):
      block_cls = nn.remat(
        block_cls, static_argnums=(3,), policy=REMATS[self.remat]
      )
    return block_cls(
      self.num_heads,
      self.mlp_dim,
      dropout=self.dropout,
      drop_path=self._drop_path(index),
      dtype=self.dtype,
      norm_eps=self.norm_eps,
      gelu=self.gelu,
      name=stacking.block_name(index),
    )

  @nn.nowrap
  def _drop_path(self, index: int) -> float:
    return self.stochastic_depth * index / max(1, self.depth - 1)

  @nn.nowrap
  def _scan(
    self,
    run: range,
    x: Float[Array, "B N D"],
    mask: Bool[Array, " N"] | None,
    train: bool,
  ) -> tuple[Float[Array, "B N D"], dict[str, Any]]:
    """Runs blocks as a loop over their stacked parameters."""
    params = stacking.stack_run(self.variables["params"], run)
    rates = jnp.asarray([self._drop_path(i) for i in run])
    random = train and bool(self.dropout or self.stochastic_depth)
    keys = None
    if random:
      keys = jax.random.split(self.make_rng("dropout"), len(run))

    def body(x, inputs):
      params, rate, key = inputs
      block = self.block_cls(
        self.num_heads,
        self.mlp_dim,
        dropout=self.dropout,
        drop_path=rate if self.stochastic_depth else 0.0,
        dtype=self.dtype,
        norm_eps=self.norm_eps,
        gelu=self.gelu,
        parent=None,
      )
      rngs = {"dropout": key} if random else {}
      return block.apply({"params": params}, x, mask, train, rngs=rngs)

    # All that the backward pass needs from a block is written into stacks.
    # Keeping only the products and computing the rest again is faster: 0.84 to
    # 0.92x of the time of a training step on CPU.
    remat = "dots" if self.remat in ("none", AUTO) else self.remat
    body = jax.checkpoint(body, prevent_cse=False, policy=REMATS[remat])
    x, stacked = jax.lax.scan(body, x, (params, rates, keys))
    return x, {
      _out_name(i): {name: value[j] for name, value in stacked.items()}
      for j, i in enumerate(run)
    }


def block_runs(
  depth: int, config: tl.TokenLearnerConfig | None
) -> tuple[range, ...]:
  """Returns runs of blocks, by number, that follow one another directly.

  TokenLearner, or TokenLearner and TokenFuser, separates a run from the next.
  """
  if config is None:
    return (range(depth),)
  first = (range(config.layer),) if config.layer else ()
  if config.fuser:
    return (*first, *(range(i, i + 1) for i in range(config.layer, depth)))
  return (*first, range(config.layer, depth))


def seq_lens(
  grid: Sequence[int],
  num_cls: int,
  num_tokens: int | str | None,
  depth: int,
  config: tl.TokenLearnerConfig | None,
) -> tuple[int, ...]:
  """Returns how many tokens each block sees, for (h, w) or (T, h, w)."""
  all_tokens = math.prod(grid) + num_cls
  if config is None or tl.is_all(num_tokens):
    return (all_tokens,) * depth
  learned = math.prod(grid[:-2]) * (num_tokens or config.num_tokens) + num_cls
  return (all_tokens,) * config.layer + (learned,) * (depth - config.layer)


def _out_name(index: int) -> str:
  return f"block{index:02d}"
