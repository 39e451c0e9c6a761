"""The mask transformer of Segmenter (arXiv 2105.05633, Section 3.2).

Letters: B batch, N tokens, M patches, C classes, D width.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32

from tokenlearner_flexivit.models import blocks


class MaskTransformer(nn.Module):
  """Decodes tokens together with class embeddings; masks are their products.

  Of the parameters that are no kernels by name, weight decay concerns
  `proj_patch` and `proj_classes`, and not `cls_emb`, as in Segmenter's code
  (its published recipe has no decay).

  Attributes:
    num_classes: C.
    depth: number of blocks.
    num_heads: attention heads.
    mlp_dim: hidden features of the MLPs.
    dropout: rate.
    dtype: of the computation; masks are float32.
    norm_eps: added to the variance in LayerNorm.
    gelu: a key of `blocks.GELUS`.
  """

  num_classes: int
  depth: int
  num_heads: int
  mlp_dim: int
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32
  norm_eps: float = blocks.LAYER_NORM_EPS
  gelu: str = "tanh"

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "B N D"],
    patches: Float[Array, "B M D"] | None = None,
    mask: Bool[Array, " N"] | None = None,
    train: bool = False,
  ) -> Float32[Array, "B out C"]:
    """Returns the logit of each class at each patch.

    Args:
      tokens: that the class embeddings are decoded with.
      patches: where the masks are wanted, if not at the tokens themselves.
      mask: False for tokens that no other attends to.
      train: whether dropout is active.
    """
    b, n, d = tokens.shape
    classes = self.param(
      "cls_emb",
      nn.initializers.truncated_normal(0.02),
      (1, self.num_classes, d),
    )
    project = blocks.Dense(d, dtype=self.dtype, name="proj_dec")
    norm = blocks.layer_norm(self.dtype, "decoder_norm", self.norm_eps)
    classes = jnp.broadcast_to(
      classes.astype(self.dtype), (b, *classes.shape[1:])
    )
    x = jnp.concatenate([project(tokens), classes], axis=1)
    if mask is not None:
      mask = jnp.concatenate([mask, jnp.ones(self.num_classes, bool)])
    for i in range(self.depth):
      x, _ = blocks.Encoder1DBlock(
        self.num_heads,
        self.mlp_dim,
        dropout=self.dropout,
        dtype=self.dtype,
        norm_eps=self.norm_eps,
        gelu=self.gelu,
        name=f"block_{i}",
      )(x, mask, train)
    x = norm(x)
    classes = x[:, n:]
    patches = x[:, :n] if patches is None else norm(project(patches))
    masks = jnp.einsum(
      "bnd,bcd->bnc",
      self._directions(patches, "proj_patch"),
      self._directions(classes, "proj_classes"),
      # What follows divides by the spread of the products, so that rounded
      # ones would differ.
      precision=jax.lax.Precision.HIGHEST,
    )
    return blocks.layer_norm(jnp.float32, "mask_norm", self.norm_eps)(masks)

  @nn.nowrap
  def _directions(
    self, x: Float[Array, "B N D"], name: str
  ) -> Float32[Array, "B N D"]:
    """Returns projections of length one."""
    d = x.shape[-1]
    kernel = self.param(name, nn.initializers.normal(d**-0.5), (d, d))
    x = (x @ kernel.astype(x.dtype)).astype(jnp.float32)
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    # Only a vector of zeros, whose gradient would be NaN, is touched.
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-30))
