"""Finite scalar quantization (arXiv 2309.15505): codes without a codebook.

Each of d features is bounded and rounded to one of a few levels; a code is the
number of a combination of levels. Nothing is learned and every code is in
reach. Formulas are those of the published code, in float32.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float32, Int, Int32

from tokenlearner_flexivit.models import checks

# Keeps the outermost levels in reach of tanh.
_EPS = 1e-3


def check_levels(levels: Sequence[int]) -> tuple[int, ...]:
  """Returns numbers of levels as a tuple.

  Raises:
    ValueError: they are no whole numbers above 1, or there are none.
  """
  if isinstance(levels, str) or not np.iterable(levels) or not len(levels):
    raise ValueError(
      f"levels={levels!r} must be whole numbers, such as (8, 6, 5)."
    )
  for level in levels:
    checks.whole(level, "levels", least=2)
  return tuple(int(level) for level in levels)


def num_codes(levels: Sequence[int]) -> int:
  """Returns the number of different codes."""
  return math.prod(levels)


def _row(values: Sequence[float], like: jax.Array, dtype=np.float32):
  """Returns numbers of features, with the axes of an array before them."""
  row = np.asarray(values, dtype)
  return row.reshape((1,) * (like.ndim - 1) + (-1,))


def bound(
  z: Float[ArrayLike, "*rows d"], levels: Sequence[int]
) -> Float32[Array, "*rows d"]:
  """Returns features bounded to the reach of their levels."""
  z = jnp.asarray(z, jnp.float32)
  half = (np.asarray(levels, np.float64) - 1) * (1 - _EPS) / 2
  offset = np.where(np.asarray(levels) % 2, 0, 0.5)
  shift = np.tan(offset / half)
  bounded = jnp.tanh(z + _row(shift, z)) * _row(half, z)
  return bounded - _row(offset, z)


def quantize(
  z: Float[ArrayLike, "*rows d"], levels: Sequence[int]
) -> Float32[Array, "*rows d"]:
  """Returns features at their nearest levels, in [-1, 1].

  Rounding passes gradients straight through. An even number of levels has one
  more below 0 than above.
  """
  bounded = bound(z, levels)
  rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
  return rounded / _row(_half_widths(levels), rounded)


def to_codes(
  levels_of: Float[ArrayLike, "*rows d"], levels: Sequence[int]
) -> Int32[Array, " *rows"]:
  """Returns the numbers of quantized features; the first counts fastest.

  Args:
    levels_of: a result of `quantize`.
    levels: the numbers of levels.
  """
  levels_of = jnp.asarray(levels_of, jnp.float32)
  half = _half_widths(levels)
  digits = jnp.round(levels_of * _row(half, levels_of)).astype(jnp.int32)
  digits = digits + _row(half, digits, np.int32)
  return (digits * _row(_basis(levels), digits, np.int32)).sum(axis=-1)


def from_codes(
  codes: Int[ArrayLike, " *rows"], levels: Sequence[int]
) -> Float32[Array, "*rows d"]:
  """Returns the quantized features of codes, the inverse of `to_codes`."""
  codes = jnp.asarray(codes, jnp.int32)[..., None]
  digits = codes // _row(_basis(levels), codes, np.int32)
  digits = digits % _row(levels, codes, np.int32)
  half = _row(_half_widths(levels), codes)
  return (digits.astype(jnp.float32) - half) / half


def _half_widths(levels: Sequence[int]) -> list[int]:
  return [level // 2 for level in levels]


def _basis(levels: Sequence[int]) -> list[int]:
  """Returns how much a level of each feature counts in a code."""
  return list(itertools.accumulate(levels[:-1], int.__mul__, initial=1))
