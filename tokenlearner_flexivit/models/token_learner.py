"""TokenLearner (arXiv 2106.11297, Section 2).

Parameters have Scenic's names. Learned token s does not depend on how many
tokens follow it, so a model that learned S tokens can be used with the first
1..S of them. `num_tokens` chooses: with a static int only these tokens are
computed; a traced scalar masks the others, so that one program serves every
number.

Letters: B batch, h w grid, N = h w positions, S learned tokens, D width.
"""

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32, Int

from tokenlearner_flexivit.models import blocks, checks
from tokenlearner_flexivit.models.average_pooling import average_maps
from tokenlearner_flexivit.models.map_conv import MapConv

ALL = "all"  # A model's `num_tokens` that switches TokenLearner off.
VERSIONS = ("1.1", "1.0", "average")
POOLINGS = ("sum", "mean")
NumTokens = int | str | Int[Array, ""] | None


@dataclasses.dataclass(frozen=True)
class TokenLearnerConfig:
  """The config of a transformer's TokenLearner: where it is and how it learns.

  Attributes:
    layer: index of the first block that sees learned tokens.
    num_tokens: S, how many are learned.
    version: "1.1", "1.0" or "average", see `TokenLearner`.
    pooling: "sum" or "mean", see `TokenLearner`.
    fuser: whether every block from `layer` on is TokenLearner, block,
      TokenFuser and a residual; otherwise TokenLearner runs once.
    bottleneck_dim: hidden features of the MLPs in v1.1 and the fuser.
  """

  layer: int
  num_tokens: int
  version: str = "1.1"
  pooling: str = "sum"
  fuser: bool = False
  bottleneck_dim: int = 64

  def __post_init__(self):
    check_choices(self.version, self.pooling)
    for name in ("num_tokens", "bottleneck_dim"):
      checks.whole(getattr(self, name), f"token_learner.{name}")
    checks.whole(self.layer, "token_learner.layer", least=None)
    checks.boolean(self.fuser, "token_learner.fuser")

  @classmethod
  def from_dict(cls, mapping: Mapping[str, Any]) -> "TokenLearnerConfig":
    """Builds a config from any mapping.

    Raises:
      ValueError: for unknown or missing keys, listing those known, and for
        values out of range.
    """
    try:
      arguments = dict(mapping)
    except (TypeError, ValueError):
      raise ValueError(
        f"token_learner={mapping!r} must be None or a mapping, such as"
        " dict(layer=2, num_tokens=8)."
      ) from None
    fields = dataclasses.fields(cls)
    required = {f.name for f in fields if f.default is dataclasses.MISSING}
    unknown = set(arguments) - {f.name for f in fields}
    missing = required - set(arguments)
    if unknown or missing:
      problem = "Unknown" if unknown else "Missing"
      raise ValueError(
        f"{problem} token_learner keys: {sorted(unknown or missing)}. Known:"
        f" {', '.join(f.name for f in fields)};"
        f" required: {', '.join(sorted(required))}."
      )
    return cls(**arguments)

  def check_depth(self, depth: int) -> None:
    """Raises ValueError if a model of this depth has no block `layer`."""
    if not 0 <= self.layer < depth:
      raise ValueError(
        f"token_learner.layer={self.layer} is outside the model: its depth is"
        f" {depth}, so layers are 0 to {depth - 1}."
      )


def check_choices(version: str, pooling: str) -> None:
  """Raises ValueError for an unknown version or pooling, listing the known."""
  checks.choice(version, "TokenLearner version", VERSIONS)
  checks.choice(pooling, "TokenLearner pooling", POOLINGS)


def is_static(num_tokens: Any) -> bool:
  """Tells whether `num_tokens` is a Python number: a slice, not a mask."""
  return isinstance(num_tokens, numbers.Integral)


def is_all(num_tokens: Any) -> bool:
  """Tells whether `num_tokens` is "all", without comparing an array to it."""
  return isinstance(num_tokens, str) and num_tokens == ALL


def check_num_tokens(
  num_tokens: NumTokens, learned: int, version: str = "1.1"
) -> None:
  """Raises ValueError for an impossible number of learned tokens.

  Args:
    num_tokens: None, "all", an int, or an integer scalar array.
    learned: S.
    version: see `TokenLearner`.

  Raises:
    ValueError: for an int outside 1..S, anything but an integer, or fewer than
      all S tokens of version "average". The value of an array is not checked.
  """
  if num_tokens is None or is_all(num_tokens):
    return
  if version == "average" and not (
    is_static(num_tokens) and num_tokens == learned
  ):
    raise ValueError(
      f"num_tokens={num_tokens}, but only all {learned} averages together"
      " cover the image. Only learned tokens have an order."
    )
  if is_static(num_tokens):
    if not 1 <= num_tokens <= learned:
      raise ValueError(
        f"num_tokens={num_tokens} is out of range: the model learned {learned}"
        f" tokens, so 1 to {learned} of them can be used."
      )
  elif (
    isinstance(num_tokens, str)
    or jnp.shape(num_tokens)
    or not jnp.issubdtype(jnp.result_type(num_tokens), jnp.integer)
  ):
    raise ValueError(
      f"num_tokens must be an integer scalar or {ALL!r}, got {num_tokens!r}."
    )


