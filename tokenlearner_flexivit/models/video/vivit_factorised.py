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

  The first encoder sees the tokens of one frame, or layer of tubelets, at a
  time and pools them; the second encoder sees one token per frame and so time
  alone. The attributes, which are those of `ViViT`, apply to both encoders, but
  TokenLearner is in the first alone. The arguments and most results of a call
  are those of `ViViT`.

  The first encoder's parameters, `Transformer`, `pos_embedding` [1, h w, D] and
  `cls`, have the names and shapes of a model for images; Scenic calls them
  `SpatialTransformer` and so on. The second encoder's parameters have Scenic's
  names: `TemporalTransformer`, `cls_TemporalTransformer` and
  `pos_embedding_TemporalTransformer` [1, T', D].

  In the intermediates of a call

  * encoder holds blocks of the first, on [B, T', tokens of a frame, D];
  * frames is the pooled result of each frame, float32 [B, T', D];
  * temporal_encoder holds blocks of the second, on [B, T' (1 more with a cls
    token), D], and encoded is its result.

  `seq_lens` returns the tokens of a frame for each block of the first encoder,
  then those of the second. With `scan` too, each block has its own parameters.

  Attributes:
    temporal_depth: number of blocks of the second encoder.
  """

  temporal_depth: int = 4

  def __post_init__(self):
    checks.whole(self.temporal_depth, "temporal_depth")
    super().__post_init__()

  @property
  def scanned_runs(self) -> tuple[range, ...]:
    """Returns (), because blocks of the two encoders have the same numbers."""
    return ()

  def _seq_lens(
    self, grid: Sequence[int], num_tokens: int | str | None
  ) -> tuple[int, ...]:
    frames, *frame = grid
    temporal = (frames + self.num_prefix,) * self.temporal_depth
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
    x, mask, intermediates = self._encode(x, grid, num_tokens, train)
    out["encoder"] = jax.tree.map(
      lambda value: value.reshape(b, t, *value.shape[1:]), intermediates
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
