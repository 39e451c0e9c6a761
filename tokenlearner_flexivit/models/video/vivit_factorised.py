"""A vision transformer for videos that encodes space first, then time.

Letters: B batch, T' frames or tubelets in time, h w grid of a frame, N = h w
tokens, S learned tokens, D width.
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from tokenlearner_flexivit.models import checks, transformer
from tokenlearner_flexivit.models import token_learner as tl
from tokenlearner_flexivit.models.video import vivit


class ViViTFactorised(vivit.ViViT):
  """ViViT's factorised encoder (arXiv 2103.15691, Model 2), with two dials.

  A first encoder sees the tokens of one frame, or layer of tubelets, at a time,
  and they are pooled; a second one, on what comes of each frame, sees time
  alone. Both pool, drop and loop as the attributes say, which are those of
  `ViViT`; so are the arguments and most results of a call. TokenLearner is in
  the first encoder.

  The first encoder's parameters, `Transformer`, `pos_embedding` [1, h w, D] and
  `cls`, have the names and shapes that they have in a model for images; Scenic
  calls them `SpatialTransformer` and so on. The second's are its
  `TemporalTransformer` and `cls_TemporalTransformer`, and
  `pos_embedding_TemporalTransformer` [1, T', D].

  In the intermediates of a call

  * encoder holds blocks of the first, on [B, T', tokens of a frame, D];
  * frames are what it makes of each frame, float32 [B, T', D];
  * temporal_encoder holds blocks of the second, on [B, T' (1 more with a cls
    token), D], and encoded is its result.

  `seq_lens` gives the tokens of a frame for each block of the first encoder,
  then those of the second. With `scan` all blocks keep parameters of their own.

  Attributes:
    temporal_depth: number of blocks of the second encoder.
  """

  temporal_depth: int = 4

  def __post_init__(self):
    checks.whole(self.temporal_depth, "temporal_depth")
    super().__post_init__()

  @property
  def scanned_runs(self) -> tuple[range, ...]:
    """None: blocks of two encoders have the same numbers."""
    return ()

  def _seq_lens(
    self, grid: Sequence[int], num_tokens: int | str | None
  ) -> tuple[int, ...]:
    frames, *frame = grid
    temporal = (frames + int(self.pool == "tok"),) * self.temporal_depth
    return super()._seq_lens(frame, num_tokens) + temporal

  @nn.nowrap
  def _apply_to_stem(
    self,
    stem: Float[Array, "B T h w D"],
    num_tokens: tl.NumTokens,
    train: bool,
  ) -> transformer.Outputs:
    out: dict[str, Any] = dict(stem=stem)
    b, t, *grid, d = stem.shape
    x = stem.reshape(b * t, -1, d) + self._position(grid, self.posemb_grid[1:])
    out["with_posemb"] = x.reshape(b, -1, d)
    x, mask, of_frames = self._encode(x, grid, num_tokens, train)
    out["encoder"] = jax.tree.map(
      lambda value: value.reshape(b, t, *value.shape[1:]), of_frames
    )
    self._add_token_learner(out, num_tokens)
    x = out["frames"] = self._pooled(x, mask).reshape(b, t, d)

    name = "TemporalTransformer"
    x = x.astype(self.dtype)
    x += self._position((t,), self.posemb_grid[:1], f"pos_embedding_{name}")
    x, _, out["temporal_encoder"] = self._encode(
      x,
      (1, t),
      None,
      train,
      cls_name=f"cls_{name}",
      depth=self.temporal_depth,
      token_learner=None,
      name=name,
    )
    out["encoded"] = x
    return self._classify(self._pooled(x), out)
