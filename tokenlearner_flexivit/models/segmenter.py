"""Segmenter (arXiv 2105.05633) on a ViT with both dials.

Letters: B batch, H W image, C classes, h w grid, N patches, S learned tokens,
D width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Bool, Float, Float32

from tokenlearner_flexivit.models import (
  bilinear,
  blocks,
  checks,
  mask_transformer,
  tiling,
  vit,
)
from tokenlearner_flexivit.models.token_learner import NumTokens

DECODERS = ("linear", "mask")
# Beginnings of the names of what is added to the image tower.
HEADS = ("seg_head/", "mask_decoder/", "seg_norm/")
# Parameters whose last axis is that of the classes, one for each decoder.
CLASS_LEAVES = ("seg_head/bias", "mask_decoder/mask_norm/bias")


class Segmenter(vit.ViT):
  """A ViT that gives every pixel of an image a logit for each class.

  The image tower is that of `ViT`, under the same names, so that its weights
  fit. Images are padded at the bottom and on the right up to whole patches; the
  logits of the patches are resized to the pixels, and those of the padding are
  cut off. So any patch size suits any image.

  A cls token takes part in the tower and is then dropped. TokenLearner with its
  fuser keeps the patches. Without a fuser only S tokens leave the tower, and
  the patches are taken from the place where TokenLearner stands, through a
  LayerNorm `seg_norm`: the mask transformer decodes the classes with the S
  tokens and multiplies them by these patches; the linear decoder sees the sum
  of these patches and of the tokens, which return to where they were taken from
  in the proportions of TokenLearner's maps.

  Attributes:
    decoder: "linear" for a dense layer, `seg_head`, or "mask" for a mask
      transformer, `mask_decoder`, with the heads, `mlp_dim`, `norm_eps` and
      `gelu` of the tower.
    decoder_depth: number of blocks of the mask transformer.
    decoder_dropout: rate in these.
    head_zeroinit: whether the linear decoder's kernel starts at zero; otherwise
      with the standard deviation 0.02 of the published code.
    head_bias_init: initial value of the linear decoder's bias.

  The others are those of `ViT`; `pool` says only whether there is a cls token,
  "tok", and `rep_size` has no use.
  """

  answers = "logits of the classes of every pixel"

  decoder: str = "linear"
  decoder_depth: int = 2
  decoder_dropout: float = 0.1

  def __post_init__(self):
    checks.whole(self.num_classes, "num_classes")
    checks.whole(self.decoder_depth, "decoder_depth")
    checks.number(self.decoder_dropout, "decoder_dropout")
    if self.decoder not in DECODERS:
      raise ValueError(
        f"Unknown decoder {self.decoder!r}. Known: {', '.join(DECODERS)}."
      )
    if not 0 <= self.decoder_dropout < 1:
      raise ValueError(
        f"decoder_dropout must be in [0, 1), got {self.decoder_dropout}."
      )
    checks.reads_patches(self, "A Segmenter")
    if self.rep_size:
      raise ValueError(
        f"A Segmenter reads every patch, so rep_size={self.rep_size!r} would"
        " have weights of no use. Set no rep_size."
      )
    super().__post_init__()

  def check(
    self,
    image_size: tiling.Size,
    patch_size: tiling.Size | None = None,
    num_tokens: NumTokens = None,
  ) -> tuple[int, int]:
    """Checks a call without tracing it.

    Arguments are those of `ViT.check`.

    Returns:
      The grid (h, w) of the patches that cover the image.

    Raises:
      ValueError: for what is no patch size, or an impossible number of tokens.
    """
    self._check_num_tokens(num_tokens)
    image = tiling.to_pair(image_size)
    patch = self.patch_size if patch_size is None else patch_size
    patch = tiling.to_pair(patch, "patch_size")
    return tuple(-(-s // p) for s, p in zip(image, patch, strict=True))

  def padded_size(
    self,
    image_size: tiling.Size,
    patch_size: tiling.Size | None = None,
  ) -> tuple[int, int]:
    """Returns (height, width) of the patches that cover an image."""
    patch = self.patch_size if patch_size is None else patch_size
    patch = tiling.to_pair(patch)
    grid = self.check(image_size, patch)
    return tuple(n * p for n, p in zip(grid, patch, strict=True))

  def __call__(
    self,
    images: Float[ArrayLike, "B H W channels"],
    *,
    patch_size: tiling.Size | None = None,
    num_tokens: NumTokens = None,
    train: bool = False,
  ) -> tuple[Float32[Array, "B H W C"], dict[str, Any]]:
    """Segments images.

    Args:
      images: in [-1, 1].
      patch_size: int or (int, int), static; None means the stored size.
      num_tokens: as in `ViT`.
      train: whether dropout and stochastic depth are active.

    Returns:
      logits of the pixels, and the intermediates of `ViT`, of the padded image,
      with

      * logits_2d [B, h, w, C] float32, those of the patches;
      * logits [B, H, W, C];
      * pre_logits [B, D] float32: the mean of the encoded tokens, or the cls
        token.

    Raises:
      ValueError: for images that are not [B, H, W, channels] floats, or an
        impossible `num_tokens`.
    """
    size = padded = images.shape[1:3]
    if images.ndim == 4:
      padded = self.padded_size(size, patch_size)
      after = [(0, p - s) for p, s in zip(padded, size, strict=True)]
      images = jnp.pad(jnp.asarray(images), [(0, 0), *after, (0, 0)])
    logits, out = super().__call__(
      images, patch_size=patch_size, num_tokens=num_tokens, train=train
    )
    logits = bilinear.resize(logits, padded)[:, : size[0], : size[1]]
    out["logits"] = logits
    return logits, out

  @nn.nowrap
  def _head(
    self,
    x: Float[Array, "B encoded D"],
    mask: Bool[Array, " encoded"] | None,
    out: dict[str, Any],
    num_tokens: NumTokens,
    train: bool,
  ) -> tuple[Float32[Array, "B h w C"], dict[str, Any]]:
    """Returns the logits of the patches, and all intermediates."""
    out["pre_logits"] = self._pooled(x, mask)
    num_cls = self.num_prefix
    tokens, patches = x[:, num_cls:], None
    if not self._keeps_grid(num_tokens):
      patches = blocks.layer_norm(self.dtype, "seg_norm", self.norm_eps)(
        self._before_token_learner(out)
      )
    if self.decoder == "mask":
      logits = mask_transformer.MaskTransformer(
        self.num_classes,
        self.decoder_depth,
        self.num_heads,
        self.mlp_dim,
        dropout=self.decoder_dropout,
        dtype=self.dtype,
        norm_eps=self.norm_eps,
        gelu=self.gelu,
        name="mask_decoder",
      )(tokens, patches, None if mask is None else mask[num_cls:], train)
    else:
      if patches is not None:
        tokens = patches + _returned(tokens, out["token_learner"]["maps"])
      init = nn.initializers.truncated_normal(0.02)
      logits = nn.Dense(
        self.num_classes,
        kernel_init=nn.initializers.zeros if self.head_zeroinit else init,
        bias_init=nn.initializers.constant(self.head_bias_init),
        name="seg_head",
      )(tokens.astype(jnp.float32))
    grid = out["stem"].shape[1:3]
    shape = (x.shape[0], *grid, self.num_classes)
    logits = out["logits_2d"] = logits.reshape(shape)
    return logits, out

  @nn.nowrap
  def _before_token_learner(self, out: dict[str, Any]) -> Float[Array, "B N D"]:
    """Returns the patches that the first TokenLearner sees."""
    layer = self.token_learner["layer"]
    if layer == 0:
      return out["with_posemb"]
    before = out["encoder"][f"block{layer - 1:02d}"]["+mlp"]
    return before[:, self.num_prefix :]


def _returned(
  tokens: Float[Array, "B S D"], maps: Float[Array, "B S N"]
) -> Float[Array, "B N D"]:
  """Returns at each patch the mean of the tokens, weighted by their maps."""
  total = maps.sum(axis=1, keepdims=True)
  weights = maps / jnp.maximum(total, jnp.finfo(maps.dtype).tiny)
  # Half precision would round weights, whose sum would not be 1.
  returned = jnp.einsum(
    "bsn,bsd->bnd",
    weights,
    tokens.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  return returned.astype(tokens.dtype)
