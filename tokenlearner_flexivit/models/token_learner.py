"""TokenLearner and TokenFuser (TokenLearner, Sections 2 and 3).

Parameters have the names that Scenic gives them. In both modules token s does
not depend on how many tokens follow it, so a model that learned S tokens can
be used with the first 1..S of them. `num_tokens` chooses: an int is static,
and only these tokens are computed; a traced scalar masks the others, so that
one program serves every number.

Letters: B batch, h w grid, N = h w positions, S learned tokens, D width.
"""

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokenlearner_flexivit.models import blocks

VERSIONS = ("1.1", "1.0")
POOLINGS = ("sum", "mean")


@dataclasses.dataclass(frozen=True)
class TokenLearnerConfig:
  """Where a transformer learns tokens, and how.

  Attributes:
    layer: index of the first block that sees learned tokens.
    num_tokens: S, how many are learned.
    version: "1.1" or "1.0", see `TokenLearner`.
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
      if getattr(self, name) < 1:
        raise ValueError(
          f"token_learner.{name} must be at least 1, got {getattr(self, name)}."
        )

  @classmethod
  def from_dict(cls, mapping: Mapping[str, Any]) -> "TokenLearnerConfig":
    """Builds one from any mapping.

    Raises:
      ValueError: for unknown or missing keys, listing those known, and for
        values out of range.
    """
    given = dict(mapping)
    fields = dataclasses.fields(cls)
    required = {f.name for f in fields if f.default is dataclasses.MISSING}
    unknown = set(given) - {f.name for f in fields}
    missing = required - set(given)
    if unknown or missing:
      problem = "Unknown" if unknown else "Missing"
      raise ValueError(
        f"{problem} token_learner keys: {sorted(unknown or missing)}. Known:"
        f" {', '.join(f.name for f in fields)};"
        f" required: {', '.join(sorted(required))}."
      )
    return cls(**given)


def check_choices(version: str, pooling: str) -> None:
  """Raises ValueError for an unknown version or pooling, listing the known."""
  for name, value, known in (
    ("version", version, VERSIONS),
    ("pooling", pooling, POOLINGS),
  ):
    if value not in known:
      raise ValueError(
        f"Unknown TokenLearner {name} {value!r}. Known: {', '.join(known)}."
      )


def is_static(num_tokens: Any) -> bool:
  """Whether `num_tokens` is a Python number: a slice, not a mask."""
  return isinstance(num_tokens, numbers.Integral)


def check_num_tokens(num_tokens: int | jax.Array | None, learned: int) -> None:
  """Checks a choice of tokens as far as that is possible before it runs.

  Args:
    num_tokens: None, an int, or an integer scalar array.
    learned: S.

  Raises:
    ValueError: for an int outside 1..S, or no integer at all. The value of an
      array is not looked at.
  """
  if num_tokens is None:
    return
  if is_static(num_tokens):
    if not 1 <= num_tokens <= learned:
      raise ValueError(
        f"num_tokens={num_tokens} is out of range: the model learned {learned}"
        f" tokens, so 1 to {learned} of them can be used."
      )
  elif jnp.shape(num_tokens) or not jnp.issubdtype(
    jnp.result_type(num_tokens), jnp.integer
  ):
    raise ValueError(
      f"num_tokens must be an integer scalar, got {num_tokens!r}."
    )


def token_mask(
  num_tokens: int | jax.Array | None, learned: int
) -> jax.Array | None:
  """Returns bool [S], true for tokens in use; None unless it is traced."""
  if num_tokens is None or is_static(num_tokens):
    return None
  return jnp.arange(learned) < num_tokens


class _MapConv(nn.Module):
  """A 3x3 SAME convolution without bias, of which some outputs can be left."""

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, num_out: int | None = None) -> jax.Array:
    shape = (3, 3, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    return jax.lax.conv_general_dilated(
      x,
      kernel[..., :num_out].astype(self.dtype),
      window_strides=(1, 1),
      padding="SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class TokenLearner(nn.Module):
  """Summarises the positions of an image in a few learned tokens.

  A token is the sum over positions of the *un-normalised* input times a map
  that is computed from the normalised input:

  * v1.1: Dense, GELU, Dense, softmax over positions. The maps sum to one, so
    a token is an average and `pooling` makes no difference.
  * v1.0: four 3x3 convolutions, GELU after the first three, sigmoid. With
    pooling "sum" (the default of the published code) tokens grow with the
    number of positions; the paper's formula is "mean" (Equation 2). Under a
    flexible patch size use "mean", or v1.1.

  Attributes:
    num_tokens: S.
    version: "1.1" or "1.0".
    pooling: "sum" or "mean".
    bottleneck_dim: hidden features of the MLP in v1.1.
    dropout_rate: in the MLP of v1.1, after both layers.
    dtype: of the computation; softmax and parameters are float32.
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
    x: jax.Array,
    grid: Sequence[int] | None = None,
    num_tokens: int | jax.Array | None = None,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    """Learns tokens.

    Args:
      x: [B, N, D] or [B, h, w, D].
      grid: (h, w), which v1.0 needs if `x` is [B, N, D].
      num_tokens: how many tokens to use: None for all S, an int s for the
        first s, or a traced integer scalar, which zeroes the tokens and maps
        from there on.
      train: whether dropout is active.

    Returns:
      tokens [B, S, D] and maps [B, S, N], or [B, s, D] and [B, s, N].

    Raises:
      ValueError: for unknown settings, a `num_tokens` out of range, or a grid
        that is missing or has not N cells.
    """
    check_choices(self.version, self.pooling)
    check_num_tokens(num_tokens, self.num_tokens)
    if x.ndim == 4:
      grid = x.shape[1:3]
      x = x.reshape(x.shape[0], -1, x.shape[-1])
    b, n, d = x.shape
    num_out = num_tokens if is_static(num_tokens) else None

    x = x.astype(self.dtype)
    y = blocks.layer_norm(self.dtype, "LayerNorm_0")(x)
    if self.version == "1.1":
      y = blocks.MlpBlock(
        self.bottleneck_dim,
        self.num_tokens,
        dropout=self.dropout_rate,
        dtype=self.dtype,
        name="token_masking",
      )(y, train, num_out)
      maps = y.transpose(0, 2, 1).astype(jnp.float32)
      maps = nn.softmax(maps, axis=-1).astype(self.dtype)
    else:
      if grid is None or grid[0] * grid[1] != n:
        raise ValueError(
          "TokenLearner v1.0 convolves over the grid: pass grid=(h, w) with"
          f" h * w = {n}, got {grid}."
        )
      y = y.reshape(b, *grid, d)
      for i in range(3):
        y = _MapConv(self.num_tokens, self.dtype, name=f"Conv_{i}")(y)
        y = nn.gelu(y)
      # Up to here every map depends on all S channels.
      y = _MapConv(self.num_tokens, self.dtype, name="Conv_3")(y, num_out)
      maps = nn.sigmoid(y).reshape(b, n, -1).transpose(0, 2, 1)
      if self.pooling == "mean":
        maps /= n

    mask = token_mask(num_tokens, self.num_tokens)
    if mask is not None:
      maps = jnp.where(mask[None, :, None], maps, 0)
    return maps @ x, maps


