"""Absorbs the mean and std of the images that weights expect into weights."""

from collections.abc import Sequence

import numpy as np

from tokenlearner_flexivit.interop.leaves import Leaves
from tokenlearner_flexivit.interop.surgery import KERNEL, KERNEL_RANKS

# Means of images in [0, 1] are hardly ever above 1; those of bytes are.
_MAX_MEAN = 2


def statistics_of_unit_images(
  mean: Sequence[float] | float | None, std: Sequence[float] | float | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns a mean and a standard deviation that a user names, as tuples.

  Raises:
    ValueError: one of them is missing, or they cannot be those of images in
      [0, 1].
  """
  if mean is None or std is None:
    raise ValueError(
      f"input_mean={mean} and input_std={std}: give both, such as the "
      "mean=(0.485, 0.456, 0.406) and std=(0.229, 0.224, 0.225) of ImageNet, "
      "or neither."
    )
  values = tuple(tuple(np.ravel(x).tolist()) for x in (mean, std))
  shown = "input_mean={} and input_std={}".format(*map(list, values))
  if not np.isfinite([x for part in values for x in part]).all():
    raise ValueError(f"{shown} must be finite numbers.")
  if not all(values[1]):
    raise ValueError(f"input_std={list(values[1])} must not contain 0.")
  if max(values[0]) > _MAX_MEAN:
    raise ValueError(
      f"{shown} are of images in [0, 255]. Divide both by 255: they are those "
      "of images in [0, 1]."
    )
  return values


def absorb_statistics(
  leaves: Leaves, mean: Sequence[float], std: Sequence[float]
) -> Leaves:
  """Adapts weights for (x - mean) / std, x in [0, 1], to images in [-1, 1].

  Args:
    leaves: by our names.
    mean: per channel, or one for all.
    std: as `mean`; negative where the images are inverted.

  Returns:
    leaves with a changed patch embedding that computes the same.

  Raises:
    ValueError: another number of channels, or no patch embedding.
  """
  kernel, bias = leaves.get(KERNEL), leaves.get("embedding/bias")
  mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
  is_same = np.all(mean == 0.5) and np.all(std == 0.5)
  if is_same and not kernel:  # Such as a coder of labels.
    return leaves
  if not kernel or not bias or len(kernel.shape) not in KERNEL_RANKS:
    raise ValueError(
      "input_mean and input_std change the patch embedding, but these weights "
      f"have none: {KERNEL!r} or its bias is missing."
    )
  channels = kernel.shape[-2]
  for values in (mean, std):
    if values.shape not in ((1,), (channels,)):
      raise ValueError(
        f"input_mean={mean.tolist()} and input_std={std.tolist()} must each "
        f"have one value for all channels, or {channels}."
      )
  if is_same:
    return leaves
  # (x - mean) / std = y * scale + shift for y = 2 x - 1.
  scale, shift = ((0.5 / std)[:, None], ((0.5 - mean) / std)[:, None])

  def shifted(array):
    axes = tuple(range(len(kernel.shape) - 1))
    return array + np.sum(kernel.read().astype(np.float64) * shift, axes)

  return {
    **leaves,
    KERNEL: kernel.compute(lambda k: k * scale),
    "embedding/bias": bias.compute(shifted),
  }
