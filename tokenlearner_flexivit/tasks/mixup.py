"""Mixup (Zhang et al., arXiv 1710.09412) over all devices' examples."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp


def roll(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Rolls the global batch by one example.

  Args:
    x: this device's share, [b, ...].
    axis_name: the device axis, or None for a batch on one device.

  Returns:
    [b, ...]: example i of the global batch stands where i + 1 stood. Only one
    example per device travels, and the result does not depend on how many
    devices share the batch.
  """
  last = x[-1:]
  if axis_name is not None:
    count = jax.lax.axis_size(axis_name)
    ring = [(i, (i + 1) % count) for i in range(count)]
    last = jax.lax.ppermute(last, axis_name, ring)
  return jnp.concatenate([last, x[:-1]])


def mixup(
  batch: dict[str, jax.Array],
  key: jax.Array,
  alpha: float,
  keys: Iterable[str],
  axis_name: str | None = None,
) -> dict[str, jax.Array]:
  """Mixes every example with its neighbour, images and labels alike.

  x' = lambda x_i + (1 - lambda) x_{i-1}. One lambda ~ Beta(alpha, alpha) per
  step, of which the larger part is kept by the example itself.

  Args:
    batch: leaves [b, ...].
    key: the same on all devices.
    alpha: both parameters of the Beta distribution, > 0.
    keys: entries to mix.
    axis_name: the device axis, or None.

  Returns:
    The batch with the entries mixed, whole numbers as float32.
  """
  weight = jax.random.beta(key, alpha, alpha)
  weight = jnp.maximum(weight, 1 - weight)

  def mix(x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      x = x.astype(jnp.float32)  # A weight would be rounded to 0.
    other = roll(x, axis_name)
    return weight.astype(x.dtype) * x + (1 - weight).astype(x.dtype) * other

  return {**batch, **{name: mix(batch[name]) for name in keys}}
