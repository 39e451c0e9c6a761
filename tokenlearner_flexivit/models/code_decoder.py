"""The decoder of UViM's stage II: a code, word by word, from encoded tokens.

Letters: B batch, L length of the code, K different codes, N tokens of the
memory, M new tokens of a call, D width, h heads.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Bool, Float, Float32, Int, Int32

from tokenlearner_flexivit.models import attention, blocks, layer_costs
from tokenlearner_flexivit.models import posemb as posembs

# Keys and values [B, tokens, h, D / h].
KeysValues = tuple[jax.Array, jax.Array]
# Token 0 begins a code, so the code c is the token c + 1.
_START = 0


class _Attention(nn.Module):
  """Attention without biases, whose keys and values may be kept.

  Attributes:
    num_heads: h, a divisor of `width`.
    width: D.
    dtype: of the computation.
  """

  num_heads: int
  width: int
  dtype: jnp.dtype

  def setup(self):
    """Makes the four projections."""
    heads = self.num_heads, self.width // self.num_heads
    options = dict(
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nn.initializers.xavier_uniform(),
    )
    self.query = nn.DenseGeneral(heads, **options)
    self.key = nn.DenseGeneral(heads, **options)
    self.value = nn.DenseGeneral(heads, **options)
    self.out = nn.DenseGeneral(self.width, axis=(-2, -1), **options)

  def keys_values(self, x: Float[Array, "B N D"]) -> KeysValues:
    """Returns keys and values of the tokens that are attended to."""
    return self.key(x), self.value(x)

  def to_memory(
    self,
    x: Float[Array, "B M D"],
    known: KeysValues,
    mask: Bool[Array, " N"] | None,
  ) -> Float[Array, "B M D"]:
    """Lets tokens attend to those of a memory where `mask` is not False."""
    y = attention.dot_product_attention(self.query(x), *known, mask)
    return self.out(y)

  def to_earlier(
    self,
    x: Float[Array, "B M D"],
    known: KeysValues,
    start: int | Int[Array, ""],
  ) -> Float[Array, "B M D"]:
    """Lets tokens, of which the first is at `start`, attend to earlier ones."""
    return self.out(attention.causal_attention(self.query(x), *known, start))


class _Block(nn.Module):
  """Attention to earlier tokens, to the memory, and an MLP.

  Attributes:
    width: D.
    mlp_dim: hidden features of the MLP.
    num_heads: attention heads.
    norm_eps: added to the variance in LayerNorm.
    gelu: a key of `blocks.GELUS`.
    dtype: of the computation.
  """

  width: int
  mlp_dim: int
  num_heads: int
  norm_eps: float
  gelu: str
  dtype: jnp.dtype

  def setup(self):
    """Makes the layers, with the published names."""
    self.LayerNorm1, self.LayerNorm2, self.LayerNorm3 = (
      blocks.layer_norm(self.dtype, eps=self.norm_eps) for _ in range(3)
    )
    self.SelfAttn = _Attention(self.num_heads, self.width, self.dtype)
    self.CrossAttn = _Attention(self.num_heads, self.width, self.dtype)
    self.MLP = blocks.MlpBlock(self.mlp_dim, dtype=self.dtype, gelu=self.gelu)

  def remember(self, memory: Float[Array, "B N D"]) -> KeysValues:
    """Returns keys and values of the memory, which serve all tokens."""
    return self.CrossAttn.keys_values(memory)

  def __call__(
    self,
    x: Float[Array, "B M D"],
    memory: KeysValues,
    mask: Bool[Array, " N"] | None,
    cache: KeysValues | None = None,
    start: int | Int[Array, ""] = 0,
  ) -> tuple[Float[Array, "B M D"], KeysValues]:
    """Applies the block to new tokens.

    Args:
      x: the new tokens.
      memory: a result of `remember`.
      mask: False for tokens of the memory that are not attended to.
      cache: keys and values of a whole code, of which those before `start` are
        known; None if all tokens are new.
      start: the position of the first new token.

    Returns:
      the tokens, and the keys and values with theirs.
    """
    y = self.LayerNorm1(x)
    known = self.SelfAttn.keys_values(y)
    if cache is not None:
      known = tuple(
        jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=1)
        for old, new in zip(cache, known, strict=True)
      )
    x = x + self.SelfAttn.to_earlier(y, known, start)
    x = x + self.CrossAttn.to_memory(self.LayerNorm2(x), memory, mask)
    return x + self.MLP(self.LayerNorm3(x)), known


class CodeDecoder(nn.Module):
  """A transformer that predicts each word of a code from those before it.

  It has big_vision's names, but blocks are called `block_i` and the position
  embedding is its own.

  Attributes:
    num_codes: K.
    code_len: L.
    width: D, of the memory, too.
    depth: number of blocks.
    mlp_dim: hidden features of the MLPs.
    num_heads: attention heads, a divisor of `width`.
    posemb: "learn" or "sincos2d", of a grid of one row.
    norm_eps: added to the variance in LayerNorm.
    gelu: a key of `blocks.GELUS`.
    dtype: of the computation; logits are float32.
  """

  num_codes: int
  code_len: int
  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  posemb: str = "learn"
  norm_eps: float = blocks.LAYER_NORM_EPS
  gelu: str = "tanh"
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the layers, with the published names."""
    shape = (1, self.code_len, self.width)
    self.EmbedTargets = nn.Embed(
      self.num_codes + 1,
      self.width,
      embedding_init=nn.initializers.normal(1.0),
      dtype=self.dtype,
    )
    if self.posemb == "learn":
      init = nn.initializers.normal(self.width**-0.5)
      self.positions = self.param("pos_embedding", init, shape)
    else:
      self.positions = posembs.sincos2d((1, self.code_len), self.width)
    self.blocks = [
      _Block(
        self.width,
        self.mlp_dim,
        self.num_heads,
        self.norm_eps,
        self.gelu,
        self.dtype,
        name=f"block_{i}",
      )
      for i in range(self.depth)
    ]
    self.LayerNorm = blocks.layer_norm(self.dtype, eps=self.norm_eps)
    self.LogitsDense = nn.Dense(
      self.num_codes + 1, kernel_init=nn.initializers.zeros
    )

  def __call__(
    self,
    codes: Int[ArrayLike, "B L"],
    memory: Float[Array, "B N D"],
    mask: Bool[Array, " N"] | None = None,
  ) -> Float32[Array, "B L tokens"]:
    """Returns the logits of each word, given those before it.

    Args:
      codes: from 0 on.
      memory: the encoded tokens.
      mask: False for tokens of the memory that are not attended to.

    Returns:
      Logits of the token that begins a code, which is none of it, and of the K
      codes.
    """
    tokens = jnp.pad(jnp.asarray(codes)[:, :-1] + 1, ((0, 0), (1, 0)))
    x = self.EmbedTargets(tokens) + self.positions.astype(self.dtype)
    for block in self.blocks:
      x, _ = block(x, block.remember(memory), mask)
    return self._logits(x)

  def remember(self, memory: Float[Array, "B N D"]) -> list[KeysValues]:
    """Returns what each block needs of the memory."""
    return [block.remember(memory) for block in self.blocks]

  def begin(self, batch: int) -> tuple[Int32[Array, " B"], list[KeysValues]]:
    """Returns the first tokens, and the cache before any is known."""
    heads = self.num_heads, self.width // self.num_heads
    empty = jnp.zeros((batch, self.code_len, *heads), self.dtype)
    return jnp.full(batch, _START, jnp.int32), [(empty, empty)] * self.depth

  def step(
    self,
    tokens: Int32[Array, " B"],
    position: Int[Array, ""],
    cache: list[KeysValues],
    memories: list[KeysValues],
    mask: Bool[Array, " N"] | None = None,
  ) -> tuple[Float32[Array, "B tokens"], list[KeysValues]]:
    """Returns the logits of the word at a position, and the cache after it.

    Args:
      tokens: before the position: one more than the code, or that of `begin`.
      position: of the word.
      cache: of the words before.
      memories: the result of `remember`.
      mask: as in a call.
    """
    x = self.EmbedTargets(tokens[:, None])
    x = x + jax.lax.dynamic_slice_in_dim(
      self.positions.astype(self.dtype), position, 1, axis=1
    )
    caches = []
    for block, own, memory in zip(self.blocks, cache, memories, strict=True):
      x, known = block(x, memory, mask, own, position)
      caches.append(known)
    return self._logits(x)[:, 0], caches

  @nn.nowrap
  def _logits(self, x: Float[Array, "B M D"]) -> Float32[Array, "B M tokens"]:
    return self.LogitsDense(self.LayerNorm(x).astype(jnp.float32))

  def cost(self, memory: int) -> int:
    """Returns the multiply-adds of decoding a code beside so many tokens."""
    n, d, heads = self.code_len, self.width, self.num_heads
    block = layer_costs.mlp(n, d, self.mlp_dim, d)
    block += layer_costs.attention(n, memory, d, heads)
    # A word sees the whole cache, though only the words before it count.
    block += layer_costs.attention(n, n, d, heads)
    return block.macs * self.depth + n * d * (self.num_codes + 1)
