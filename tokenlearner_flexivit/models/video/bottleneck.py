"""TokenLearner between convolutions and a transformer, for videos.

Letters: B batch, T frames, h w grid of a frame, N = h w positions, S learned
tokens, D width.
"""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float

from tokenlearner_flexivit.models import tiling
from tokenlearner_flexivit.models import token_learner as tl
from tokenlearner_flexivit.models.map_conv import MapConv
from tokenlearner_flexivit.models.video import vector_attention, vivit, x2plus1d

# Stages of X3D-M and X3D-L: (channels, blocks).
_STAGES = {
  "M": ((24, 3), (48, 5), (96, 11), (192, 7)),
  "L": ((24, 5), (48, 10), (96, 25), (192, 15)),
}


def decode_bottleneck_variant(variant: str) -> dict[str, Any]:
  """Turns "M" or "L" into constructor arguments of `BottleneckViViT`.

  Raises:
    ValueError: for another name.
  """
  if variant not in _STAGES:
    raise ValueError(
      f"Unknown variant {variant!r}. Known: {', '.join(_STAGES)}."
    )
  return dict(
    stages=_STAGES[variant], width=432, depth=3, mlp_dim=1728, num_heads=54
  )


class ConvTokenLearner(tl.TokenLearner):
  """TokenLearner with a single convolution where version 1.0 has four.

  The other versions are those of `TokenLearner`.
  """

  @nn.nowrap
  def _convolve(
    self, y: Float[Array, "B h w D"], num_out: int | None
  ) -> Float[Array, "B h w S"]:
    return MapConv(self.num_tokens, self.dtype, name="Conv_0")(y, num_out)


class BottleneckViViT(vivit.ViViT):
  """The TokenLearner paper's model for Charades and AViD, as far as known.

  A stem of convolutions, X(2+1)D, keeps every frame and shrinks it by 32;
  TokenLearner makes 8 tokens of each frame, and a transformer with vector
  attention sees those of all frames together: 512 for 64 frames, instead of the
  4,096 positions of frames of 256 pixels. The paper reports this much, and that
  the maps come from a single convolution. Choices made here:

  * The stem has the stages of X3D-M ("L": X3D-L), without squeeze and
    excitation, and with group normalisation in place of X3D's batch
    normalisation, which would be a state beside the parameters.
  * Vector attention is that of Zhao et al. (see `vector_attention`), in 3
    blocks, as many as the bottleneck transformer (arXiv 2101.11605) has.
  * TokenLearner runs once, with the mean over space of the paper's formula,
    since frames are larger in evaluation than in training. `fuser` of
    `token_learner` maps tokens back to positions, as in the paper.
  * Positions are learned, and added to the stem's output.

  The patch size is the stem's stride and not a dial. The numbers of tokens and
  of frames are dials, as in `ViViT`, which describes all other attributes and
  results.

  Attributes:
    stages: (channels, blocks) of each stage of the stem; each halves the frame,
      and so does the convolution in front of them.
    patch_size: the stride of the stem, which follows from `stages`.
    posemb_grid: (T, h, w), size of the stored position embedding.
    token_learner: the fields of `TokenLearnerConfig`. Version "1.0" has one
      convolution here.
  """

  patch_size: Any = None
  posemb_grid: Any = (64, 7, 7)
  token_learner: Any = (
    ("layer", 0),
    ("num_tokens", 8),
    ("version", "1.0"),
    ("pooling", "mean"),
  )
  stages: Any = _STAGES["M"]

  _decode_variant = staticmethod(decode_bottleneck_variant)

  def __post_init__(self):
    self.stages = tuple(tuple(stage) for stage in self.stages)
    x2plus1d.check_stages(self.stages, self.width)
    stride = tiling.to_size(2 ** (len(self.stages) + 1))
    patch_size = stride if self.patch_size is None else self.patch_size
    if tiling.to_size(patch_size) != stride:
      raise ValueError(
        f"patch_size={self.patch_size}, but the stem's stride is {stride}:"
        " leave it out."
      )
    self.patch_size = stride
    super().__post_init__()

  def _whole(self, patch_size: tiling.Size | None) -> tuple[int, ...]:
    if patch_size is not None and (
      tiling.to_size(patch_size) != self.patch_size
    ):
      raise ValueError(
        f"patch_size={patch_size}, but this model has convolutions of stride"
        f" {self.patch_size}, which the frames must be divisible by, and no"
        " other patch size: leave it out."
      )
    return self.patch_size

  @nn.nowrap
  def _embed(
    self, videos: Float[ArrayLike, "B T H W C"], patch_size: tuple[int, ...]
  ) -> Float[Array, "B T h w {self.width}"]:
    del patch_size
    return x2plus1d.X2Plus1D(
      self.stages,
      self.width,
      remat=self.remat == "blocks",
      dtype=self.dtype,
      name="embedding",
    )(videos)

  @nn.nowrap
  def _encode(self, *args: Any, **overrides: Any) -> Any:
    classes = dict(
      block_cls=vector_attention.VectorBlock, learner_cls=ConvTokenLearner
    )
    return super()._encode(*args, **classes, **overrides)