class TokenFuser(nn.Module):
  """Brings learned tokens back to the positions they came from (Section 3).

  out[n] = sum_s sigmoid(MLP(LN(original)))[n, s] * LN(mix(LN(tokens)))[s],
  where mix is a dense layer over the S tokens. Its kernel starts at zero, and
  so does the output; the caller adds the residual.

  Attributes:
    num_tokens: S, how many tokens were learned; None if all of them are
      always there.
    bottleneck_dim: hidden features of the MLP.
    use_normalization: whether to normalise the tokens before and after they
      are mixed.
    dropout_rate: after both layers of the MLP and on the output.
    dtype: of the computation; the parameters are float32.
  """

  num_tokens: int | None = None
  bottleneck_dim: int = 64
  use_normalization: bool = True
  dropout_rate: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    original: jax.Array,
    num_tokens: int | jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Fuses tokens.

    Args:
      tokens: [B, S, D], or [B, s, D] with the first s of them.
      original: [B, N, D] or [B, h, w, D], what the tokens were learned from.
      num_tokens: a traced integer scalar if only so many of the tokens count.
        An int must be the number of tokens given.
      train: whether dropout is active.

    Returns:
      an array of the shape of `original`.

    Raises:
      ValueError: if there are more tokens than were learned, or not as many
        as `num_tokens` says.
    """
    learned = self.num_tokens or tokens.shape[1]
    given = tokens.shape[1]
    check_num_tokens(given, learned)
    check_num_tokens(num_tokens, learned)
    if is_static(num_tokens) and num_tokens != given:
      raise ValueError(f"num_tokens={num_tokens}, but {given} tokens given.")
    shape = original.shape
    original = original.reshape(shape[0], -1, shape[-1]).astype(self.dtype)
    y = tokens.astype(self.dtype)

    if self.use_normalization:
      y = blocks.layer_norm(self.dtype, "fuser_mix_norm1")(y)
    mask = token_mask(num_tokens, learned)
    if mask is not None:
      y = jnp.where(mask[None, :, None], y, 0)
    y = blocks.Dense(
      learned, learned, kernel_init=nn.initializers.zeros, dtype=self.dtype
    )(y.transpose(0, 2, 1), given).transpose(0, 2, 1)
    if self.use_normalization:
      y = blocks.layer_norm(self.dtype, "fuser_mix_norm2")(y)

    mix = blocks.layer_norm(self.dtype, "LayerNorm_0")(original)
    mix = blocks.MlpBlock(
      self.bottleneck_dim,
      learned,
      dropout=self.dropout_rate,
      dtype=self.dtype,
      name="token_masking",
    )(mix, train, given)
    mix = nn.sigmoid(mix)
    if mask is not None:
      mix = jnp.where(mask[None, None, :], mix, 0)
    out = nn.Dropout(self.dropout_rate)(mix @ y, deterministic=not train)
    return out.reshape(shape)
