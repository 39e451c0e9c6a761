"""Finite scalar quantization: codes, their inverse, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import vectors
from tests.vectors import assert_close
from tokenlearner_flexivit.models import fsq


@vectors.checks("dense_fsq")
def test_codes_are_those_of_the_paper(name):
  case = vectors.Vectors(name)

  @jax.jit
  def everything(inputs):
    results = {}
    for group, (z, cotangent) in inputs.items():
      levels = tuple(map(int, group.split("x")))
      codes, pull = jax.vjp(functools.partial(fsq.quantize, levels=levels), z)
      results |= {
        f"out/{group}/bounded": fsq.bound(z, levels),
        f"out/{group}/code": codes,
        f"out/{group}/index": fsq.to_codes(codes, levels),
        f"out/{group}/codebook": fsq.from_codes(
          jnp.arange(fsq.num_codes(levels)), levels
        ),
        f"grad/{group}/z": pull(cotangent)[0],
      }
    return results

  groups = {key.split("/")[0] for key in case.flat("in/")}
  inputs = {
    group: (case[f"in/{group}/z"], case[f"grad/{group}/cotangent"])
    for group in groups
  }
  for key, value in everything(inputs).items():
    if key.endswith("index"):
      np.testing.assert_array_equal(value, case[key])
    else:
      assert_close(value, case[key], 5e-6)


def test_codes_and_numbers_are_a_bijection():
  several = (8, 6, 5), (7, 5, 5), (2,), (3, 4, 2, 2)

  @jax.jit
  def there_and_back():
    results = []
    for levels in several:
      features = fsq.from_codes(jnp.arange(fsq.num_codes(levels)), levels)
      results.append((features, fsq.to_codes(features, levels)))
    return results

  for levels, (features, codes) in zip(several, there_and_back(), strict=True):
    every = np.arange(np.prod(levels))
    assert len(np.unique(np.asarray(features), axis=0)) == len(every)
    np.testing.assert_array_equal(codes, every)


@pytest.mark.parametrize("levels", [(5, 8), (3, 4)])
def test_every_level_is_in_reach_and_rounding_passes_gradients(levels):
  z = np.repeat(np.linspace(-8, 8, 801)[:, None], len(levels), 1)
  half = np.array([[n // 2 for n in levels]], np.float32)

  @jax.jit
  def run(z):
    return (
      fsq.quantize(z, levels),
      jax.grad(lambda z: fsq.quantize(z, levels).sum())(z),
      jax.grad(lambda z: (fsq.bound(z, levels) / half).sum())(z),
    )

  codes, gradient, plain = run(z.astype(np.float32))
  for feature, number in zip(np.asarray(codes).T, levels, strict=True):
    assert len(np.unique(feature)) == number
  np.testing.assert_allclose(gradient, plain, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("levels", [(), (1, 5), "85", 8, (2.5,)])
def test_levels_that_are_none_are_refused(levels):
  with pytest.raises(ValueError, match="levels"):
    fsq.check_levels(levels)
