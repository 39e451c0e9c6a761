"""Compares resized kernels and position embeddings with the published code's.

Of timm's interpolations ours are bilinear for kernels (what timm does for
big_vision's files) and bilinear with antialiasing for position embeddings. Its
default is another: bicubic with antialiasing, for both.
"""

import jax
import jax.numpy as jnp
import pytest

from tests import vectors as vectors_lib
from tests.vectors import assert_close
from tokenlearner_flexivit.models import patch_embed, posemb


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision("highest"):
    yield


def resize_kernels(kernels, names):
  """Resizes them for names such as "32x32->12x20", in one program."""

  def resize():
    for name in names:
      old, new = name.split("->")
      kernel = jnp.asarray(kernels[f"in/{old}"])
      size = tuple(map(int, new.split("x")))
      yield name, patch_embed.resize_kernel(kernel, size)

  return jax.jit(lambda: dict(resize()))()


def resize_posembs(embeddings, names):
  """Likewise, for names such as "7->10" or "7->5x9"."""

  def resize():
    for name in names:
      old, new = name.split("->")
      stored = jnp.asarray(embeddings[f"in/{old}"])
      grid = [int(n) for n in new.split("x")]
      grid *= 2 // len(grid)
      yield name, posemb.resize_posemb(stored, (int(old), int(old)), grid)

  return jax.jit(lambda: dict(resize()))()


def assert_all_close(actual, expected):
  for name, array in expected.items():
    assert_close(actual[name], array)


@vectors_lib.checks("bv_resample_patchemb")
def test_kernel(name):
  # The oracle is in float64; the published float32 code is off by up to 1e-5
  # of the largest weight.
  vectors = vectors_lib.Vectors(name)
  oracle = vectors.flat("out/oracle/")
  assert len(oracle) >= 14
  resized = resize_kernels(vectors, oracle)
  assert_all_close(resized, oracle)
  assert_all_close(resized, vectors.flat("out/peer/"))


@vectors_lib.checks("timm_resample_patch_embed")
def test_kernel_as_in_timm(name, monkeypatch):
  vectors = vectors_lib.Vectors(name)
  kernels = vectors_lib.Vectors("bv_resample_patchemb")
  bilinear, bicubic = (
    vectors.flat(f"out/{method}/") for method in ("bilinear", "bicubic_aa")
  )
  assert len(bilinear) >= 14 and len(bicubic) >= 14
  assert_all_close(resize_kernels(kernels, bilinear), bilinear)
  vectors_lib.interpolate_as_timm(monkeypatch)
  assert_all_close(resize_kernels(kernels, bicubic), bicubic)


# What happens to embeddings when files are read is tested with that.
@vectors_lib.checks("bv_posemb")
def test_posemb(name):
  vectors = vectors_lib.Vectors(name)
  forward = vectors.flat("out/forward/")
  assert len(forward) >= 8
  assert_all_close(resize_posembs(vectors, forward), forward)
  for size, expected in vectors.flat("out/sincos2d/").items():
    h, w, width = map(int, size.split("x"))
    assert_close(posemb.sincos2d((h, w), width), expected)


@vectors_lib.checks("timm_resample_abs_pos_embed")
def test_posemb_as_in_timm(name, monkeypatch):
  vectors = vectors_lib.Vectors(name)
  embeddings = vectors_lib.Vectors("bv_posemb")
  bilinear, bicubic = (
    vectors.flat(f"out/{method}/") for method in ("bilinear_aa", "bicubic_aa")
  )
  assert len(bilinear) >= 8 and len(bicubic) >= 8
  assert_all_close(resize_posembs(embeddings, bilinear), bilinear)
  vectors_lib.interpolate_as_timm(monkeypatch)
  assert_all_close(resize_posembs(embeddings, bicubic), bicubic)
