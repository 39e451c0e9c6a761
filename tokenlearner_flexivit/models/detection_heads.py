"""The heads of OWL-ViT (arXiv 2205.06230): a box and a class for every token.

Letters: B batch, h w grid, N = h w tokens, Q queries, D width, E width of the
queries.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32, Int

from tokenlearner_flexivit.models import blocks

SIZE_BIASES = ("each", "width")
# Added to lengths of vectors, and to shares before their logits are taken.
_NORM_EPS, _SHARE_EPS = 1e-6, 1e-4
# The logit of a query that is none.
NO_QUERY = -1e6
# Few tokens show a thing: a class has one in a hundred at first.
_SHIFT_INIT = float(np.log(0.01 / 0.99))


def box_bias(
  grid: tuple[int, int], size_bias: str = "each"
) -> Float[np.ndarray, "N 4"]:
  """Returns the logits of the box that each token begins with.

  Its centre is the far corner of the token's patch, and it is as large as the
  patch. The corner of the last row or column has the logit 9.21, as published.

  Args:
    grid: (h, w).
    size_bias: "each" takes the height of a patch from the grid's height and its
      width from the grid's width, as transformers does. "width" takes both from
      the width, as Scenic's code does; on square grids they are the same.

  Returns:
    Logits of (centre x, centre y, width, height), which are shares of the
    image's sides; float32, tokens row by row.
  """
  height, width = grid
  y, x = np.meshgrid(
    np.arange(1, height + 1) / height,
    np.arange(1, width + 1) / width,
    indexing="ij",
  )
  rows = height if size_bias == "each" else width
  size = np.full_like(x, 1 / width), np.full_like(x, 1 / rows)
  shares = np.stack([x, y, *size], axis=-1).reshape(-1, 4)
  logits = np.log(shares + _SHARE_EPS) - np.log1p(-shares + _SHARE_EPS)
  return logits.astype(np.float32)


def slot_bias(
  maps: Float[Array, "B S N"],
  grid: tuple[int, int],
  num_slots: Int[Array, ""] | None = None,
) -> Float32[Array, "B S 4"]:
  """Returns the logits of the box that each learned token begins with.

  Its centre is that of the patches it is taken from, weighted by its map, and
  its area is the share of one of the tokens.

  Args:
    maps: of TokenLearner, not negative.
    grid: (h, w), N = h w.
    num_slots: how many tokens are in use; None for all S.
  """
  height, width = grid
  y, x = jnp.meshgrid(
    (jnp.arange(height) + 0.5) / height,
    (jnp.arange(width) + 0.5) / width,
    indexing="ij",
  )
  places = jnp.stack([x, y], axis=-1).reshape(-1, 2)
  maps = maps.astype(jnp.float32)
  total = maps.sum(axis=-1, keepdims=True)
  weights = maps / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
  highest = jax.lax.Precision.HIGHEST
  centre = jnp.einsum("bsn,nc->bsc", weights, places, precision=highest)
  slots = maps.shape[1] if num_slots is None else num_slots
  size = jnp.full_like(centre, jnp.asarray(slots, jnp.float32) ** -0.5)
  shares = jnp.concatenate([centre, size], axis=-1)
  return jnp.log(shares + _SHARE_EPS) - jnp.log1p(-shares + _SHARE_EPS)


class BoxHead(nn.Module):
  """An MLP of three layers from each token to a box.

  Attributes:
    gelu: its activation, see `ViT`.
    dtype: of the computation of its hidden layers.
  """

  gelu: str = "tanh"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "B N D"], bias: Float[Array, "*b N 4"]
  ) -> Float32[Array, "B N 4"]:
    """Returns boxes as shares of the image: centre x and y, width, height.

    Args:
      x: the tokens.
      bias: logits that the MLP's outputs are added to.
    """
    for i in range(2):
      x = nn.Dense(x.shape[-1], dtype=self.dtype, name=f"Dense_{i}")(x)
      x = blocks.GELUS[self.gelu](x)
    # Boxes begin where their tokens are.
    x = nn.Dense(4, kernel_init=nn.initializers.zeros, name="Dense_2")(
      x.astype(jnp.float32)
    )
    return nn.sigmoid(x + jnp.broadcast_to(bias, x.shape))


class ClassHead(nn.Module):
  """Compares each token with queries, such as embeddings of class names.

  Attributes:
    embed_dim: E.
  """

  embed_dim: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "B N D"]
  ) -> dict[str, Float32[Array, "B N ..."]]:
    """Returns what `class_logits` needs of tokens.

    These are `embedding` [B, N, E], of length 1, `shift` [B, N] and `scale`
    [B, N].
    """
    x = x.astype(jnp.float32)
    small = nn.initializers.normal(1e-6)
    embedding = nn.Dense(self.embed_dim, kernel_init=small, name="Dense_0")(x)
    shift = nn.Dense(
      1,
      kernel_init=small,
      bias_init=nn.initializers.constant(_SHIFT_INIT),
      name="logit_shift",
    )(x)
    scale = nn.Dense(1, kernel_init=small, name="logit_scale")(x)
    return {
      "embedding": normalized(embedding),
      "shift": shift[..., 0],
      "scale": nn.elu(scale[..., 0]) + 1,
    }


def normalized(x: Float[Array, "*n E"]) -> Float[Array, "*n E"]:
  """Returns vectors of length 1."""
  return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + _NORM_EPS)


def class_logits(
  tokens: dict[str, jax.Array],
  queries: Float[Array, "*b Q E"],
  is_query: Bool[Array, "*b Q"] | None = None,
) -> Float32[Array, "B N Q"]:
  """Returns how much each token looks like each query.

  Args:
    tokens: the result of `ClassHead`.
    queries: for all images [Q, E], or for each [B, Q, E]; of any length.
    is_query: False for padding, whose logits are -1e6.
  """
  embedding = tokens["embedding"]
  # Queries of all images are not broadcast: at 64 predictions and more, XLA's
  # CPU compiler (jaxlib 0.10.2) would make one logit of all of an image's.
  shared = queries.ndim == 2
  logits = jnp.einsum(
    "bne,qe->bnq" if shared else "bne,bqe->bnq",
    embedding,
    normalized(queries.astype(jnp.float32)),
    precision=jax.lax.Precision.HIGHEST,
  )
  logits = logits + tokens["shift"][..., None]
  logits *= tokens["scale"][..., None]
  if is_query is None:
    return logits
  is_query = jnp.broadcast_to(is_query, logits.shape[::2])
  return jnp.where(is_query[:, None], logits, NO_QUERY)
