"""A vision transformer with two dials: patch size and learned tokens.

Letters: B batch, H W image, C channels or classes, h w grid, N tokens,
S learned tokens, D width.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import ArrayLike, Float

from tokenlearner_flexivit.models import (
  checks,
  hyperparameters,
  patch_embed,
  tiling,
  transformer,
)
from tokenlearner_flexivit.models.token_learner import NumTokens


class ViT(transformer.VisionTransformer):
  """FlexiViT (arXiv 2212.08013) with TokenLearner (arXiv 2106.11297).

  One set of weights serves every patch size and every number of learned
  tokens; both are chosen per call. The stored kernel and position embedding
  keep their size and are resized in each forward pass.

  Attributes:
    num_classes: C; None for a model that returns representations.
    width: D.
    depth: number of blocks.
    mlp_dim: hidden features of the MLPs.
    num_heads: attention heads, a divisor of `width`.
    patch_size: int or (p, q), size of the stored patch embedding kernel.
    posemb_grid: int or (h, w), size of the position embedding before it is
      resized to the grid of a call.
    posemb: "learn" stores one; "sincos2d" computes sines and cosines for
      `posemb_grid`, as the published FlexiViT does.
    pool: "gap" averages the patches, "tok" takes a cls token that is put in
      front of them after the position embedding, "map" pools the patches by
      attention, "tok_gap" takes the cls token and the average, side by side, as
      DINOv2's classifiers do. "tok_dist" averages the cls token and the first
      register, DeiT's distillation token, and each has a head; logits are the
      mean of both.
    token_learner: None or a mapping with the fields of `TokenLearnerConfig`:
      layer, num_tokens, version, pooling, fuser, bottleneck_dim.
    rep_size: features of an extra tanh layer before the head; True for D.
    head_zeroinit: whether the head's kernel starts at zero.
    head_bias_init: initial value of the head's bias.
    dropout: rate.
    stochastic_depth: probability that an example skips a branch of the last
      block, growing linearly from zero in the first.
    dtype: of the computation, by name or as a dtype. Parameters, LayerNorm
      statistics, softmax, pooling and head are float32.
    remat: what the backward pass computes again, to save memory: "none", "dots"
      (all but matrix products and attention), "blocks" (everything between
      blocks; also True) or "auto" (the first of these in a training whose step
      fits the devices' memory). With `scan`, "none" is "dots".
    scan: whether equal blocks in a row are one loop, to compile sooner. Dropout
      and stochastic depth then draw different numbers.
    norm_eps: added to the variance in LayerNorm of the blocks, after them and
      in the "map" pooling.
    gelu: activation of the MLPs of the same: "tanh", the form of GELU that
      published JAX models use, "erf", GELU itself, as PyTorch has it, or
      "quick", x sigmoid(1.702 x), as CLIP has it.
    pre_norm: whether a LayerNorm `pre_norm` stands before the blocks, as in
      CLIP; it sees the cls token, too.
    registers: number of learned tokens between the cls token and the patches,
      which attend and are attended to, bypass TokenLearner and are not pooled.
    norm: where the last LayerNorm stands: "before_pool", on all tokens, or
      "after_pool", on what they are pooled to (timm's fc_norm).
  """

  pre_norm: bool = False
  registers: int = 0
  norm: str = "before_pool"

  _pools = (*hyperparameters.POOLS, "tok_gap", "tok_dist")

  input = "image"  # The entry of an example that the model sees.

  def __post_init__(self):
    self.patch_size = tiling.to_pair(self.patch_size, "patch_size")
    self.posemb_grid = tiling.to_pair(self.posemb_grid, "posemb_grid")
    checks.boolean(self.pre_norm, "pre_norm")
    checks.whole(self.registers, "registers", least=0)
    checks.choice(self.norm, "norm", hyperparameters.NORMS)
    if self.pool == "tok_dist" and not self.registers:
      raise ValueError(
        "pool='tok_dist' reads a distillation token, the first register, but"
        " registers=0. Set registers=1."
      )
    if self.pool in ("tok_gap", "tok_dist"):
      for name, only in (("norm", "before_pool"), ("rep_size", None)):
        if getattr(self, name) not in (only, False):
          raise ValueError(
            f"pool={self.pool!r} has no {name}={getattr(self, name)!r}; it goes"
            f" with {name}={only!r}."
          )
    super().__post_init__()

  def check(
    self,
    image_size: tiling.Size,
    patch_size: tiling.Size | None = None,
    num_tokens: NumTokens = None,
  ) -> tuple[int, int]:
    """Checks a call without tracing it.

    Args:
      image_size: int or (height, width) in pixels.
      patch_size: None (the stored size), int or (int, int).
      num_tokens: None (all that are learned), "all", an int or a scalar
        array.

    Returns:
      the grid (h, w) of patches.

    Raises:
      ValueError: for a patch size that does not divide the image, or an
        impossible number of tokens.
    """
    self._check_num_tokens(num_tokens)
    return tiling.check_patch_size(
      tiling.to_pair(image_size),
      self.patch_size if patch_size is None else patch_size,
    )

  def seq_lens(
    self,
    image_size: tiling.Size,
    patch_size: tiling.Size | None = None,
    num_tokens: int | str | None = None,
  ) -> tuple[int, ...]:
    """Returns how many tokens each block sees, cls and registers included.

    Arguments and errors are those of `check`, except that `num_tokens` must not
    be an array.
    """
    grid = self.check(image_size, patch_size, num_tokens)
    return self._seq_lens(grid, num_tokens)

  @nn.compact
  def __call__(
    self,
    images: Float[ArrayLike, "B H W channels"],
    *,
    patch_size: tiling.Size | None = None,
    num_tokens: NumTokens = None,
    train: bool = False,
  ) -> transformer.Outputs:
    """Classifies or represents images.

    Args:
      images: in [-1, 1].
      patch_size: int or (int, int), static; None means the stored size.
      num_tokens: how many learned tokens to use: None for all, an int for a
        slice of the first ones, a traced integer scalar for a mask over them.
        The results are the same. "all" switches TokenLearner off: all blocks
        see all patches.
      train: whether dropout and stochastic depth are active. They draw from
        the "dropout" random stream.

    Returns:
      logits, or without classes the representation (C is then D, 2 D for
      pool="tok_gap", or rep_size), and a dict of intermediates:

      * stem [B, h, w, D], with_posemb [B, N, D];
      * encoder: per block ("block00", ...) sa, +sa, mlp, +mlp, each [B, tokens
        of that block, D], and token_learner where a block has one;
      * token_learner, unless it is off, of the first block that has one: maps
        [B, S, N] and tokens [B, S, D];
      * encoded [B, tokens, D]; if `num_tokens` is traced, the rows of unused
        tokens have no meaning;
      * tokens_2d [B, h, w, D]: the patches of `encoded` on their grid, if all
        are kept, so not after a TokenLearner without fuser;
      * pre_logits [B, D, 2 D or rep_size] float32 and, with classes, logits.

    Raises:
      ValueError: for images that are not [B, H, W, channels] floats, a patch
        size that does not divide them, or an impossible `num_tokens`.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        "Expected float images [B, H, W, channels] in [-1, 1], got"
        f" {images.dtype}{list(images.shape)}."
      )
    size = images.shape[1:3]
    patch_size = self._patch_size_for(size, patch_size)
    self.check(size, patch_size, num_tokens)
    stem = patch_embed.PatchEmbed(
      self.width, self.patch_size, dtype=self.dtype, name="embedding"
    )(images, patch_size)
    return self._apply_to_stem(stem, num_tokens, train)
