"""Decoding of codes word by word, greedily or by sampling, with a cache.

Letters: B batch, L length of the code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float32, Int, Int32, Key

# Function of the tokens before a position, the position and the cache, which
# returns the logits [B, tokens] of the word there, and the cache after it.
Step = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


class Decoded(NamedTuple):
  """Codes and how likely they are.

  Attributes:
    codes: from 0 on.
    log_probabilities: of each word after those before it, in nats, at
      temperature 1.
    logits: of each word; the first is that of the token that begins a code.
  """

  codes: Int32[Array, "B L"]
  log_probabilities: Float32[Array, "B L"]
  logits: Float32[Array, "B L tokens"]


def decode(
  step: Step,
  first: Int32[Array, " B"],
  cache: Any,
  length: int,
  *,
  keys: Key[Array, " B"] | None = None,
  temperature: float = 0.0,
  prompt: Int[ArrayLike, "B L"] | None = None,
) -> Decoded:
  """Decodes codes in one loop.

  The token that begins a code is never chosen within it.

  Args:
    step: computes the logits of a word.
    first: tokens before the first words.
    cache: before the first words.
    length: L.
    keys: draw the words of each code if the temperature is above 0.
    temperature: divides the logits before a word is drawn; 0 takes the most
      likely word, of equal ones the first.
    prompt: codes that are fixed, and -1 where they are free.

  Raises:
    ValueError: the temperature is below 0, or above it without keys.
  """
  if not temperature >= 0:
    raise ValueError(f"temperature must be 0 or above, got {temperature}.")
  if temperature and keys is None:
    raise ValueError(
      f"temperature={temperature} draws codes, so it needs keys; 0 takes the "
      "most likely ones."
    )
  batch = first.shape[0]
  if prompt is None:
    prompt = jnp.full((batch, length), -1, jnp.int32)
  prompt = jnp.asarray(prompt, jnp.int32)

  def advance(carry, inputs):
    tokens, cache = carry
    position, fixed = inputs
    logits, cache = step(tokens, position, cache)
    words = logits[:, 1:]
    if temperature:
      own = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
      drawn = jax.vmap(jax.random.categorical)(own, words / temperature)
    else:
      drawn = jnp.argmax(words, axis=-1)
    codes = jnp.where(fixed >= 0, fixed, drawn.astype(jnp.int32))
    likely = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(likely, codes[:, None] + 1, axis=1)[:, 0]
    return (codes + 1, cache), (codes, chosen, logits)

  _, results = jax.lax.scan(
    advance, (first, cache), (jnp.arange(length), prompt.T)
  )
  return Decoded(*(jnp.swapaxes(x, 0, 1) for x in results))
