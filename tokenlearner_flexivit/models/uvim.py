"""UViM (arXiv 2205.10337) on a ViT with both dials: its stage II.

Letters: B batch, H W image, h w grid, N tokens, S learned tokens, L length of
the code, K different codes, D width.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Bool, Float, Float32, Int, Key

from tokenlearner_flexivit.models import (
  checks,
  code_decoder,
  decoding,
  label_coder,
  tiling,
  vit,
)
from tokenlearner_flexivit.models.token_learner import NumTokens

# The name of stage I among the parameters.
CODER = "label_coder"
# A parameter of every decoder.
EMBEDDING = "code_decoder/EmbedTargets/embedding"
# Beginnings of the names of what is added to the image tower.
HEADS = ("code_decoder/", f"{CODER}/")


class UViM(vit.ViT):
  """A ViT and a decoder that predicts the code of an image's labels.

  The image tower is that of `ViT`, under the same names. The decoder attends to
  its encoded tokens: all patches, or the S tokens of a TokenLearner without a
  fuser, and a cls token if there is one. The code is that of a `LabelCoder`,
  stage I, whose parameters lie beside, so that one model answers with labels.

  Attributes:
    num_classes: None: there is no head for classes.
    coder: a mapping with the fields of `LabelCoder` but its dtype; None for
      codes alone.
    num_codes: K, and
    code_len: L, if there is no coder.
    decoder_depth: blocks of the decoder; None for those of the tower. Its
      `num_heads`, `mlp_dim`, `posemb`, `norm_eps` and `gelu` are the tower's.

  The others are those of `ViT`.
  """

  answers = "the code of an image's labels"

  coder: Any = None
  num_codes: int | None = None
  code_len: int | None = None
  decoder_depth: int | None = None

  def __post_init__(self):
    if self.num_classes is not None or self.rep_size:
      raise ValueError(
        f"num_classes={self.num_classes!r} and rep_size={self.rep_size!r} have "
        "no use in a UViM, which predicts codes. Leave them out."
      )
    checks.reads_patches(self, "A UViM")
    own = self.num_codes, self.code_len
    if self.coder is not None:
      self.coder = label_coder.all_fields(self.coder)
      coder = label_coder.LabelCoder(**self.coder, parent=None)
      fitting = coder.num_codes, coder.length
      if own not in ((None, None), fitting):
        raise ValueError(
          f"num_codes={own[0]} and code_len={own[1]}, but the coder has "
          f"{fitting[0]} codes and a length of {fitting[1]}. Leave them out."
        )
      self.num_codes, self.code_len = fitting
    else:
      for name, value in zip(("num_codes", "code_len"), own, strict=True):
        checks.whole(value, name)
    if self.decoder_depth is not None:
      checks.whole(self.decoder_depth, "decoder_depth")
    super().__post_init__()

  def cost(self, shape: Sequence[int], **setting: Any) -> int:
    """Returns the multiply-adds of an image, from its patches to its labels.

    Arguments are those of `protocol.Model.cost`.
    """
    size = shape[:-1]
    total = super().cost(shape, **setting)
    is_kept = self._keeps_grid(setting.get("num_tokens"))
    tokens = self.seq_len(size, **setting)
    if not is_kept:
      tokens = self.seq_lens(size, **setting)[-1]
    total += self._decoder(parent=None).cost(tokens)
    if self.coder is not None:
      coder = label_coder.LabelCoder(**self.coder, parent=None)
      total += coder.decoding_cost(shape)
    return total

  @nn.nowrap
  def _decoder(self, **options: Any) -> code_decoder.CodeDecoder:
    return code_decoder.CodeDecoder(
      self.num_codes,
      self.code_len,
      self.width,
      self.decoder_depth or self.depth,
      self.mlp_dim,
      self.num_heads,
      posemb=self.posemb,
      norm_eps=self.norm_eps,
      gelu=self.gelu,
      dtype=self.dtype,
      **options,
    )

  def setup(self):
    """Makes what is added to the tower."""
    self.code_decoder = self._decoder()
    if self.coder is not None:
      self.label_coder = label_coder.LabelCoder(**self.coder, dtype=self.dtype)

  def __call__(
    self,
    images: Float[ArrayLike, "B H W channels"],
    codes: Int[ArrayLike, "B L"] | None = None,
    *,
    patch_size: tiling.Size | None = None,
    num_tokens: NumTokens = None,
    train: bool = False,
  ) -> tuple[Array, dict[str, Any]]:
    """Predicts the code of an image's labels.

    Args:
      images: in [-1, 1].
      codes: from 0 on; each word is then predicted from those before it.
      patch_size: int or (int, int), static; None means the stored size.
      num_tokens: as in `ViT`.
      train: whether dropout and stochastic depth are active, in the image tower
        alone.

    Returns:
      logits [B, L, K + 1] float32, of which the first is that of the token that
      begins a code; without codes, the codes [B, L] that are decoded greedily,
      and the intermediates of `ViT` with

      * memory [B, tokens, D], which the decoder attends to, and memory_mask,
        None if it attends to all;
      * without codes, decoded: a `decoding.Decoded`.

    Raises:
      ValueError: for what `ViT` refuses.
    """
    _, out = super().__call__(
      images, patch_size=patch_size, num_tokens=num_tokens, train=train
    )
    if self.is_initializing():
      if self.coder is not None:
        side = jnp.zeros((1, *self.label_coder.image_size, images.shape[-1]))
        self.label_coder(side)
      if codes is None:
        codes = jnp.zeros((images.shape[0], self.code_len), jnp.int32)
    memory = out["memory"], out["memory_mask"]
    if codes is not None:
      return self.code_decoder(codes, *memory), out
    out["decoded"] = self.decode(*memory)
    return out["decoded"].codes, out

  def decode(
    self,
    memory: Float[Array, "B N D"],
    mask: Bool[Array, " N"] | None = None,
    *,
    keys: Key[Array, " B"] | None = None,
    temperature: float = 0.0,
    prompt: Int[ArrayLike, "B L"] | None = None,
  ) -> decoding.Decoded:
    """Decodes codes, as `model.apply(..., method="decode")`.

    Args:
      memory: of a call.
      mask: of a call.
      keys: as `decoding.decode` takes them.
      temperature: as `decoding.decode` takes it.
      prompt: as `decoding.decode` takes it.
    """
    # A loop over a bound module would be one over its scope.
    decoder, variables = self.code_decoder.unbind()
    memories = decoder.apply(variables, memory, method="remember")
    first, cache = decoder.begin(memory.shape[0])

    def step(tokens, position, cache):
      return decoder.apply(
        variables, tokens, position, cache, memories, mask, method="step"
      )

    return decoding.decode(
      step,
      first,
      cache,
      self.code_len,
      keys=keys,
      temperature=temperature,
      prompt=prompt,
    )

  def encode_labels(
    self, images: Float[ArrayLike, "B H W channels"], labels: Any
  ) -> Int[Array, "B L"]:
    """Returns the code of labels, by `LabelCoder.encode`."""
    return self.label_coder.encode(images, labels)[1]["code"]

  def decode_labels(
    self,
    images: Float[ArrayLike, "B H W channels"],
    codes: Int[ArrayLike, "B L"],
  ) -> label_coder.Logits:
    """Returns the logits of labels, by `LabelCoder.decode_codes`."""
    return self.label_coder.decode_codes(images, codes)[0]

  @nn.nowrap
  def _head(
    self,
    x: Float[Array, "B encoded D"],
    mask: Bool[Array, " encoded"] | None,
    out: dict[str, Any],
    num_tokens: NumTokens,
    train: bool,
  ) -> tuple[Float32[Array, "B D"], dict[str, Any]]:
    """Returns the pooled tokens, and all intermediates."""
    out["pre_logits"] = self._pooled(x, mask)
    out["memory"], out["memory_mask"] = x, mask
    return out["pre_logits"], out
