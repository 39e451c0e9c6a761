"""TokenFuser (TokenLearner, Section 3): from learned tokens back to positions.

Parameters have Scenic's names. Letters: B batch, N = h w positions, S learned
tokens, D width.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from tokenlearner_flexivit.models import blocks
from tokenlearner_flexivit.models.token_learner import (
  NumTokens,
  check_num_tokens,
  is_static,
  token_mask,
)


class TokenFuser(nn.Module):
  """TokenFuser: maps learned tokens back to the positions they came from.

  out[n] = sum_s sigmoid(MLP(LN(original)))[n, s] * LN(mix(LN(tokens)))[s],
  where mix is a dense layer over the S tokens. Its kernel starts at zero, and
  so does the output; the caller adds the residual.

  Attributes:
    num_tokens: S, how many tokens were learned; None if every call has all of
      them.
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
    tokens: Float[Array, "B S D"],
    original: Float[Array, "B *positions D"],
    num_tokens: NumTokens = None,
    train: bool = False,
  ) -> Float[Array, "B *positions D"]:
    """Fuses tokens.

    Args:
      tokens: all that were learned, or the first of them.
      original: [B, N, D] or [B, h, w, D], the positions that the tokens were
        learned from.
      num_tokens: a traced integer scalar if only so many of the tokens count.
        An int must be the number of `tokens`.
      train: whether dropout is active.

    Raises:
      ValueError: if there are more tokens than were learned, or not as many
        as `num_tokens` says.
    """
    learned = self.num_tokens or tokens.shape[1]
    count = tokens.shape[1]
    check_num_tokens(count, learned)
    check_num_tokens(num_tokens, learned)
    if is_static(num_tokens) and num_tokens != count:
      raise ValueError(f"num_tokens={num_tokens}, but tokens given: {count}.")
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
    )(y.transpose(0, 2, 1), count).transpose(0, 2, 1)
    if self.use_normalization:
      y = blocks.layer_norm(self.dtype, "fuser_mix_norm2")(y)

    mix = blocks.layer_norm(self.dtype, "LayerNorm_0")(original)
    mix = blocks.MlpBlock(
      self.bottleneck_dim,
      learned,
      dropout=self.dropout_rate,
      dtype=self.dtype,
      name="token_masking",
    )(mix, train, count)
    mix = nn.sigmoid(mix)
    if mask is not None:
      mix = jnp.where(mask[None, None, :], mix, 0)
    out = nn.Dropout(self.dropout_rate)(mix @ y, deterministic=not train)
    return out.reshape(shape)
