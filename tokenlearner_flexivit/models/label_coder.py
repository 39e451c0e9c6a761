"""Stage I of UViM (arXiv 2205.10337): panoptic labels as a short code.

Letters: B batch, H W image, h w grid, N = h w patches, p pixels of a patch,
L length of the code, C labels of pixels, I instances, D width, d features of a
word.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float, Float32, Int, Int32

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models import (
  coder_hyperparameters,
  fsq,
  label_patches,
  patch_embed,
  plain_encoder,
  vector_quantizer,
)
from tokenlearner_flexivit.models import posemb as posembs

# The maps of an example: classes, of which 0 is void, and instances.
MAPS = ("semantics", "instances")
# A parameter that every coder has, whose first axis is that of the labels.
KERNEL = "embedding_semantics/kernel"
# The parameters that hold a codebook, as `vector_quantizer.Codebook` has them.
CODEBOOK = "codebook"

Logits = dict[str, Float32[Array, "B N kinds p"]]


class LabelCoder(coder_hyperparameters.CoderHyperparameters):
  """An autoencoder of label maps with a discrete code, beside the image.

  Label maps are cut into patches and embedded as one-hot vectors. An encoder
  sees them with the image, and becomes L vectors, which are quantized: the
  code. A decoder sees these with the image and gives logits for the pixels. All
  is done at one size and one patch size.

  Parameters have big_vision's names, but blocks are called `block_i`, and the
  codebook of "vq" is a parameter, `codebook`, that has no gradient:
  `tasks.panoptic_code` moves it.

  Attributes:
    num_labels: C, with void, which is 0.
    num_instances: I, with that of void, which is 0.
    width: D.
    encoder_depth: blocks before the code.
    decoder_depth: blocks after it.
    mlp_dim: hidden features of the MLPs.
    num_heads: attention heads, a divisor of `width`.
    patch_size: int or (height, width), of labels and image.
    posemb_grid: int or (h, w): the grid of patches, which with the patch size
      is the size of the image.
    posemb: "learn" or "sincos2d".
    code_grid: int or (h, w) of the code, to which the grid is resized
      bilinearly, as published.
    code_len: L, where two matrices lead to the code and back instead.
    quantizer: "fsq", or "vq" as published.
    levels: of the features of a word, for "fsq".
    num_words: words of the codebook, for "vq".
    word_dim: d, for "vq"; None for D.
    encoder_context: whether the encoder sees the image.
    decoder_context: whether the decoder sees the image.
    code_dropout: what training leaves out of the code: nothing ("none"), a
      random share of it at its end ("ordered") or anywhere ("random").
    head_zeroinit: whether the heads' kernels start at zero.
    dtype: of the computation. Parameters, LayerNorm statistics, softmax, the
      quantization and the heads are float32.
  """

  def setup(self):
    """Makes what encoding and decoding use."""
    d, cells = self.width, math.prod(self.patch_size)
    kinds = {"semantics": self.num_labels, "instances": self.num_instances}
    head_init = nn.initializers.lecun_normal()
    if self.head_zeroinit:
      head_init = nn.initializers.zeros
    self.embeddings = {
      key: nn.DenseGeneral(
        d, axis=(-2, -1), dtype=self.dtype, name=f"embedding_{key}"
      )
      for key in kinds
    }
    self.heads = {
      key: nn.DenseGeneral(
        (number, cells), kernel_init=head_init, name=f"head_{key}"
      )
      for key, number in kinds.items()
    }
    self.contexts = {
      key: patch_embed.PatchEmbed(
        d, self.patch_size, dtype=self.dtype, name=f"ctx_{key}_embedding"
      )
      for key, has in (
        ("enc", self.encoder_context),
        ("dec", self.decoder_context),
      )
      if has
    }
    block = dict(
      num_heads=self.num_heads, mlp_dim=self.mlp_dim, dtype=self.dtype
    )
    self.encoder = plain_encoder.PlainEncoder(self.encoder_depth, block)
    self.decoder = plain_encoder.PlainEncoder(self.decoder_depth, block)
    n = math.prod(self.posemb_grid)
    if self.posemb == "learn":
      init = nn.initializers.normal(d**-0.5)
      self.positions = {
        key: self.param(f"pos_embedding_{key}", init, (1, n, d))
        for key in ("encoder", "decoder")
      }
    else:
      waves = posembs.sincos2d(self.posemb_grid, d)
      self.positions = {"encoder": waves, "decoder": waves}
    if self.code_len is not None:
      init = nn.initializers.xavier_uniform()
      self.down = self.param("bottleneck_downsample", init, (n, self.length))
      self.up = self.param("bottleneck_upsample", init, (self.length, n))
    is_fsq = self.quantizer == "fsq"
    word_dim = len(self.levels) if is_fsq else self._word_dim
    self.encoder_head = nn.Dense(word_dim)
    self.decoder_stem = nn.Dense(d, dtype=self.dtype)
    if not is_fsq:
      self.codebook = _Codebook(self.num_words, word_dim, name=CODEBOOK)

  def __call__(
    self,
    images: Float[ArrayLike, "B H W channels"],
    labels: Mapping[str, Int[ArrayLike, "B H W"]] | None = None,
    *,
    train: bool = False,
  ) -> tuple[Logits, dict[str, Any]]:
    """Encodes and decodes label maps.

    Args:
      images: in [-1, 1].
      labels: the maps `semantics` and `instances`; other numbers than those
        known, such as -1, are pixels without a label.
      train: whether code is dropped.

    Returns:
      logits of both maps, by patch, and in it by pixel, row by row; and the
      intermediates of `encode` and `decode`.

    Raises:
      ValueError: there are no labels, or images of another size.
    """
    if labels is None:
      if not self.is_initializing():
        raise ValueError(
          "A LabelCoder encodes labels, and there are none. The model 'uvim', "
          "the second stage, answers to an image alone."
        )
      nothing = jnp.zeros(images.shape[:3], jnp.int32)
      labels = dict.fromkeys(MAPS, nothing)
    quantized, out = self.encode(images, labels)
    logits, decoded = self.decode(images, quantized, train=train)
    return logits, out | decoded

  def encode(
    self,
    images: Float[ArrayLike, "B H W channels"],
    labels: Mapping[str, Int[ArrayLike, "B H W"]],
  ) -> tuple[Float32[Array, "B L d"], dict[str, Any]]:
    """Encodes label maps, as `model.apply(..., method="encode")`.

    Returns:
      quantized vectors, and the intermediates stem (by map [B, N, D]), encoder,
      bottleneck [B, L, d], vectors before they are quantized, and code [B, L].
    """
    self.check(images.shape[1:3])
    out = {"stem": {}}
    for key in MAPS:
      kinds = self.num_labels if key == "semantics" else self.num_instances
      pixels = label_patches.patches(labels[key], self.patch_size)
      pixels = jax.nn.one_hot(pixels, kinds, axis=-2, dtype=self.dtype)
      out["stem"][key] = self.embeddings[key](pixels)
    x = out["stem"]["semantics"] + out["stem"]["instances"]
    if self.encoder_context:
      x = x + self._context("enc", images)
    x = x + self.positions["encoder"].astype(self.dtype)
    x, out["encoder"] = self.encoder(x)
    x = x.astype(jnp.float32)
    if self.code_grid is None:
      x = jnp.einsum("bnd,nl->bld", x, self.down)
    else:
      x = label_patches.resized(x, self.posemb_grid, self.code_grid)
    x = self.encoder_head(x)
    if self.quantizer == "fsq":
      out["bottleneck"] = fsq.bound(x, self.levels)
      x = fsq.quantize(x, self.levels)
      out["code"] = fsq.to_codes(x, self.levels)
    else:
      x = out["bottleneck"] = jax.nn.standardize(x)
      x, out["code"] = vector_quantizer.nearest(x, self.codebook().words())
    return x, out

  def decode(
    self,
    images: Float[ArrayLike, "B H W channels"],
    quantized: Float32[ArrayLike, "B L d"],
    *,
    train: bool = False,
  ) -> tuple[Logits, dict[str, Any]]:
    """Decodes quantized vectors, as `model.apply(..., method="decode")`.

    Returns:
      logits of both maps [B, N, C, p] and [B, N, I, p], and the intermediates
      decoder and pre_logits [B, D], the mean of the decoded patches.
    """
    self.check(images.shape[1:3])
    out, x = {}, quantized
    if train and self.code_dropout != "none":
      x = x * self._kept(x.shape[0])[..., None]
    x = self.decoder_stem(x)
    if self.code_grid is None:
      x = jnp.einsum("bld,ln->bnd", x, self.up.astype(self.dtype))
    else:
      x = label_patches.resized(x, self.code_grid, self.posemb_grid)
    if self.decoder_context:
      x = x + self._context("dec", images)
    x = x + self.positions["decoder"].astype(self.dtype)
    x, out["decoder"] = self.decoder(x)
    x = x.astype(jnp.float32)
    out["pre_logits"] = x.mean(axis=1)
    return {key: self.heads[key](x) for key in MAPS}, out

  def decode_codes(
    self,
    images: Float[ArrayLike, "B H W channels"],
    codes: Int32[ArrayLike, "B L"],
  ) -> tuple[Logits, dict[str, Any]]:
    """Decodes codes, as `model.apply(..., method="decode_codes")`."""
    if self.quantizer == "fsq":
      return self.decode(images, fsq.from_codes(codes, self.levels))
    return self.decode(images, self.codebook().words()[codes])

  @nn.nowrap
  def _context(
    self, key: str, images: Float[ArrayLike, "B H W channels"]
  ) -> Float[Array, "B N {self.width}"]:
    x = self.contexts[key](images)
    return x.reshape(x.shape[0], -1, self.width)

  @nn.nowrap
  def _kept(self, batch: int) -> Float32[Array, "{batch} L"]:
    """Returns 0 for words that training leaves out, else 1.

    A threshold is drawn for each example, so that all shares are as likely.
    """
    key, order = jax.random.split(self.make_rng("dropout"))
    importance = jnp.linspace(1.0, 0.0, self.length + 2)[1:-1]
    threshold = jax.random.uniform(key, (batch, 1))
    kept = (importance[None] > threshold).astype(jnp.float32)
    if self.code_dropout == "random":
      kept = jax.random.permutation(order, kept, axis=1, independent=True)
    return kept


class _Codebook(nn.Module):
  """The parameters of a codebook."""

  num_words: int
  word_dim: int

  @nn.compact
  def __call__(self) -> vector_quantizer.Codebook:
    init = nn.initializers.normal(self.num_words**-0.5)
    shape = self.num_words, self.word_dim
    book = vector_quantizer.Codebook(
      self.param("dictionary", init, shape),
      self.param("counts", nn.initializers.ones, shape[:1]),
    )
    return jax.lax.stop_gradient(book)


def all_fields(coder: Any) -> core.FrozenDict:
  """Returns the checked fields of a coder that is part of another model.

  Args:
    coder: a mapping with the fields of `LabelCoder` but its dtype.

  Raises:
    ValueError: it is no mapping, sets dtype, or has an impossible value.
  """
  try:
    coder = dict(coder)
  except (TypeError, ValueError):
    raise ValueError(
      f"coder={coder!r} must be a mapping with the fields of LabelCoder."
    ) from None
  if "dtype" in coder:
    raise ValueError(
      f"coder.dtype={coder['dtype']!r}: a coder computes in the dtype of the "
      "model that it is part of. Set dtype of the model."
    )
  known = {f.name for f in dataclasses.fields(LabelCoder)}
  configuration.check_keys(coder, known - {"parent", "name"}, "LabelCoder")
  # Without a parent it is not made a part of a module that calls this one.
  built = LabelCoder(**coder, parent=None)
  hidden = ("parent", "name", "dtype")
  return core.FrozenDict(
    {
      field.name: getattr(built, field.name)
      for field in dataclasses.fields(built)
      if field.name not in hidden
    }
  )
