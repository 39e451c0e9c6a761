"""A vision transformer for videos, with the dials of `ViT`.

Letters: B batch, T frames, T' tubelets in time, H W frame, C channels or
classes, h w grid of a frame, N = h w tokens, S learned tokens, D width.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float, Shaped

from tokenlearner_flexivit.models import (
  checks,
  patch_embed,
  tiling,
  transformer,
  variants,
)
from tokenlearner_flexivit.models.token_learner import NumTokens


def sample_frames(
  videos: Shaped[ArrayLike, "B T *frame"], num_frames: int
) -> Shaped[ArrayLike, "B n *frame"]:
  """Takes frames at equal distances (ViViT, Section 3.2).

  These are the frames k T / (n + 1), k = 1..n, halves rounded to even. The
  published code adds up T / (n + 1) instead: for 1 in 8 pairs of T and n its
  rounding error gives n + 1 frames, and for some it rounds a half the other
  way.

  Args:
    videos: arrays with the axis of frames after that of the batch.
    num_frames: n, how many to take. Videos with no more than n keep all.
  """
  total = videos.shape[1]
  if num_frames >= total:
    return videos
  frames = np.arange(1, num_frames + 1) * total / (num_frames + 1)
  return videos[:, np.round(frames).astype(int)]


class ViViT(transformer.VisionTransformer):
  """ViViT's joint space-time model (arXiv 2103.15691, Model 1), with two dials.

  All tokens of all frames attend to one another. TokenLearner (arXiv
  2106.11297) summarises each frame, or layer of tubelets, alone: S of N tokens
  in each of T'. Patch size, learned tokens and all other attributes are those
  of `ViT`.

  Attributes:
    patch_size: int or (p, q) to cut each frame into patches, or (t, p, q) to
      cut the video into tubelets; the size of the stored kernel, [p, q, C, D]
      or [t, p, q, C, D].
    posemb_grid: (T', h, w), size of the stored position embedding.
    posemb: "learn".
    num_frames: how many frames to sample (`sample_frames`) before the video is
      cut, unless a call says otherwise; None takes all.
  """

  input = "video"

  patch_size: Any = (2, 32, 32)
  posemb_grid: Any = (16, 7, 7)
  num_frames: int | None = None

  _posembs = ("learn",)
  _decode_variant = staticmethod(variants.decode_video_variant)

  def __post_init__(self):
    self.patch_size = tiling.to_size(self.patch_size, "patch_size")
    self.posemb_grid = _to_triple(self.posemb_grid, "posemb_grid")
    _check_num_frames(self.num_frames)
    super().__post_init__()

  def check(
    self,
    video_size: tiling.Size,
    patch_size: tiling.Size | None = None,
    num_tokens: NumTokens = None,
    num_frames: int | None = None,
  ) -> tuple[int, int, int]:
    """Checks a call without tracing it.

    Args:
      video_size: (frames, height, width), before frames are sampled.
      patch_size: None (the stored size), int or (int, int) for height and
        width; for tubelets also three ints, with the frames first.
      num_tokens: None (all that are learned), "all", an int or a scalar
        array.
      num_frames: how many frames to sample; None means the model's number.
        Videos with no more frames keep all.

    Returns:
      the grid (T', h, w) of patches or tubelets.

    Raises:
      ValueError: for a patch size that does not divide the frames, tubelets
        that do not divide the video, or an impossible number of tokens or
        frames.
    """
    self._check_num_tokens(num_tokens)
    frames, *size = self.sampled_size(video_size, num_frames)
    patch_size = self._whole(patch_size)
    if len(patch_size) == 2:
      return (frames, *tiling.check_patch_size(size, patch_size))
    return tiling.check_patch_size((frames, *size), patch_size)

  def seq_lens(
    self,
    video_size: tiling.Size,
    patch_size: tiling.Size | None = None,
    num_tokens: int | str | None = None,
    num_frames: int | None = None,
  ) -> tuple[int, ...]:
    """Returns how many tokens each block sees, cls included.

    Arguments and errors are those of `check`, except that `num_tokens` must not
    be an array.
    """
    grid = self.check(video_size, patch_size, num_tokens, num_frames)
    return self._seq_lens(grid, num_tokens)

  def sampled_size(
    self, video_size: tiling.Size, num_frames: int | None = None
  ) -> tuple[int, int, int]:
    """Returns the size of a video after its frames are sampled.

    Arguments and errors are those of `check`.
    """
    frames, *size = _to_triple(video_size, "The size of a video")
    _check_num_frames(num_frames)
    return min(frames, num_frames or self.num_frames or frames), *size

  def _whole(self, patch_size: tiling.Size | None) -> tuple[int, ...]:
    """Returns a patch size with as many axes as the stored one."""
    if patch_size is None:
      return self.patch_size
    size = tiling.to_size(patch_size)
    if len(size) > len(self.patch_size):
      raise ValueError(
        f"patch_size={patch_size} has frames, but this model cuts each frame"
        " into patches: give height and width alone."
      )
    return (*self.patch_size[: len(self.patch_size) - len(size)], *size)

  @nn.compact
  def __call__(
    self,
    videos: Float[ArrayLike, "B T H W channels"],
    *,
    patch_size: tiling.Size | None = None,
    num_tokens: NumTokens = None,
    num_frames: int | None = None,
    train: bool = False,
  ) -> transformer.Outputs:
    """Classifies or represents videos.

    Args:
      videos: in [-1, 1].
      patch_size: see `check`; static.
      num_tokens: how many learned tokens of each frame to use: None for all,
        an int for a slice of the first ones, a traced integer scalar for a mask
        over them. The results are the same. "all" switches TokenLearner off.
      num_frames: see `check`; static. The position embedding is resized to the
        sampled frames in time, as it is in space.
      train: whether dropout and stochastic depth are active. They draw from
        the "dropout" random stream.

    Returns:
      logits, or without classes the representation (C is then D or rep_size),
      and the dict of intermediates of `ViT`, in which

      * stem is [B, T', h, w, D], with_posemb [B, T' N, D];
      * a block sees T' N tokens, or T' S that were learned;
      * maps are [B, T', S, N] and tokens [B, T', S, D].

    Raises:
      ValueError: for videos that are not [B, T, H, W, channels] floats, and
        where `check` raises it.
    """
    if videos.ndim != 5 or not jnp.issubdtype(videos.dtype, jnp.floating):
      raise ValueError(
        "Expected float videos [B, T, H, W, channels] in [-1, 1], got"
        f" {videos.dtype}{list(videos.shape)}."
      )
    num_frames, *_ = self.sampled_size(videos.shape[1:4], num_frames)
    videos = sample_frames(videos, num_frames)
    b, *size, _ = videos.shape
    cut = size[-len(self.patch_size) :]
    patch_size = self._whole(self._patch_size_for(cut, patch_size))
    grid = self.check(size, patch_size, num_tokens, num_frames)
    stem = self._embed(videos, patch_size).reshape(b, *grid, self.width)
    return self._apply_to_stem(stem, num_tokens, train)

  @nn.nowrap
  def _embed(
    self, videos: Float[ArrayLike, "B T H W C"], patch_size: tuple[int, ...]
  ) -> Float[Array, "... {self.width}"]:
    """Returns the tokens of videos; the batch may include the axis of time."""
    if len(patch_size) == 2:
      videos = videos.reshape(-1, *videos.shape[2:])
    return patch_embed.PatchEmbed(
      self.width, self.patch_size, dtype=self.dtype, name="embedding"
    )(videos, patch_size)


def _check_num_frames(num_frames: int | None) -> None:
  if num_frames is not None:
    checks.whole(num_frames, "num_frames")


def _to_triple(size: tiling.Size, name: str) -> tuple[int, int, int]:
  sizes = tiling.to_size(size, name)
  if len(sizes) != 3:
    raise ValueError(
      f"{name} is (frames, height, width), three positive integers; got"
      f" {size!r}."
    )
  return sizes