def token_mask(num_tokens: NumTokens, learned: int) -> Bool[Array, " S"] | None:
  """Returns which tokens are in use; None unless `num_tokens` is traced."""
  if num_tokens is None or is_static(num_tokens):
    return None
  return jnp.arange(learned) < num_tokens


def _weighted_sums(
  maps: Float[Array, "B S N"], x: Float[Array, "B N D"]
) -> Float[Array, "B S D"]:
  """Returns the sums of positions weighted by maps, in the dtype of `x`.

  Half precision would round equal weights alike, so their sum would not be 1.
  """
  tokens = jnp.matmul(
    maps, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
  )
  return tokens.astype(x.dtype)


class TokenLearner(nn.Module):
  """TokenLearner: summarises the positions of an image in a few tokens.

  A token is the sum over positions of the *un-normalised* input times a map
  that is computed from the normalised input:

  * v1.1: Dense, GELU, Dense, softmax over positions. The maps sum to one, so
    a token is an average and `pooling` makes no difference.
  * v1.0: four 3x3 convolutions, GELU after the first three, sigmoid. With
    pooling "sum" (the default of the published code) tokens grow with the
    number of positions; the paper's formula is "mean" (Equation 2). Under a
    flexible patch size use "mean", or v1.1.
  * average: nothing is learned, the maps are S equal rectangles. This is the
    baseline of the paper, where all S tokens are needed.

  Attributes:
    num_tokens: S.
    version: "1.1", "1.0" or "average".
    pooling: "sum" or "mean".
    bottleneck_dim: hidden features of the MLP in v1.1.
    dropout_rate: in the MLP of v1.1, after both layers.
    dtype: of the computation; parameters, maps and their products with the
      input are float32.
  """

  num_tokens: int
  version: str = "1.1"
  pooling: str = "sum"
  bottleneck_dim: int = 64
  dropout_rate: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B *positions D"],
    grid: Sequence[int] | None = None,
    num_tokens: NumTokens = None,
    train: bool = False,
  ) -> tuple[Float[Array, "B S D"], Float32[Array, "B S N"]]:
    """Learns tokens.

    Args:
      x: [B, N, D] or [B, h, w, D].
      grid: (h, w), which v1.0 needs if `x` is [B, N, D].
      num_tokens: how many tokens to use: None for all S, an int s for the
        first s, or a traced integer scalar, which zeroes the later tokens and
        maps. Version "average" needs all S.
      train: whether dropout is active.

    Returns:
      the S or s tokens in `dtype`, and the map of each.

    Raises:
      ValueError: for unknown settings, a `num_tokens` out of range, or a grid
        that is missing or does not have N cells.
    """
    check_choices(self.version, self.pooling)
    check_num_tokens(num_tokens, self.num_tokens, self.version)
    if x.ndim == 4:
      grid = x.shape[1:3]
      x = x.reshape(x.shape[0], -1, x.shape[-1])
    b, n, d = x.shape
    if self.version != "1.1" and (grid is None or grid[0] * grid[1] != n):
      raise ValueError(
        f"TokenLearner {self.version} works on the grid: pass grid=(h, w) with"
        f" h * w = {n}, got {grid}."
      )
    num_out = num_tokens if is_static(num_tokens) else None

    x = x.astype(self.dtype)
    if self.version == "average":
      if self.is_initializing() and n == 1:
        # Initialisation may see the whole image as one patch. Averages have no
        # parameters, so the values of these maps do not matter.
        maps = jnp.ones((self.num_tokens, n), jnp.float32)
      else:
        maps = jnp.asarray(average_maps(self.num_tokens, grid), jnp.float32)
      maps = jnp.broadcast_to(maps, (b, *maps.shape))
      return _weighted_sums(maps, x), maps
    y = blocks.layer_norm(self.dtype, "LayerNorm_0")(x)
    if self.version == "1.1":
      y = blocks.MlpBlock(
        self.bottleneck_dim,
        self.num_tokens,
        dropout=self.dropout_rate,
        dtype=self.dtype,
        name="token_masking",
      )(y, train, num_out)
      maps = nn.softmax(y.transpose(0, 2, 1).astype(jnp.float32), axis=-1)
    else:
      y = self._convolve(y.reshape(b, *grid, d), num_out)
      y = y.astype(jnp.float32).reshape(b, n, -1).transpose(0, 2, 1)
      maps = nn.sigmoid(y)
      if self.pooling == "mean":
        maps /= n

    mask = token_mask(num_tokens, self.num_tokens)
    if mask is not None:
      maps = jnp.where(mask[None, :, None], maps, 0)
    return _weighted_sums(maps, x), maps

  @nn.nowrap
  def _convolve(
    self, y: Float[Array, "B h w D"], num_out: int | None
  ) -> Float[Array, "B h w S"]:
    """Returns the first `num_out` of S channels, for v1.0."""
    for i in range(3):
      y = MapConv(self.num_tokens, self.dtype, name=f"Conv_{i}")(y)
      y = nn.gelu(y)
    # Up to here every map depends on all S channels.
    return MapConv(self.num_tokens, self.dtype, name="Conv_3")(y, num_out)
