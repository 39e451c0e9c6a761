"""Mixup (Zhang et al., arXiv 1710.09412) over all devices' examples."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from tokenlearner_flexivit.parallel import Parallel


def roll(
  x: Shaped[Array, " b *rest"], parallel: Parallel | None
) -> Shaped[Array, " b *rest"]:
  """Rolls the global batch by one example.

  Args:
    x: this device's share.
    parallel: shares the batch among devices; None for a batch on one.

  Returns:
    The share in which example i of the global batch stands where i + 1 stood.
    Each device sends only one example, and the result does not depend on how
    many devices share the batch.
  """
  last = x[-1:]
  if parallel is not None:
    last = parallel.shift(last)
  return jnp.concatenate([last, x[:-1]])


def mixup(
  batch: dict[str, Shaped[Array, "b ..."]],
  key: jax.Array,
  alpha: float,
  keys: Iterable[str],
  parallel: Parallel | None = None,
) -> dict[str, Shaped[Array, "b ..."]]:
  """Mixes every example with its neighbour, images and labels alike.

  x' = lambda x_i + (1 - lambda) x_{i-1}, with one lambda ~ Beta(alpha, alpha)
  per step, or 1 - lambda if that is larger.

  Args:
    batch: this device's share.
    key: the same on all devices.
    alpha: both parameters of the Beta distribution, > 0.
    keys: entries to mix.
    parallel: shares the batch among devices; None for a batch on one.

  Returns:
    The batch with the entries mixed, whole numbers as float32.
  """
  weight = jax.random.beta(key, alpha, alpha)
  weight = jnp.maximum(weight, 1 - weight)

  def mix(x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      x = x.astype(jnp.float32)  # An integer weight would be 0.
    other = roll(x, parallel)
    return weight.astype(x.dtype) * x + (1 - weight).astype(x.dtype) * other

  return {**batch, **{name: mix(batch[name]) for name in keys}}
