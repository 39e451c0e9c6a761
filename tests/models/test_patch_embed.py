"""PI-resize against its definition; the embedding as a convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import patch_embed as benchmark
from tokenlearner_flexivit.models import patch_embed, tiling

# Square and not, up, down, and one axis each way.
UP = [((4, 4), (8, 8)), ((8, 8), (9, 13)), ((5, 8), (5, 12)), ((6, 6), (7, 7))]
DOWN = [((8, 8), (4, 4)), ((8, 6), (5, 3)), ((8, 8), (7, 8)), ((9, 9), (2, 1))]
MIXED = [((7, 9), (9, 7)), ((4, 8), (10, 3))]


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def bilinear(x, size):
  """Resizes [p, q, ...] with the library's own matrices."""
  rows, columns = (
    patch_embed.bilinear_matrix(old, new)
    for old, new in zip(x.shape[:2], size, strict=True)
  )
  return np.einsum("Pp,Qq,pq...->PQ...", rows, columns, x)


def kron_matrix(old, new):
  """The matrix [P Q, p q] of a 2-D resize, which the library avoids."""
  return np.kron(
    patch_embed.bilinear_matrix(old[0], new[0]),
    patch_embed.bilinear_matrix(old[1], new[1]),
  )


@pytest.mark.parametrize("old,new", UP + DOWN + MIXED)
def test_bilinear_equals_jax_without_antialias(old, new):
  x = normal(0, *old)
  expected = jax.image.resize(x, new, "bilinear", antialias=False)
  np.testing.assert_allclose(bilinear(x, new), expected, atol=5e-6)


@pytest.mark.parametrize("old,new", UP)
def test_pi_resize_keeps_the_embedding_of_growing_patches(old, new):
  kernel, patches = normal(0, *old, 3, 5), normal(1, *old, 3)
  resized = patch_embed.resize_kernel(jnp.asarray(kernel), new)
  assert resized.shape == (*new, 3, 5)
  np.testing.assert_allclose(
    np.einsum("pqc,pqcd->d", bilinear(patches, new), resized),
    np.einsum("pqc,pqcd->d", patches, kernel),
    atol=2e-5,
  )


@pytest.mark.parametrize("old,new", DOWN + MIXED + UP)
def test_pi_resize_is_the_least_squares_optimum(old, new):
  # For x ~ N(0, I), E(<x, w> - <Bx, w'>)^2 = |w - B^T w'|^2.
  kernel = normal(0, *old, 2, 3)
  flat = kernel.reshape(old[0] * old[1], -1).astype(np.float64)
  best = np.linalg.lstsq(kron_matrix(old, new).T, flat, rcond=1e-9)[0]
  resized = patch_embed.resize_kernel(jnp.asarray(kernel), new)
  np.testing.assert_allclose(
    resized, best.reshape(*new, 2, 3), atol=1e-5 * np.abs(best).max()
  )


@pytest.mark.parametrize("old,new", [((8, 8), (12, 6)), ((4, 6), (9, 9))])
def test_heuristics(old, new):
  kernel = normal(0, *old, 2, 3)
  vanilla = bilinear(kernel, new)
  area = old[0] * old[1] / (new[0] * new[1])

  def norm(w):
    return np.sqrt(np.sum(w**2, axis=(0, 1, 2), keepdims=True))

  for method, expected in (
    ("vanilla", vanilla),
    ("area", area * vanilla),
    ("norm", norm(kernel) / norm(vanilla) * vanilla),
  ):
    resized = patch_embed.resize_kernel(jnp.asarray(kernel), new, method)
    np.testing.assert_allclose(resized, expected, atol=1e-5)


@pytest.mark.parametrize("method", patch_embed.METHODS)
def test_stored_size_is_untouched(method):
  kernel = jnp.asarray(normal(0, 4, 6, 2, 3))
  assert patch_embed.resize_kernel(kernel, (4, 6), method) is kernel


def test_resize_keeps_the_dtype():
  kernel = jnp.ones((4, 4, 1, 2), jnp.bfloat16)
  assert patch_embed.resize_kernel(kernel, 6).dtype == jnp.bfloat16


