"""Parameters and answers of tiny models, each traced once in a process."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def _shapes(model, shape):
  inputs = jnp.zeros(shape)
  return jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]


def init(model, inputs, scale=0.2):
  """Makes parameters of noise, so that nothing is hidden behind a zero."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: jnp.asarray(scale * rng.normal(size=p.shape), p.dtype),
    _shapes(model, inputs.shape),
  )


@functools.cache
def _program(model, settings):
  return jax.jit(lambda p, x: model.apply({"params": p}, x, **dict(settings)))


def apply(model, params, inputs, **settings):
  """Applies a model; one compilation takes less time than a run without."""
  values = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in settings.items()
  }
  program = _program(model, tuple(sorted(values.items())))
  return program(params, jnp.asarray(inputs))
