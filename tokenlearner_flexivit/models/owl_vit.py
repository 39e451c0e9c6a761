"""OWL-ViT (arXiv 2205.06230) on a ViT with both dials.

Letters: B batch, H W image, h w grid, N predictions, Q queries, L text length,
S learned tokens, D width, E width of the queries.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Bool, Float, Float32, Int

from tokenlearner_flexivit.models import (
  blocks,
  checks,
  detection_heads,
  layer_costs,
  protocol,
  text_transformer,
  tiling,
  vit,
)
from tokenlearner_flexivit.models.token_learner import NumTokens

# Beginnings of the names of what is added to the towers.
HEADS = ("merged_class_token/", "box_head/", "class_head/")

Answer = dict[str, jax.Array]


class OwlViT(vit.ViT):
  """A ViT whose every token predicts a box, and what is in it.

  The image tower is that of `ViT`, under the same names. What is in a box is
  told by comparison with queries: texts, embedded by the text tower `txt`, or
  embeddings of predictions for other images.

  With a cls token (`pool="tok"`) each token is multiplied by it and
  normalised, as published; other towers go without. TokenLearner with its fuser
  keeps the patches. Without a fuser its S tokens are slots for things: a box
  then begins at the centre of what its token is taken from.

  Attributes:
    num_classes: None: there is no head for classes.
    text: a mapping with the fields of `TextTransformer`, and a variant if
      wanted; its `embed_dim`, or else its width, is E. Without norm_eps and
      gelu they are those of the image tower.
    size_bias: "each" or "width", see `detection_heads.box_bias`.
    box_gelu: activation of the box head, see `ViT`.
    merge_eps: added to the variance in the LayerNorm of merged tokens.

  The others are those of `ViT`.
  """

  text: Any = None
  size_bias: str = "each"
  box_gelu: str = "tanh"
  merge_eps: float = blocks.LAYER_NORM_EPS

  def __post_init__(self):
    if self.num_classes is not None or self.rep_size:
      raise ValueError(
        f"num_classes={self.num_classes!r} and rep_size={self.rep_size!r} have "
        "no use in an OwlViT, which compares boxes with queries. Leave them "
        "out."
      )
    checks.reads_patches(self, "An OwlViT")
    checks.choice(self.size_bias, "size_bias", detection_heads.SIZE_BIASES)
    checks.choice(self.box_gelu, "box_gelu", tuple(blocks.GELUS))
    checks.number(self.merge_eps, "merge_eps")
    self.text = text_transformer.all_fields(
      self.text, norm_eps=self.norm_eps, gelu=self.gelu
    )
    super().__post_init__()

  @property
  def embed_dim(self) -> int:
    """Returns E."""
    return self.text["embed_dim"] or self.text["width"]

  def cost(self, shape: Sequence[int], **setting: Any) -> int:
    """Returns the multiply-adds for an image, by XLA, without those of texts.

    Arguments are those of `protocol.Model.cost`.
    """
    return protocol.Model.cost(self, shape, **setting)

  @nn.nowrap
  def text_cost(self, length: int) -> int:
    """Returns the multiply-adds of a text of so many tokens."""
    return layer_costs.text(self.text, length).macs

  def setup(self):
    """Makes what both methods below use."""
    self.txt = text_transformer.TextTransformer(**self.text, dtype=self.dtype)

  def __call__(
    self,
    images: Float[ArrayLike, "B H W channels"],
    texts: Int[ArrayLike, "Q L"] | None = None,
    *,
    patch_size: tiling.Size | None = None,
    num_tokens: NumTokens = None,
    train: bool = False,
  ) -> tuple[Answer, dict[str, Any]]:
    """Finds things in images.

    Args:
      images: in [-1, 1].
      texts: numbers of tokens, queries for all images.
      patch_size: int or (int, int), static; None means the stored size.
      num_tokens: as in `ViT`. If it is traced, slots that are not in use have
        the logit -1e6 for every query, and a `shift` of so much.
      train: whether dropout and stochastic depth are active, in the image tower
        alone.

    Returns:
      a dict of arrays, float32, and the intermediates of `ViT`:

      * boxes [B, N, 4], centre x and y, width, height in shares of the image;
      * embedding [B, N, E], shift [B, N] and scale [B, N], from which
        `detection_heads.class_logits` computes the logits of any queries;
      * with texts, logits [B, N, Q].

    Raises:
      ValueError: for what `ViT` or `TextTransformer` refuse.
    """
    if texts is None and self.is_initializing():
      # Both towers get parameters from images alone.
      texts = jnp.zeros((1, self.text["max_len"]), jnp.int32)
    answer, out = super().__call__(
      images, patch_size=patch_size, num_tokens=num_tokens, train=train
    )
    if texts is not None:
      queries, out["txt"] = self.embed_texts(texts)
      answer["logits"] = detection_heads.class_logits(answer, queries)
    return answer, out

  def embed_texts(
    self, texts: Int[ArrayLike, "Q L"]
  ) -> tuple[Float32[Array, "Q E"], dict[str, Any]]:
    """Embeds queries, as `model.apply(..., method="embed_texts")`.

    Args:
      texts: numbers of tokens.

    Returns:
      embeddings, of any length, and the intermediates of `TextTransformer`.
    """
    return self.txt(texts)

  @nn.nowrap
  def _head(
    self,
    x: Float[Array, "B encoded D"],
    mask: Bool[Array, " encoded"] | None,
    out: dict[str, Any],
    num_tokens: NumTokens,
    train: bool,
  ) -> tuple[Answer, dict[str, Any]]:
    """Returns the answer without logits, and all intermediates."""
    out["pre_logits"] = self._pooled(x, mask)
    num_prefix = self.num_prefix
    tokens = x[:, num_prefix:]
    if self.has_cls:
      tokens = blocks.layer_norm(
        self.dtype, "merged_class_token", self.merge_eps
      )(tokens * x[:, :1])
    out["merged"] = tokens
    if self._keeps_grid(num_tokens):
      bias = detection_heads.box_bias(out["stem"].shape[1:3], self.size_bias)
      bias = jnp.asarray(bias)
    else:
      maps = out["token_learner"]["maps"]
      in_use = None if mask is None else mask[num_prefix:].sum()
      bias = detection_heads.slot_bias(maps, out["stem"].shape[1:3], in_use)
    boxes = detection_heads.BoxHead(
      self.box_gelu, dtype=self.dtype, name="box_head"
    )(tokens, bias)
    classes = detection_heads.ClassHead(self.embed_dim, name="class_head")(
      tokens
    )
    if mask is not None:
      in_use = mask[None, num_prefix:]
      unused = detection_heads.NO_QUERY
      classes["shift"] = jnp.where(in_use, classes["shift"], unused)
      classes["scale"] = jnp.where(in_use, classes["scale"], 1)
    return {"boxes": boxes, **classes}, out
