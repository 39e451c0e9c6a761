"""Sizes of inputs and patches, and how patches tile an image or a video."""

import numbers
from collections.abc import Sequence

import jax
import numpy as np

Size = int | Sequence[int]


def to_size(size: Size, name: str = "") -> tuple[int, ...]:
  """Returns (height, width), or (frames, height, width).

  Args:
    size: an int, or a list of one, for both height and width; or two ints; or
      three.
    name: the size's name in errors.

  Raises:
    ValueError: for anything else, or a size that is traced.
  """
  sizes = tuple(size) if np.iterable(size) else (size,)
  sizes = sizes * 2 if len(sizes) == 1 else sizes
  if any(isinstance(s, jax.core.Tracer) for s in sizes):
    raise ValueError(
      "A size must be static, but this one is traced. Under jit, name the"
      ' argument: jax.jit(f, static_argnames="patch_size").'
    )
  static = all(
    isinstance(s, numbers.Integral) and not isinstance(s, bool) for s in sizes
  )
  if len(sizes) not in (2, 3) or not static or min(sizes) < 1:
    raise ValueError(
      f"{name and f'{name}: '}Expected one or two positive integers, or three"
      f" with frames first, got {size!r}."
    )
  return tuple(int(s) for s in sizes)


def to_pair(size: Size, name: str = "") -> tuple[int, int]:
  """Returns (height, width).

  Arguments and errors are those of `to_size`; frames are an error, too.
  """
  sizes = to_size(size, name)
  if len(sizes) != 2:
    raise ValueError(
      f"{name and f'{name}: '}Expected one or two positive integers, got"
      f" {size!r}."
    )
  return sizes


def check_patch_size(image_size: Size, patch_size: Size) -> tuple[int, ...]:
  """Returns the grid (h, w) into which patches divide an image.

  Args:
    image_size: int or (height, width) in pixels; (frames, height, width) for a
      video, whose grid is (T', h, w).
    patch_size: int, or as many numbers as `image_size` has.

  Raises:
    ValueError: if the patches do not tile the image; it names the sizes that
      do. Cropping the remainder would silently lose pixels.
  """
  image, patch = to_size(image_size), to_size(patch_size)
  if len(image) != len(patch):
    raise ValueError(
      f"Expected a patch size of {len(image)} positive integers, got"
      f" {patch_size!r}."
    )
  if any(s % p for s, p in zip(image, patch, strict=True)):
    fits = [
      ", ".join(str(p) for p in range(1, s + 1) if s % p == 0) for s in image
    ]
    if len(image) == 2 and image[0] == image[1]:
      hint = f"Sizes that do: {fits[0]}."
    else:
      axes = ("Frames", "Heights", "Widths")[-len(image) :]
      hint = " ".join(
        f"{axis} that do: {fit}." for axis, fit in zip(axes, fits, strict=True)
      )
    kind = "image" if len(image) == 2 else "video"
    shown = ["x".join(map(str, size)) for size in (patch, image)]
    raise ValueError(
      f"Patch size {shown[0]} does not divide the {kind} size {shown[1]}."
      f" {hint}"
    )
  return tuple(s // p for s, p in zip(image, patch, strict=True))
