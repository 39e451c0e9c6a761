"""A parallelism of one device, on which a step is a function to be jitted."""

import jax.numpy as jnp


class OneDevice:
  """Stands in for `Parallel` inside of programs: there is nobody to ask."""

  def mean(self, tree):
    return tree

  sum = gather = shift = mean

  def index(self):
    return jnp.int32(0)
