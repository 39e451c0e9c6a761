"""A ViT with both dials beside a transformer for texts (CLIP, LiT, SigLIP).

Letters: B batch, H W image, M texts, L text length, D width, E width of the
embeddings.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import core
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Bool, Float, Float32, Int

from tokenlearner_flexivit.models import (
  checks,
  layer_costs,
  text_transformer,
  tiling,
  vit,
)
from tokenlearner_flexivit.models.token_learner import NumTokens

# The beginning of the names of the text tower, and the parameters of neither.
TEXT = "txt/"
SCALARS = ("t", "b")
# Added to lengths, as big_vision does.
_NORM_EPS = 1e-8


class TwoTowers(vit.ViT):
  """Embeds images and texts in one space, where directions tell what they say.

  The image tower is that of `ViT`, under the same names, so that its weights
  fit and its dials work; the text tower is `txt`. A pair's logit is t times the
  product of its embeddings, plus b if there is one; `t` [1] is stored as its
  logarithm.

  Attributes:
    num_classes: E, features of a dense layer `head` after the image tower. None
      for no such layer, as for a locked tower (LiT): then E is D or `rep_size`.
    text: a mapping with the fields of `TextTransformer`, and a variant if
      wanted. If it leaves embed_dim out, that is E; norm_eps and gelu are then
      those of the image tower. dtype is that of both towers.
    temperature_init: initial value of the factor t.
    bias_init: initial value of the bias b, which a sigmoid loss needs; None for
      no bias.
    head_zeroinit: must stay False: a vector of zeros has no direction.

  The others are those of `ViT`.
  """

  answers = "embeddings to compare with those of texts"

  head_zeroinit: bool = False
  text: Any = None
  temperature_init: float = 10.0
  bias_init: float | None = None

  def __post_init__(self):
    if self.head_zeroinit is not False:
      raise ValueError(
        f"head_zeroinit={self.head_zeroinit!r}: embeddings of zero have no"
        " direction, and their gradients are NaN. Leave it at False."
      )
    checks.number(self.temperature_init, "temperature_init")
    if self.temperature_init <= 0:
      raise ValueError(
        "temperature_init is a factor and must be above 0, got"
        f" {self.temperature_init}."
      )
    if self.bias_init is not None:
      checks.number(self.bias_init, "bias_init")
    self.text = self._complete(self.text)
    super().__post_init__()

  @property
  def embed_dim(self) -> int:
    """Returns E."""
    rep_size = self.width if self.rep_size is True else self.rep_size
    return self.num_classes or rep_size or self.width

  @nn.nowrap
  def _complete(self, text: Mapping[str, Any] | None) -> core.FrozenDict:
    """Returns all arguments of the text tower but its dtype."""
    fields = text_transformer.all_fields(
      text, embed_dim=self.embed_dim, norm_eps=self.norm_eps, gelu=self.gelu
    )
    features = fields["embed_dim"] or fields["width"]
    if features != self.embed_dim:
      source = "num_classes of its head" if self.num_classes else "no head"
      raise ValueError(
        f"Texts have embeddings of {features} features"
        f" (text.embed_dim={fields['embed_dim']}), images of {self.embed_dim}"
        f" ({source}). Leave embed_dim out, or give the image tower a head of"
        " as many num_classes."
      )
    return fields

  def setup(self):
    """Makes what both methods below use."""
    self.txt = text_transformer.TextTransformer(**self.text, dtype=self.dtype)
    log_t = nn.initializers.constant(math.log(self.temperature_init))
    self.t = self.param("t", log_t, (1,))
    if self.bias_init is not None:
      self.b = self.param("b", nn.initializers.constant(self.bias_init), (1,))

  def __call__(
    self,
    images: Float[ArrayLike, "B H W channels"],
    texts: Int[ArrayLike, "M L"] | None = None,
    *,
    patch_size: tiling.Size | None = None,
    num_tokens: NumTokens = None,
    train: bool = False,
  ) -> tuple[Float32[Array, "B E"], dict[str, Any]]:
    """Embeds images, and texts if there are some.

    Args:
      images: in [-1, 1].
      texts: numbers of tokens.
      patch_size: int or (int, int), static; None means the stored size.
      num_tokens: as in `ViT`.
      train: whether dropout and stochastic depth are active, in the image tower
        alone.

    Returns:
      embeddings of the images, of length one, and the intermediates of `ViT`
      (pre_logits is the pooled image) with

      * img_norm [B, 1], lengths before they were divided by;
      * t [1], the factor itself, and b [1] if there is one;
      * with texts, ztxt [M, E] float32, of length one, txt_norm [M, 1], and
        txt, the intermediates of `TextTransformer`.

    Raises:
      ValueError: for what `ViT` or `TextTransformer` refuse.
    """
    if texts is None and self.is_initializing():
      # Both towers get parameters from images alone.
      texts = jnp.zeros((1, self.text["max_len"]), jnp.int32)
    zimg, out = super().__call__(
      images, patch_size=patch_size, num_tokens=num_tokens, train=train
    )
    if texts is not None:
      out["ztxt"], about_texts = self.embed_texts(texts, train)
      out |= about_texts
    return zimg, out | self._scalars()

  def embed_texts(
    self, texts: Int[ArrayLike, "M L"], train: bool = False
  ) -> tuple[Float32[Array, "M E"], dict[str, Any]]:
    """Embeds texts, as `model.apply(..., method="embed_texts")`.

    Args:
      texts: numbers of tokens.
      train: has no effect: nothing is dropped in the text tower.

    Returns:
      embeddings of length one, and txt_norm, txt, t and b of a call.

    Raises:
      ValueError: for what `TextTransformer` refuses.
    """
    del train
    z, intermediates = self.txt(texts)
    ztxt, norm = _direction(z)
    return ztxt, dict(txt_norm=norm, txt=intermediates) | self._scalars()

  def text_cost(self, length: int) -> int:
    """Returns the multiply-adds of a text of so many tokens.

    Args:
      length: L; above 0, and at most that of the positions.
    """
    return layer_costs.text(self.text, length).macs

  @nn.nowrap
  def _scalars(self) -> dict[str, Float32[Array, " 1"]]:
    scalars = {"t": jnp.exp(self.t)}
    if self.bias_init is not None:
      scalars["b"] = self.b
    return scalars

  @nn.nowrap
  def _head(
    self,
    x: Float[Array, "B encoded D"],
    mask: Bool[Array, " encoded"] | None,
    out: dict[str, Any],
    num_tokens: NumTokens,
    train: bool,
  ) -> tuple[Float32[Array, "B E"], dict[str, Any]]:
    """Returns the embeddings of the images, and all intermediates."""
    z, out = super()._head(x, mask, out, num_tokens, train)
    # They are no logits.
    out.pop("logits", None)
    zimg, out["img_norm"] = _direction(z)
    return zimg, out


def is_beside_images(name: str) -> bool:
  """Tells whether a parameter is that of the text tower or of the logits."""
  return name.startswith(TEXT) or name in SCALARS


def _direction(
  z: Float32[Array, "n E"],
) -> tuple[Float32[Array, "n E"], Float32[Array, "n 1"]]:
  """Returns vectors of length one, and the lengths that they had."""
  norm = jnp.linalg.norm(z, axis=1, keepdims=True)
  return z / (norm + _NORM_EPS), norm
