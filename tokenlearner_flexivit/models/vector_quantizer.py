"""Vector quantization with a codebook of moving averages (VQ-VAE, UViM).

As in big_vision's UViM (arXiv 2205.10337) a codebook is learned without a
gradient: `dictionary` sums the vectors of each word over the steps, and
`counts` their numbers, both with a decay; a word is their quotient, of length
one. Words that hardly any vector is nearest to are replaced by a split of the
most frequent word.

Letters: K words, d features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Int32

# How much the halves of a split word differ, and the published defaults.
_PERTURB = 1e-3
MOMENTUM, MIN_COUNT = 0.995, 0.1


class Codebook(NamedTuple):
  """The state of a codebook.

  Attributes:
    dictionary: decayed sums of the vectors of each word.
    counts: decayed numbers of these vectors.
  """

  dictionary: Float32[Array, "K d"]
  counts: Float32[Array, " K"]

  def words(self) -> Float32[Array, "K d"]:
    """Returns the words, of length one."""
    means = self.dictionary / self.counts[:, None]
    return means / jnp.linalg.norm(means, axis=-1, keepdims=True)


def nearest(
  x: Float[Array, "*rows d"], words: Float32[Array, "K d"]
) -> tuple[Float32[Array, "*rows d"], Int32[Array, " *rows"]]:
  """Returns the nearest words, straight through for gradients, and their codes.

  Args:
    x: vectors.
    words: of length one: the nearest has the largest product.
  """
  x = x.astype(jnp.float32)
  # Products of rounded numbers would change which word is nearest.
  products = jnp.einsum(
    "...d,kd->...k", x, words, precision=jax.lax.Precision.HIGHEST
  )
  codes = jnp.argmax(products, axis=-1).astype(jnp.int32)
  return x + jax.lax.stop_gradient(words[codes] - x), codes


def statistics(
  x: Float32[Array, "*rows d"], codes: Int[Array, " *rows"], num_words: int
) -> Codebook:
  """Returns the sums and numbers of a batch's vectors, by their words."""
  flat = jax.lax.stop_gradient(x).reshape(-1, x.shape[-1])
  codes = codes.reshape(-1)
  sums = jnp.zeros((num_words, x.shape[-1]), jnp.float32).at[codes].add(flat)
  return Codebook(sums, jnp.zeros(num_words, jnp.float32).at[codes].add(1))


def updated(
  codebook: Codebook,
  batch: Codebook,
  key: jax.Array,
  momentum: float = MOMENTUM,
  min_count: float = MIN_COUNT,
) -> Codebook:
  """Returns the codebook after a step; dead words are revived.

  Args:
    codebook: before the step.
    batch: `statistics` of the batch on all devices.
    key: makes the halves of split words differ.
    momentum: of the moving averages.
    min_count: a word of a lower count is dead.
  """
  moved = jax.tree.map(lambda old, new: old * momentum + new, codebook, batch)

  def is_any_dead(state):
    counts = state[0].counts
    # So few vectors that not every word can have one would split for ever.
    return (counts < min_count).any() & (state[2] < len(counts))

  def split(state):
    (dictionary, counts), key, splits = state
    key, draw = jax.random.split(key)
    most, least = jnp.argmax(counts), jnp.argmin(counts)
    half, half_count = dictionary[most] / 2, counts[most] / 2
    noise = jax.random.uniform(
      draw, half.shape, minval=1 - _PERTURB, maxval=1 + _PERTURB
    )
    dictionary = dictionary.at[least].set(half * noise).at[most].set(half)
    counts = counts.at[least].set(half_count).at[most].set(half_count)
    return Codebook(dictionary, counts), key, splits + 1

  return jax.lax.while_loop(is_any_dead, split, (moved, key, 0))[0]
