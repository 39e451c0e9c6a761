"""Convolutions over videos that keep time and shrink space: X(2+1)D.

This is X3D (arXiv 2004.04730) with each convolution over space and time split
into one over space and one over time. Letters: B batch, T frames, H W frame,
h w grid, C channels, D width.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float

# Ratio of channels inside a block to those between blocks, X3D's gamma_b.
EXPANSION = 2.25
# Divides the channels of all stages, between and inside of blocks.
_GROUP_SIZE = 6


class _Conv(nn.Module):
  """A convolution without bias over space (1, k, k) or time (k, 1, 1).

  Attributes:
    features: output channels.
    kernel_size: (time, height, width).
    stride: in space.
    channelwise: whether each channel is convolved alone.
    dtype: of the computation.
  """

  features: int
  kernel_size: tuple[int, int, int]
  stride: int = 1
  channelwise: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T H W C"]
  ) -> Float[Array, "B T h w {self.features}"]:
    return nn.Conv(
      self.features,
      self.kernel_size,
      strides=(1, self.stride, self.stride),
      # This padding gives the same cells whether a side is even or odd.
      padding=[(k // 2, k // 2) for k in self.kernel_size],
      feature_group_count=self.features if self.channelwise else 1,
      use_bias=False,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      name="conv",
    )(x)


class Block(nn.Module):
  """X3D's bottleneck block: widen, space, time, narrow, residual.

  Attributes:
    features: output channels.
    stride: in space.
    dtype: of the computation.
  """

  features: int
  stride: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T H W channels"]
  ) -> Float[Array, "B T h w {self.features}"]:
    """Returns frames whose sides are divided by the stride."""
    inner = round(self.features * EXPANSION)
    y = _Conv(inner, (1, 1, 1), dtype=self.dtype, name="widen")(x)
    y = nn.relu(_norm(self.dtype, "norm_widen")(y))
    y = _Conv(inner, (1, 3, 3), self.stride, True, self.dtype, name="space")(y)
    y = _Conv(inner, (3, 1, 1), 1, True, self.dtype, name="time")(y)
    y = nn.swish(_norm(self.dtype, "norm_time")(y))
    y = _Conv(self.features, (1, 1, 1), dtype=self.dtype, name="narrow")(y)
    y = _norm(self.dtype, "norm_narrow")(y)
    if x.shape != y.shape:
      x = _Conv(
        self.features, (1, 1, 1), self.stride, dtype=self.dtype, name="project"
      )(x)
      x = _norm(self.dtype, "norm_project")(x)
    return nn.relu(x + y)


class X2Plus1D(nn.Module):
  """The stem: two convolutions, then stages of blocks, then the last width.

  The first convolution and the first block of each stage halve height and
  width; time stays as it is.

  Attributes:
    stages: (channels, blocks) of each stage.
    width: D, the output channels.
    remat: whether the backward pass recomputes each block.
    dtype: of the computation.
  """

  stages: Sequence[tuple[int, int]]
  width: int
  remat: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, videos: Float[ArrayLike, "B T H W channels"]
  ) -> Float[Array, "B T h w {self.width}"]:
    """Embeds the cells of every frame."""
    first = self.stages[0][0]
    x = jnp.asarray(videos, self.dtype)
    x = _Conv(first, (1, 3, 3), 2, dtype=self.dtype, name="space")(x)
    x = _Conv(first, (5, 1, 1), 1, True, self.dtype, name="time")(x)
    x = nn.relu(_norm(self.dtype, "norm")(x))
    block_cls = nn.remat(Block) if self.remat else Block
    for i, (features, blocks) in enumerate(self.stages):
      for j in range(blocks):
        x = block_cls(
          features,
          stride=1 if j else 2,
          dtype=self.dtype,
          name=f"stage{i}_block{j}",
        )(x)
    x = _Conv(self.width, (1, 1, 1), dtype=self.dtype, name="last")(x)
    return nn.relu(_norm(self.dtype, "norm_last")(x))


def check_stages(stages: Sequence[tuple[int, int]], width: int) -> None:
  """Raises ValueError for stages that cannot be built."""
  if not stages or any(blocks < 1 for _, blocks in stages):
    raise ValueError(f"Each stage needs blocks, got stages={stages}.")
  # Multiples of 24 divide into whole groups, between and inside of blocks.
  for channels in (*(stage[0] for stage in stages), width):
    if channels < 1 or channels % 24:
      raise ValueError(
        f"{channels} channels cannot be normalised in groups: give multiples of"
        " 24."
      )


def _norm(dtype: jnp.dtype, name: str) -> nn.GroupNorm:
  # Normalises each video alone: statistics of a batch would be a state to train
  # beside the parameters, and batches of videos are small.
  return nn.GroupNorm(
    num_groups=None, group_size=_GROUP_SIZE, dtype=dtype, name=name
  )
