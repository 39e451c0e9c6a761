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

from tokenlearner_flexivit.models import blocks
from tokenlearner_flexivit.models import token_learner as tl


class Encoder(nn.Module):
  """Transformer blocks and a final LayerNorm.

  Without a fuser, TokenLearner runs once, before block `layer`, and all later
  blocks see S tokens. With one, every block from `layer` on is TokenLearner,
  block, TokenFuser and a residual, and N tokens come out (TokenLearner,
  Sections 2 and 3). In a video both work on each frame alone, and the
  blocks on the tokens of all frames together.

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
    remat: whether the backward pass recomputes each block.
  """

  depth: int
  num_heads: int
  mlp_dim: int
  token_learner: tl.TokenLearnerConfig | None = None
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    grid: Sequence[int],
    num_cls: int = 0,
    num_tokens: int | jax.Array | None = None,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array | None, dict[str, Any]]:
    """Encodes tokens.

    Args:
      x: [B, num_cls + N, D], of a video [B, num_cls + T * N, D].
      grid: (h, w) with h * w = N, of a video (T, h, w).
      num_cls: how many leading tokens pass beside TokenLearner.
      num_tokens: see `TokenLearner`.
      train: whether dropout and stochastic depth are active.

    Returns:
      x [B, num_cls + N or S, D]; a bool mask [num_cls + S], false for rows of
      x without meaning, or None if all have one; a dict `block00`, ... of the
      intermediates of each block. Of a video there are T times N or S, and
      what TokenLearner gives has an axis T after B.
    """
    block_cls = blocks.Encoder1DBlock
    if self.remat:
      block_cls = nn.remat(block_cls, static_argnums=(3,))
    config = self.token_learner
    (b, _, d), frames = x.shape, tuple(grid[:-2])
    num_frames = math.prod(frames)
    mask = None
    out = {}
    for i in range(self.depth):
      block = block_cls(
        self.num_heads,
        self.mlp_dim,
        dropout=self.dropout,
        drop_path=self.stochastic_depth * i / max(1, self.depth - 1),
        dtype=self.dtype,
        name=f"encoderblock_{i}",
      )
      learn = config is not None and (
        i == config.layer or (config.fuser and i > config.layer)
      )
      if not learn:
        x, out[f"block{i:02d}"] = block(x, mask, train)
        continue

      cls, patches = x[:, :num_cls], x[:, num_cls:]
      patches = patches.reshape(b * num_frames, -1, d)
      tokens, maps = tl.TokenLearner(
        config.num_tokens,
        version=config.version,
        pooling=config.pooling,
        bottleneck_dim=config.bottleneck_dim,
        dropout_rate=self.dropout,
        dtype=self.dtype,
        name=f"TokenLearner_{i - config.layer}",
      )(patches, grid[-2:], num_tokens, train)
      mask = tl.token_mask(num_tokens, config.num_tokens)
      if mask is not None:
        mask = jnp.concatenate([jnp.ones(num_cls, bool), *[mask] * num_frames])
      learned = tokens.reshape(b, -1, d)
      x, block_out = block(jnp.concatenate([cls, learned], axis=1), mask, train)
      if config.fuser:
        # The cls token attends, and is attended to, together with the learned
        # tokens; the block's own residual updates it, so it needs no fuser.
        fused = tl.TokenFuser(
          config.num_tokens,
          bottleneck_dim=config.bottleneck_dim,
          dropout_rate=self.dropout,
          dtype=self.dtype,
          name=f"TokenFuser_{i - config.layer}",
        )(x[:, num_cls:].reshape(tokens.shape), patches, num_tokens, train)
        patches = (patches + fused).reshape(b, -1, d)
        x = jnp.concatenate([x[:, :num_cls], patches], axis=1)
        mask = None
      block_out["token_learner"] = {
        name: value.reshape(b, *frames, *value.shape[1:])
        for name, value in (("maps", maps), ("tokens", tokens))
      }
      out[f"block{i:02d}"] = block_out
    return blocks.layer_norm(self.dtype, "encoder_norm")(x), mask, out