@pytest.mark.parametrize("patch_size", [None, 4, (6, 3)])
def test_embedding_equals_strided_convolution(patch_size):
  images = jnp.asarray(normal(0, 2, 24, 12, 3))
  module = patch_embed.PatchEmbed(5, (8, 6))
  params = module.init(jax.random.key(0), images)["params"]
  assert jax.tree.map(jnp.shape, params) == {
    "kernel": (8, 6, 3, 5),
    "bias": (5,),
  }
  params["bias"] = jnp.asarray(normal(1, 5))
  size = tiling.to_pair(patch_size or (8, 6))
  expected = jax.lax.conv_general_dilated(
    images,
    patch_embed.resize_kernel(params["kernel"], size),
    window_strides=size,
    padding="VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  actual = module.apply({"params": params}, images, patch_size)
  assert actual.shape == (2, 24 // size[0], 12 // size[1], 5)
  np.testing.assert_allclose(
    actual, expected + params["bias"][None, None, None, :], atol=1e-5
  )


def test_check_patch_size():
  assert tiling.check_patch_size(240, 48) == (5, 5)
  assert tiling.check_patch_size((60, 80), (12, 16)) == (5, 5)
  with pytest.raises(ValueError, match=r"13x13 .* 48x48.*: 1, 2, 3, 4, 6, 8"):
    tiling.check_patch_size(48, 13)
  with pytest.raises(ValueError, match=r"60x80.*Heights.*60. Widths.*40, 80"):
    tiling.check_patch_size((60, 80), 16)
  for bad in (0, -4, (4, 4, 4), 2.5):
    with pytest.raises(ValueError, match="positive integers"):
      tiling.check_patch_size(48, bad)


def test_unknown_method():
  with pytest.raises(ValueError, match=r"'nearest'.*pi, vanilla, area, norm"):
    patch_embed.resize_kernel(jnp.ones((4, 4, 1, 1)), 8, "nearest")


def test_benchmark_runs():
  result = benchmark.measure_application(old=8, sizes=(4, 12), width=4)
  assert result["milliseconds"] > 0


def test_a_traced_patch_size_says_what_to_do():
  with pytest.raises(ValueError, match='static_argnames="patch_size"'):
    jax.jit(lambda p: tiling.check_patch_size(12, p))(4)


@pytest.mark.parametrize("method", patch_embed.METHODS)
def test_frames_are_an_axis_like_the_others(method):
  kernel, size = normal(0, 2, 4, 5, 3, 2), (3, 6, 4)
  resized = patch_embed.resize_kernel(jnp.asarray(kernel), size, method)
  matrix = patch_embed.bilinear_matrix
  if method == "pi":
    matrix = patch_embed.pi_matrix
  matrices = [matrix(*sizes) for sizes in zip((2, 4, 5), size, strict=True)]
  expected = np.einsum("Tt,Pp,Qq,tpqcd->TPQcd", *matrices, kernel)
  if method == "area":
    expected *= 2 * 4 * 5 / (3 * 6 * 4)
  elif method == "norm":
    old, new = (
      np.linalg.norm(k.reshape(-1, 2), axis=0) for k in (kernel, expected)
    )
    expected *= old / new
  np.testing.assert_allclose(resized, expected, atol=1e-5)


def test_growing_tubelets_keep_their_embedding():
  kernel, video = normal(0, 2, 4, 4, 3, 5), normal(1, 2, 4, 4, 3)
  resized = patch_embed.resize_kernel(jnp.asarray(kernel), (4, 6, 8))
  grown = bilinear(np.moveaxis(bilinear(video, (4, 6)), 2, 0), (8, 4))
  np.testing.assert_allclose(
    np.einsum("qtpc,tpqcd->d", grown, resized),
    np.einsum("tpqc,tpqcd->d", video, kernel),
    atol=5e-5,
  )


def test_tubelets_without_a_new_length_keep_theirs():
  kernel = jnp.asarray(normal(0, 2, 4, 4, 3, 5))
  assert patch_embed.resize_kernel(kernel, 4) is kernel
  resized = patch_embed.resize_kernel(kernel, 6)
  for frame in (0, 1):
    np.testing.assert_allclose(
      resized[frame],
      patch_embed.resize_kernel(kernel[frame], 6),
      atol=1e-6,
    )
  with pytest.raises(ValueError, match="has no frames"):
    patch_embed.resize_kernel(kernel[0], (2, 6, 6))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_images_are_sharded_over_automatic_axes_alone(kind):
  mesh = jax.make_mesh(
    (1,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),)
  )
  embed = patch_embed.PatchEmbed(4, (2, 2))
  images = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
  params = embed.init(jax.random.key(1), images)
  expected = embed.apply(params, images, 3)
  spec = jax.sharding.PartitionSpec("data")
  sharded = jax.device_put(images, jax.sharding.NamedSharding(mesh, spec))
  apply = jax.jit(lambda params, images: embed.apply(params, images, 3))
  if kind == "Auto":
    np.testing.assert_allclose(apply(params, sharded), expected, rtol=1e-5)
  else:
    words = r"Images \[2, 6, 6, 3\] .*'data'.* axis_types=\(.*AxisType.Auto"
    with pytest.raises(ValueError, match=words):
      apply(params, sharded)
