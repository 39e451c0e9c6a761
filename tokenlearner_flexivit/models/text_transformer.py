"""A transformer for texts, the text tower of big_vision, SigLIP and CLIP.

Letters: M texts, L text length, D width, E width of the embedding.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax.numpy as jnp
from flax import core
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float, Float32, Int

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models import (
  blocks,
  checks,
  plain_encoder,
  variants,
)

POOLS = ("last", "first", "mean", "max", "map", "eot")
# Arguments without a default, and what they are.
_NEEDED = {
  "vocab_size": "the number of different tokens",
  "max_len": "the number of tokens of a text",
}


class TextTransformer(nn.Module):
  """Represents texts, given as the numbers of their tokens.

  Parameters have big_vision's names, but its blocks `encoderblock_0`, ... are
  called `block_0`, ...: those of an image tower go by the former. As in
  big_vision every token attends to every other, padding included, so texts of
  one meaning need the padding that the model was trained with.

  Attributes:
    vocab_size: number of different tokens.
    max_len: L of the position embedding; shorter texts take its beginning.
    width: D.
    depth: number of blocks.
    mlp_dim: hidden features of the MLPs.
    num_heads: attention heads, a divisor of `width`.
    embed_dim: E, features of the dense layer `head` after the pooling; None for
      no such layer.
    pool: which token represents a text: the "last" (SigLIP), whose token is to
      be the end token of every text, the "first", or "eot", that of the end
      token (CLIP); or the "mean" or maximum ("max") over all, or pooling by
      attention ("map").
    end_id: the end token that "eot" looks for; its first occurrence counts, and
      without any the first token. None for the largest number in the text, as
      OpenAI's CLIP does.
    causal: whether a token attends to itself and to those before it alone.
    norm_eps: added to the variance in LayerNorm.
    gelu: activation of the MLPs, see `ViT`.
    dtype: of the computation. Parameters, LayerNorm statistics, softmax,
      pooling and head are float32.
  """

  vocab_size: int
  max_len: int
  width: int = 512
  depth: int = 12
  mlp_dim: int = 2048
  num_heads: int = 8
  embed_dim: int | None = None
  pool: str = "last"
  end_id: int | None = None
  causal: bool = False
  norm_eps: float = blocks.LAYER_NORM_EPS
  gelu: str = "tanh"
  dtype: Any = "float32"

  @classmethod
  def from_variant(
    cls,
    variant: str | None = None,
    *,
    name: str | None = None,
    **overrides: Any,
  ) -> Self:
    """Builds a text tower from a name such as "B".

    Args:
      variant: a size that `variants` knows, or None.
      name: of the module within another one; see `flax.linen.Module`.
      **overrides: constructor arguments; they beat those of the variant.

    Raises:
      ValueError: for an unknown variant or argument, listing those known, or
        without a vocabulary or a length.
    """
    return cls(**arguments(variant, **overrides), name=name)

  def __post_init__(self):
    sizes = ("width", "depth", "mlp_dim", "num_heads")
    for name in (*_NEEDED, *sizes):
      checks.whole(getattr(self, name), name)
    if self.embed_dim is not None:
      checks.whole(self.embed_dim, "embed_dim")
    if self.width % self.num_heads:
      raise ValueError(
        f"width={self.width} is not divisible by num_heads={self.num_heads}."
      )
    checks.choice(self.pool, "pool", POOLS)
    if self.end_id is not None:
      checks.whole(self.end_id, "end_id", least=0)
      if self.pool != "eot":
        raise ValueError(
          f"end_id={self.end_id} has no use with pool={self.pool!r}. Set"
          " pool='eot' or no end_id."
        )
    checks.boolean(self.causal, "causal")
    checks.number(self.norm_eps, "norm_eps")
    if self.norm_eps <= 0:
      raise ValueError(f"norm_eps must be above 0, got {self.norm_eps}.")
    checks.choice(self.gelu, "gelu", tuple(blocks.GELUS))
    self.dtype = checks.dtype(self.dtype)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, texts: Int[ArrayLike, "M L"]
  ) -> tuple[Float32[Array, "M features"], dict[str, Any]]:
    """Represents texts.

    Args:
      texts: numbers of tokens, below `vocab_size`.

    Returns:
      embeddings, of E features or of D without a head, and the intermediates

      * embedded [M, L, D];
      * encoder: per block ("block00", ...) sa, +sa, mlp, +mlp;
      * transformed [M, L, D], after the last norm;
      * pre_logits [M, D] float32, the pooled tokens.

    Raises:
      ValueError: for texts that are not [M, L] whole numbers, or too long.
    """
    texts = jnp.asarray(texts)
    if texts.ndim != 2 or not jnp.issubdtype(texts.dtype, jnp.integer):
      raise ValueError(
        "Expected texts as whole numbers [M, L], got"
        f" {texts.dtype}{list(texts.shape)}."
      )
    length = texts.shape[1]
    if not 0 < length <= self.max_len:
      raise ValueError(
        f"Texts of {length} tokens do not fit the positions of the model, for 1"
        f" to max_len={self.max_len} tokens. Tokenize to that length."
      )
    x = nn.Embed(self.vocab_size, self.width, dtype=self.dtype, name="Embed_0")(
      texts
    )
    out = {"embedded": x}
    posemb = self.param(
      "pos_embedding",
      nn.initializers.normal(self.width**-0.5),
      (1, self.max_len, self.width),
    )
    x = x + posemb[:, :length].astype(self.dtype)
    x, out["encoder"] = plain_encoder.PlainEncoder(
      self.depth,
      dict(
        num_heads=self.num_heads,
        mlp_dim=self.mlp_dim,
        dtype=self.dtype,
        norm_eps=self.norm_eps,
        gelu=self.gelu,
        causal=self.causal,
      ),
      name="Encoder_0",
    )(x)
    out["transformed"] = x
    x = out["pre_logits"] = self._pooled(x, texts).astype(jnp.float32)
    if self.embed_dim is not None:
      x = nn.Dense(self.embed_dim, name="head")(x)
    return x, out

  @nn.nowrap
  def _pooled(
    self, x: Float[Array, "M L D"], texts: Int[Array, "M L"]
  ) -> Float[Array, "M D"]:
    if self.pool == "last":
      return x[:, -1]
    if self.pool == "first":
      return x[:, 0]
    if self.pool == "mean":
      return jnp.mean(x, axis=1, dtype=jnp.float32)
    if self.pool == "max":
      return jnp.max(x, axis=1)
    if self.pool == "map":
      return blocks.MAPHead(
        self.num_heads,
        self.mlp_dim,
        dtype=self.dtype,
        norm_eps=self.norm_eps,
        gelu=self.gelu,
        name="MAPHead_0",
      )(x)
    at_end = texts if self.end_id is None else texts == self.end_id
    # Of equal ones argmax takes the first.
    position = jnp.argmax(at_end, axis=1)
    return jnp.take_along_axis(x, position[:, None, None], axis=1)[:, 0]


def arguments(variant: str | None = None, **overrides: Any) -> dict[str, Any]:
  """Returns the constructor arguments that `TextTransformer.from_variant` uses.

  Arguments and errors are those of `TextTransformer.from_variant`.
  """
  known = {f.name for f in dataclasses.fields(TextTransformer)}
  known = {"variant", *known} - {"parent", "name"}
  configuration.check_keys(overrides, known, TextTransformer.__name__)
  defaults = variants.decode_text_variant(variant) if variant else {}
  result = defaults | overrides
  missing = [name for name in _NEEDED if result.get(name) is None]
  if missing:
    meanings = [f"{name}, {_NEEDED[name]}" for name in missing]
    raise ValueError(
      f"A text tower needs {', and '.join(meanings)}. Its tokenizer tells."
    )
  return result


def all_fields(
  text: Mapping[str, Any] | None, **inherited: Any
) -> core.FrozenDict:
  """Returns the checked fields of a text tower beside an image tower.

  Args:
    text: a mapping with the fields of `TextTransformer` but its dtype, and a
      variant if wanted.
    **inherited: values of fields that it leaves out.

  Raises:
    ValueError: it is no mapping, sets dtype, or has an impossible value.
  """
  try:
    text = dict(text)
  except (TypeError, ValueError):
    raise ValueError(
      f"text={text!r} must be a mapping with the fields of TextTransformer,"
      " such as dict(variant='S', vocab_size=32000, max_len=64)."
    ) from None
  if "dtype" in text:
    raise ValueError(
      f"text.dtype={text['dtype']!r}: both towers compute in the same dtype."
      " Set dtype of the model."
    )
  # Without a parent it is not made a part of a module that calls this one.
  tower = TextTransformer(**arguments(**(inherited | text)), parent=None)
  hidden = ("parent", "name", "dtype")
  return core.FrozenDict(
    {
      field.name: getattr(tower, field.name)
      for field in dataclasses.fields(tower)
      if field.name not in hidden
    }
  )
