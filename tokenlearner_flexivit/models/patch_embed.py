"""Patch embedding whose kernel is resized to any patch size on the fly.

Letters: p q stored kernel, P Q requested patch, h w grid, C channels, D width.
Videos have an axis of frames in front: t of the stored kernel, T of the
requested patch, T' of the grid.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float, Float64

from tokenlearner_flexivit.models import checks, tiling

METHODS = ("pi", "vanilla", "area", "norm")


@functools.cache
def bilinear_matrix(old: int, new: int) -> Float64[np.ndarray, "{new} {old}"]:
  """Returns the matrix of a 1-D bilinear resize.

  Its pixel centres are at halves, edge values are repeated, and nothing is
  antialiased: a row has at most two non-zero entries, also when it shrinks.
  """
  centers = (np.arange(new) + 0.5) * (old / new) - 0.5
  left = np.floor(centers).astype(int)
  right_weight = centers - left
  rows = np.arange(new)
  matrix = np.zeros((new, old))
  np.add.at(matrix, (rows, left.clip(0, old - 1)), 1 - right_weight)
  np.add.at(matrix, (rows, (left + 1).clip(0, old - 1)), right_weight)
  matrix.flags.writeable = False
  return matrix


@functools.cache
def pi_matrix(old: int, new: int) -> Float64[np.ndarray, "{new} {old}"]:
  """Returns (B^T)^+ for B = bilinear_matrix(old, new)."""
  # B has full rank, with a condition number below 6 for all sizes up to 64, so
  # the cut-off only has to be far above float64 rounding.
  matrix = np.linalg.pinv(bilinear_matrix(old, new).T, rcond=1e-9)
  matrix.flags.writeable = False
  return matrix


def resize_kernel(
  kernel: Float[ArrayLike, "*old C D"],
  new_size: tiling.Size,
  method: str = "pi",
) -> Float[ArrayLike, "*new C D"]:
  """Resizes a patch embedding kernel (FlexiViT, Section 3.4).

  With B = B_h kron B_w the bilinear resize of a patch and w the kernel of one
  output feature, the methods are those of the paper's Figure 4:

  * "pi": w' = (B^T)^+ w. Growing patches are embedded exactly as before,
    <x, w> = <Bx, w'>; for shrinking ones w' minimises the expected squared
    difference over x ~ N(0, I). B^+ factors as B_h^+ kron B_w^+, so this is
    two products with small matrices.
  * "vanilla": w' = B w. Tokens grow with the area of the patch.
  * "area": w' = (p q / P Q) B w, vanilla corrected for the number of pixels.
  * "norm": w' = (|w| / |B w|) B w, vanilla rescaled so that the kernel of each
    output feature keeps its l2 norm.

  Frames are an axis like the others, B = B_t kron B_h kron B_w.

  Args:
    kernel: [p, q, C, D], or [t, p, q, C, D] for tubelets.
    new_size: int or (P, Q), static; for tubelets also (T, P, Q). Without T they
      keep their frames.
    method: "pi", "vanilla", "area" or "norm".

  Returns:
    [P, Q, C, D] or [T, P, Q, C, D] in the dtype of `kernel`; `kernel` itself if
    it has this size already.

  Raises:
    ValueError: for an unknown method, or frames where the kernel has none.
  """
  if method not in METHODS:
    raise ValueError(
      f"Unknown method {method!r} to resize a patch embedding. Known:"
      f" {', '.join(METHODS)}."
    )
  old_size = kernel.shape[:-2]
  new_size = tiling.to_size(new_size)
  if len(new_size) > len(old_size):
    raise ValueError(f"A kernel {list(kernel.shape)} has no frames to resize.")
  new_size = (*old_size[: len(old_size) - len(new_size)], *new_size)
  if tuple(old_size) == new_size:
    return kernel

  matrix = pi_matrix if method == "pi" else bilinear_matrix
  dtype = jnp.promote_types(kernel.dtype, jnp.float32)
  matrices = [
    None if old == new else jnp.asarray(matrix(old, new), dtype)
    for old, new in zip(old_size, new_size, strict=True)
  ]
  resized = jax.lax.platform_dependent(
    kernel.astype(dtype),
    *matrices,
    cpu=_multiply_rows,
    default=_multiply_axes,
  )

  if method == "area":
    resized *= math.prod(old_size) / math.prod(new_size)
  elif method == "norm":
    norms = [
      jnp.sqrt(jnp.sum(k**2, axis=range(k.ndim - 1), keepdims=True))
      for k in (kernel.astype(resized.dtype), resized)
    ]
    resized *= norms[0] / jnp.maximum(norms[1], 1e-12)
  return resized.astype(kernel.dtype)


# Weights, not activations: full precision costs little, and the defaults of TPU
# and GPU would round the kernel.
_FULL = jax.lax.Precision.HIGHEST


def _multiply_axes(kernel: jax.Array, *matrices: jax.Array | None) -> jax.Array:
  """Returns the kernel with a matrix applied to each of its first axes.

  None leaves an axis as it is.
  """
  axes = "tpq"[-len(matrices) :]
  # The last axis first: a TPU's compiler needs no copy then.
  for axis, matrix in reversed(list(zip(axes, matrices, strict=True))):
    if matrix is not None:
      product = f"N{axis},{axes}cd->{axes.replace(axis, 'N')}cd"
      kernel = jnp.einsum(product, matrix, kernel, precision=_FULL)
  return kernel


def _multiply_rows(kernel: jax.Array, *matrices: jax.Array | None) -> jax.Array:
  """Returns what `_multiply_axes` does, by one product per row.

  This leaves the layout as it is. On CPU it is three times as fast as a single
  product and a transposition.
  """
  *size, c, d = kernel.shape
  for axis, matrix in enumerate(matrices):
    if matrix is None:
      continue
    rest = math.prod(size[axis + 1 :]) * c * d
    batch = (math.prod(size[:axis]),) if axis else ()
    rows = jnp.broadcast_to(matrix, (*batch, *matrix.shape))
    kernel = jnp.matmul(
      rows, kernel.reshape(*batch, size[axis], rest), precision=_FULL
    )
    size[axis] = len(matrix)
  return kernel.reshape(*size, c, d)


class PatchEmbed(nn.Module):
  """A patch embedding: cuts images into patches of any size, one token each.

  If the kernel has frames, it cuts videos into tubelets.

  Attributes:
    width: D, features of a token.
    patch_size: (p, q) or (t, p, q), the size of the stored kernel.
    dtype: of the computation; the parameters are float32.
  """

  width: int
  patch_size: tuple[int, ...]
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    images: Float[ArrayLike, "B *size C"],
    patch_size: tiling.Size | None = None,
  ) -> Float[Array, "B *grid {self.width}"]:
    """Embeds the patches.

    Args:
      images: [B, H, W, C], or [B, frames, H, W, C].
      patch_size: int or (P, Q), or (T, P, Q); static. None means the stored
        size.

    Returns:
      tokens [B, h, w, D], or [B, T', h, w, D].

    Raises:
      ValueError: if the patch size does not divide the image, or the images
        are sharded over explicit axes of a mesh.
    """
    checks.no_explicit_axes(images, "Images")
    _, *size, c = images.shape
    patch = tiling.to_size(
      self.patch_size if patch_size is None else patch_size
    )
    tiling.check_patch_size(size, patch)
    kernel = self.param(
      "kernel",
      nn.initializers.lecun_normal(),
      (*self.patch_size, c, self.width),
    )
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    kernel = jnp.asarray(resize_kernel(kernel, patch), self.dtype)

    x = jax.lax.platform_dependent(
      jnp.asarray(images, self.dtype),
      kernel,
      cpu=_cut_and_multiply,
      default=_convolve,
    )
    bias = bias.astype(self.dtype)
    return x + jnp.expand_dims(bias, range(x.ndim - 1))


def _convolve(
  images: Float[Array, "B *size C"], kernel: Float[Array, "*patch C D"]
) -> Float[Array, "B *grid D"]:
  """Embeds patches by a convolution whose strides are the patch size."""
  axes = "THW"[-(images.ndim - 2) :]
  return jax.lax.conv_general_dilated(
    images,
    kernel,
    window_strides=kernel.shape[:-2],
    padding="VALID",
    dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
  )


def _cut_and_multiply(
  images: Float[Array, "B *size C"], kernel: Float[Array, "*patch C D"]
) -> Float[Array, "B *grid D"]:
  """Embeds patches by one matrix product.

  On CPU it takes 0.5x to 0.8x the time of the convolution, forward and
  backward.
  """
  b, *size, c = images.shape
  *patch, _, width = kernel.shape
  grid = [s // p for s, p in zip(size, patch, strict=True)]
  cut = [s for pair in zip(grid, patch, strict=True) for s in pair]
  last = 2 * len(grid) + 1
  x = images.reshape(b, *cut, c)
  x = x.transpose(0, *range(1, last, 2), *range(2, last, 2), last)
  x = x.reshape(b * math.prod(grid), math.prod(patch) * c)
  x = x @ kernel.reshape(math.prod(patch) * c, width)
  return x.reshape(b, *grid, width)
