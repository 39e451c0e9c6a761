"""Patch embedding whose kernel is resized to any patch size on the fly.

Letters: p q stored kernel, P Q requested patch, h w grid, C D as everywhere.
"""

import functools
import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Size = int | Sequence[int]
METHODS = ("pi", "vanilla", "area", "norm")


def to_pair(size: Size) -> tuple[int, int]:
  """Returns (height, width) for an int or a sequence of two ints."""
  pair = tuple(size) if np.iterable(size) else (size, size)
  static = all(isinstance(s, numbers.Integral) for s in pair)
  if any(isinstance(s, jax.core.Tracer) for s in pair):
    raise ValueError(
      "A size must be static, but this one is traced. Under jit, name the"
      ' argument: jax.jit(f, static_argnames="patch_size").'
    )
  if len(pair) != 2 or not static or min(pair) < 1:
    raise ValueError(f"Expected one or two positive integers, got {size!r}.")
  return int(pair[0]), int(pair[1])


def check_patch_size(image_size: Size, patch_size: Size) -> tuple[int, int]:
  """Returns the grid (h, w) into which patches divide an image.

  Args:
    image_size: int or (height, width) in pixels.
    patch_size: int or (height, width) in pixels.

  Raises:
    ValueError: if the patches do not tile the image; it names the sizes that
      do. Cropping what is left over would lose pixels without a sound.
  """
  image, patch = to_pair(image_size), to_pair(patch_size)
  if image[0] % patch[0] or image[1] % patch[1]:
    fits = [
      ", ".join(str(p) for p in range(1, s + 1) if s % p == 0) for s in image
    ]
    if image[0] == image[1]:
      hint = f"Sizes that do: {fits[0]}."
    else:
      hint = f"Heights that do: {fits[0]}. Widths that do: {fits[1]}."
    raise ValueError(
      f"Patch size {patch[0]}x{patch[1]} does not divide the image size"
      f" {image[0]}x{image[1]}. {hint}"
    )
  return image[0] // patch[0], image[1] // patch[1]


@functools.cache
def bilinear_matrix(old: int, new: int) -> np.ndarray:
  """Returns the float64 matrix [new, old] of a 1-D bilinear resize.

  Half-pixel centres, edge values repeated, no antialiasing: a row has at most
  two non-zero entries, also when it shrinks.
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
def pi_matrix(old: int, new: int) -> np.ndarray:
  """Returns (B^T)^+ [new, old] in float64 for B = bilinear_matrix(old, new)."""
  # B has full rank, with a condition number below 6 for all sizes up to 64; the
  # cut-off only has to be far above float64 rounding.
  matrix = np.linalg.pinv(bilinear_matrix(old, new).T, rcond=1e-9)
  matrix.flags.writeable = False
  return matrix


def resize_kernel(
  kernel: jax.Array, new_size: Size, method: str = "pi"
) -> jax.Array:
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

  Args:
    kernel: [p, q, C, D].
    new_size: int or (P, Q), static.
    method: "pi", "vanilla", "area" or "norm".

  Returns:
    [P, Q, C, D] in the dtype of `kernel`, which itself is returned if it has
    that size already.

  Raises:
    ValueError: for an unknown method.
  """
  if method not in METHODS:
    raise ValueError(
      f"Unknown method {method!r} to resize a patch embedding. Known:"
      f" {', '.join(METHODS)}."
    )
  old_size, new_size = kernel.shape[:2], to_pair(new_size)
  if old_size == new_size:
    return kernel

  matrix = pi_matrix if method == "pi" else bilinear_matrix
  # Weights, not activations: full precision costs little here, and TPU and GPU
  # defaults would round the kernel.
  matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  (p, q), (new_p, new_q), (c, d) = old_size, new_size, kernel.shape[2:]
  resized = kernel
  if p != new_p:
    rows = jnp.asarray(matrix(p, new_p), kernel.dtype)
    resized = matmul(rows, resized.reshape(p, q * c * d))
  if q != new_q:
    # One product per row leaves the layout as it is: on CPU this is three
    # times as fast as a single product and a transposition.
    columns = jnp.asarray(matrix(q, new_q), kernel.dtype)
    columns = jnp.broadcast_to(columns[None], (new_p, new_q, q))
    resized = matmul(columns, resized.reshape(new_p, q, c * d))
  resized = resized.reshape(new_p, new_q, c, d)

  if method == "area":
    resized *= p * q / (new_p * new_q)
  elif method == "norm":
    norms = [
      jnp.sqrt(jnp.sum(k**2, axis=(0, 1, 2), keepdims=True))
      for k in (kernel, resized)
    ]
    resized *= norms[0] / jnp.maximum(norms[1], 1e-12)
  return resized


class PatchEmbed(nn.Module):
  """Cuts images into patches and maps each to a token, at any patch size.

  Attributes:
    width: D, features of a token.
    patch_size: (p, q), the size of the stored kernel.
    dtype: of the computation; the parameters are float32.
  """

  width: int
  patch_size: tuple[int, int]
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, images: jax.Array, patch_size: Size | None = None
  ) -> jax.Array:
    """Embeds the patches.

    Args:
      images: [B, H, W, C].
      patch_size: int or (P, Q), static; None means the stored size.

    Returns:
      tokens [B, h, w, D].

    Raises:
      ValueError: if the patch size does not divide the image.
    """
    b, height, width, c = images.shape
    p, q = to_pair(self.patch_size if patch_size is None else patch_size)
    h, w = check_patch_size((height, width), (p, q))
    kernel = self.param(
      "kernel",
      nn.initializers.lecun_normal(),
      (*self.patch_size, c, self.width),
    )
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    kernel = resize_kernel(kernel, (p, q)).astype(self.dtype)

    # The strided convolution, written as one matrix product. On CPU it takes
    # 0.5x to 0.8x the time of lax.conv_general_dilated, forward and backward.
    x = images.astype(self.dtype).reshape(b, h, p, w, q, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b * h * w, p * q * c)
    x = x @ kernel.reshape(p * q * c, self.width)
    x += bias.astype(self.dtype)[None, :]
    return x.reshape(b, h, w, self.width)
