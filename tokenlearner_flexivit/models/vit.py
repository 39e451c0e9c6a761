"""A vision transformer with two dials: patch size and learned tokens.

Letters: B batch, H W image, C channels or classes, h w grid, N tokens,
S learned tokens, D width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn

from tokenlearner_flexivit.models import blocks, encoder, patch_embed, variants
from tokenlearner_flexivit.models import posemb as posembs
from tokenlearner_flexivit.models import token_learner as tl

POOLS = ("gap", "tok", "map")
DTYPES = ("float32", "bfloat16", "float16")


class ViT(nn.Module):
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
    posemb_grid: int or (h, w), size of the stored position embedding.
    posemb: "learn", or "sincos2d", which is computed for the grid at hand.
    pool: "gap" averages the tokens, "tok" takes a cls token that is put in
      front of them after the position embedding, "map" is attention pooling.
    token_learner: None or a mapping with the fields of `TokenLearnerConfig`:
      layer, num_tokens, version, pooling, fuser, bottleneck_dim.
    rep_size: features of an extra tanh layer before the head; True for D.
    head_zeroinit: whether the head's kernel starts at zero.
    head_bias_init: where the head's bias starts.
    dropout: rate.
    stochastic_depth: probability that an example skips a branch of the last
      block, growing linearly from zero in the first.
    dtype: of the computation, by name or as a dtype. Parameters, LayerNorm
      statistics, softmax, pooling and head are float32.
    remat: whether the backward pass recomputes each block, to save memory.
  """

  num_classes: int | None
  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  patch_size: Any = (32, 32)
  posemb_grid: Any = (7, 7)
  posemb: str = "learn"
  pool: str = "gap"
  token_learner: Any = None
  rep_size: int | bool | None = None
  head_zeroinit: bool = True
  head_bias_init: float = 0.0
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  dtype: Any = "float32"
  remat: bool = False

  @classmethod
  def from_variant(cls, variant: str | None, **overrides: Any) -> "ViT":
    """Builds a model from a name such as "B/16" or "B".

    Args:
      variant: see `variants.decode_variant`; None if the arguments say all.
      **overrides: constructor arguments; they beat those of the variant.

    Raises:
      ValueError: for an unknown variant or argument, listing those known.
    """
    known = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
    unknown = sorted(set(overrides) - known)
    if unknown:
      raise ValueError(
        f"Unknown arguments for ViT: {', '.join(unknown)}. Known: variant,"
        f" {', '.join(sorted(known))}."
      )
    defaults = variants.decode_variant(variant) if variant else {}
    return cls(**(dict(num_classes=None) | defaults | overrides))

  def __post_init__(self):
    # Plain, hashable fields, whatever a config or a JSON file held.
    self.patch_size = patch_embed.to_pair(self.patch_size)
    self.posemb_grid = patch_embed.to_pair(self.posemb_grid)
    if self.token_learner is not None:
      config = tl.TokenLearnerConfig.from_dict(self.token_learner)
      self.token_learner = core.FrozenDict(dataclasses.asdict(config))
      if not 0 <= config.layer < self.depth:
        raise ValueError(
          f"token_learner.layer={config.layer} is outside the model: its depth"
          f" is {self.depth}, so layers are 0 to {self.depth - 1}."
        )
    for name, known in (("posemb", posembs.POSEMBS), ("pool", POOLS)):
      if getattr(self, name) not in known:
        raise ValueError(
          f"Unknown {name} {getattr(self, name)!r}. Known: {', '.join(known)}."
        )
    for name in ("dropout", "stochastic_depth"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f"{name} must be in [0, 1), got {getattr(self, name)}."
        )
    name = getattr(self.dtype, "__name__", str(self.dtype))
    if name not in DTYPES:
      raise ValueError(f"Unknown dtype {name!r}. Known: {', '.join(DTYPES)}.")
    self.dtype = jnp.dtype(name)
    if self.width % self.num_heads:
      raise ValueError(
        f"width={self.width} is not divisible by num_heads={self.num_heads}."
      )
    if self.posemb == "sincos2d":
      posembs.check_sincos_width(self.width)
    super().__post_init__()

  @property
  def _config(self) -> tl.TokenLearnerConfig | None:
    if self.token_learner is None:
      return None
    return tl.TokenLearnerConfig.from_dict(self.token_learner)

  def check(
    self,
    image_size: patch_embed.Size,
    patch_size: patch_embed.Size | None = None,
    num_tokens: int | jax.Array | None = None,
  ) -> tuple[int, int]:
    """Checks a call without tracing it.

    Args:
      image_size: int or (height, width) in pixels.
      patch_size: None (the stored size), int or (int, int).
      num_tokens: None (all that are learned), an int or a scalar array.

    Returns:
      the grid (h, w) of patches.

    Raises:
      ValueError: for a patch size that does not divide the image, or an
        impossible number of tokens.
    """
    if self.token_learner is not None:
      tl.check_num_tokens(num_tokens, self.token_learner["num_tokens"])
    elif num_tokens is not None:
      raise ValueError(
        f"num_tokens={num_tokens} given, but the model has no token_learner."
      )
    return patch_embed.check_patch_size(
      image_size, self.patch_size if patch_size is None else patch_size
    )

  def seq_lens(
    self,
    image_size: patch_embed.Size,
    patch_size: patch_embed.Size | None = None,
    num_tokens: int | None = None,
  ) -> tuple[int, ...]:
    """Returns how many tokens each block sees, cls included.

    Arguments and errors are those of `check`, but for `num_tokens`, which has
    to be None or an int.
    """
    h, w = self.check(image_size, patch_size, num_tokens)
    num_cls = int(self.pool == "tok")
    config = self._config
    first = config.layer if config else self.depth
    before = (h * w + num_cls,) * first
    if not config:
      return before
    learned = num_tokens or config.num_tokens
    return before + (learned + num_cls,) * (self.depth - first)

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    patch_size: patch_embed.Size | None = None,
    num_tokens: int | jax.Array | None = None,
    train: bool = False,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Classifies or represents images.

    Args:
      images: [B, H, W, channels] float in [-1, 1].
      patch_size: int or (int, int), static; None means the stored size.
      num_tokens: how many learned tokens to use: None for all, an int for a
        slice of the first ones, a traced integer scalar for a mask over them.
        The results are the same.
      train: whether dropout and stochastic depth are active. They draw from
        the "dropout" random stream.

    Returns:
      logits [B, C] float32, or without classes the representation [B, D or
      rep_size], and a dict of intermediates:

      * stem [B, h, w, D], with_posemb [B, N, D];
      * encoder: per block ("block00", ...) sa, +sa, mlp, +mlp, each [B, tokens
        of that block, D], and token_learner where a block has one;
      * token_learner, if any, that of the first such block: maps [B, S, N] and
        tokens [B, S, D];
      * encoded [B, tokens, D], of which, if `num_tokens` is traced, the rows
        of unused tokens mean nothing;
      * pre_logits [B, D or rep_size] float32 and, with classes, logits.

    Raises:
      ValueError: for images that are no [B, H, W, channels] floats, a patch
        size that does not divide them, or an impossible `num_tokens`.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        "Expected float images [B, H, W, channels] in [-1, 1], got"
        f" {images.dtype}{list(images.shape)}."
      )
    size = images.shape[1:3]
    if self.is_initializing() and patch_size is None:
      # Parameters depend on no patch size: the stored one need not divide the
      # image (as 32 does not 240) for them to be created.
      rests = [s % p for s, p in zip(size, self.patch_size, strict=True)]
      patch_size = size if any(rests) else self.patch_size
    grid = self.check(size, patch_size, num_tokens)
    out = {}
    x = out["stem"] = patch_embed.PatchEmbed(
      self.width, self.patch_size, dtype=self.dtype, name="embedding"
    )(images, patch_size)
    b, *_, d = x.shape

    if self.posemb == "learn":
      posemb = self.param(
        "pos_embedding",
        nn.initializers.normal(self.width**-0.5),
        (1, self.posemb_grid[0] * self.posemb_grid[1], d),
      )
      posemb = posembs.resize_posemb(posemb, self.posemb_grid, grid)
    else:
      posemb = posembs.sincos2d(grid, d)
    posemb = posemb.astype(self.dtype)
    x = out["with_posemb"] = x.reshape(b, -1, d) + posemb

    num_cls = int(self.pool == "tok")
    if num_cls:
      # It has no position, so that it is the same on every grid.
      cls = self.param("cls", nn.initializers.zeros, (1, 1, d))
      cls = jnp.broadcast_to(cls.astype(self.dtype), (b, 1, d))
      x = jnp.concatenate([cls, x], axis=1)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)

    x, mask, out["encoder"] = encoder.Encoder(
      self.depth,
      self.num_heads,
      self.mlp_dim,
      token_learner=self._config,
      dropout=self.dropout,
      stochastic_depth=self.stochastic_depth,
      dtype=self.dtype,
      remat=self.remat,
      name="Transformer",
    )(x, grid, num_cls, num_tokens, train)
    out["encoded"] = x
    if self.token_learner is not None:
      first = out["encoder"][f"block{self.token_learner['layer']:02d}"]
      out["token_learner"] = first["token_learner"]

    if self.pool == "map":
      x = blocks.MAPHead(self.num_heads, self.mlp_dim, dtype=self.dtype)(
        x, mask
      )
      x = x.astype(jnp.float32)
    elif self.pool == "tok":
      x = x[:, 0].astype(jnp.float32)
    else:
      where = None if mask is None else mask[None, :, None]
      x = jnp.mean(x, axis=1, dtype=jnp.float32, where=where)

    if self.rep_size:
      size = self.width if self.rep_size is True else self.rep_size
      x = nn.tanh(nn.Dense(size, name="pre_logits")(x))
    out["pre_logits"] = x
    if self.num_classes:
      init = nn.initializers.lecun_normal()
      x = out["logits"] = nn.Dense(
        self.num_classes,
        kernel_init=nn.initializers.zeros if self.head_zeroinit else init,
        bias_init=nn.initializers.constant(self.head_bias_init),
        name="head",
      )(x)
    return x, out
