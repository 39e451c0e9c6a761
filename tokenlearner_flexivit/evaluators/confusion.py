"""Confusion matrices of segmentations, and the metrics that follow from them.

A matrix [C, C + 1] counts pixels: a row for each class of the truth, a column
for each class of the prediction, and a last column for pixels whose logits are
not numbers, which are never right.

Letters: B batch, H W truth, h w logits or cells, C classes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int, Int32, Int64, Integer

# Rows of a truth that are compared at a time, to save memory.
_ROWS = 32
# Sums of pixels are two numbers, since one of 32 bits may be too small; the
# first has so many bits.
_BITS = 24
Sums = dict[str, Int32[Array, "C columns"]]


def zeros(num_classes: int) -> dict[str, np.ndarray]:
  """Returns the sums over no pixels, for `add`."""
  shape = (num_classes, num_classes + 1)
  return {name: np.zeros(shape, np.int32) for name in ("low", "high")}


def add(sums: Sums, matrix: Int32[Array, "C columns"]) -> Sums:
  """Adds a matrix of fewer than 2^30 pixels."""
  low = sums["low"] + matrix
  high = sums["high"] + (low >> _BITS)
  return {"low": low & ((1 << _BITS) - 1), "high": high}


def total(sums: dict[str, np.ndarray]) -> Int64[np.ndarray, "C columns"]:
  """Returns the matrix of sums that have left the device."""
  low, high = (np.asarray(sums[name], np.int64) for name in ("low", "high"))
  return (high << _BITS) + low


def predictions(logits: Float[Array, "*size C"]) -> Int32[Array, "*size"]:
  """Returns the most likely classes; C, which is none, where a logit is NaN."""
  best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  return jnp.where(jnp.isnan(logits).any(axis=-1), logits.shape[-1], best)


def count(
  truth: Integer[Array, "*size"],
  predicted: Int32[Array, "*size"],
  counted: Bool[Array, "*size"],
  num_classes: int,
) -> Int32[Array, "C columns"]:
  """Returns the matrix of some pixels.

  Args:
    truth: class numbers.
    predicted: class numbers; C for none.
    counted: False for pixels to leave out.
    num_classes: C.
  """
  columns = num_classes + 1
  size = num_classes * columns
  cell = jnp.where(counted, truth * columns + predicted, size)
  counts = jnp.zeros(size, jnp.int32).at[cell].add(1, mode="drop")
  return counts.reshape(num_classes, columns)


def count_resized(
  logits: Float[Array, "B h w C"],
  truth: Int32[Array, "B H W"],
  counted: Bool[Array, "B H W"],
  seen: Int32[Array, "B 2"],
  shown: Int32[Array, "B 2"],
) -> Int32[Array, "C columns"]:
  """Returns the matrix of a batch whose truth has a size of its own.

  Logits are resized to it bilinearly, with pixel centres at halves and without
  antialiasing, as the published evaluations do, some rows at a time.

  Args:
    logits: of the images.
    truth: class numbers.
    counted: False for pixels to leave out, among them those beyond `shown`.
    seen: height and width of the part of the logits that shows the picture.
    shown: height and width of the part of the truth that shows it.
  """
  num_classes = logits.shape[-1]
  height, width = truth.shape[1:]
  blocks = -(-height // _ROWS)
  after = ((0, 0), (0, blocks * _ROWS - height), (0, 0))
  truth, counted = (
    jnp.pad(x, after).reshape(-1, blocks, _ROWS, width)
    for x in (truth, counted)
  )
  rows = jnp.arange(blocks * _ROWS).reshape(blocks, _ROWS)

  def add_image(matrix, inputs):
    logits, truth, counted, seen, shown = inputs
    across = _taps(jnp.arange(width), seen[1], shown[1])

    def compared(matrix, row, truth, counted):
      part = _between(logits, 0, *_taps(row, seen[0], shown[0]))
      part = _between(part, 1, *across)
      return matrix + count(truth, predictions(part), counted, num_classes)

    def add_rows(matrix, inputs):
      is_shown = inputs[0][0] < shown[0]
      return (
        jax.lax.cond(is_shown, compared, lambda x, *_: x, matrix, *inputs),
        None,
      )

    return jax.lax.scan(add_rows, matrix, (rows, truth, counted))

  nothing = jnp.zeros((num_classes, num_classes + 1), jnp.int32)
  inputs = logits, truth, counted, seen, shown
  return jax.lax.scan(add_image, nothing, inputs)[0]


def _taps(
  positions: Int32[Array, " n"], old: Int32[Array, ""], new: Int32[Array, ""]
) -> tuple[Int32[Array, " n"], Int32[Array, " n"], Float[Array, " n"]]:
  """Returns the two old pixels beside each new one, and the second's weight."""
  centres = (positions + 0.5) * (old / new) - 0.5
  centres = jnp.clip(centres, 0, old - 1)
  first = jnp.floor(centres).astype(jnp.int32)
  return first, jnp.minimum(first + 1, old - 1), centres - first


def _between(
  x: Float[Array, "rows columns C"],
  axis: int,
  first: Int32[Array, " n"],
  second: Int32[Array, " n"],
  weight: Float[Array, " n"],
) -> Float[Array, "new_rows new_columns C"]:
  """Interpolates along an axis."""
  weight = jnp.expand_dims(weight, [i for i in range(3) if i != axis])
  low, high = (jnp.take(x, i, axis=axis) for i in (first, second))
  return low * (1 - weight) + high * weight


def count_best_of_cells(
  truth: Int32[Array, "B H W"],
  counted: Bool[Array, "B H W"],
  seen: Int32[Array, "B 2"],
  shown: Int32[Array, "B 2"],
  cells: tuple[Int32[Array, "B h"], Int32[Array, "B w"]],
  grid: tuple[int, int],
  num_classes: int,
) -> Int32[Array, "C columns"]:
  """Returns the matrix of the best predictions that are constant in each cell.

  Of all such it has the most pixels right: each cell has the class that most of
  its pixels have.

  Args:
    truth: as in `count_resized`.
    counted: as in `count_resized`.
    seen: height and width of the part of the images that shows the picture.
    shown: as in `count_resized`.
    cells: numbers of the cells of the images' rows and columns, such as those
      of patches.
    grid: how many cells there are at most, down and across.
    num_classes: C.
  """

  def cells_of(axis: int, numbers, seen, shown):
    # In whole numbers: the image's pixel at the centre of one of the truth.
    positions = 2 * jnp.arange(truth.shape[1 + axis]) + 1
    pixels = positions * seen[axis] // (2 * shown[axis])
    return numbers[jnp.minimum(pixels, len(numbers) - 1)]

  def add_image(matrix, inputs):
    truth, counted, seen, shown, cells = inputs
    down, across = (cells_of(axis, cells[axis], seen, shown) for axis in (0, 1))
    cell = down[:, None] * grid[1] + across[None, :]
    size = grid[0] * grid[1] * num_classes
    index = jnp.where(counted, cell * num_classes + truth, size)
    counts = jnp.zeros(size, jnp.int32).at[index].add(1, mode="drop")
    most = jnp.argmax(counts.reshape(-1, num_classes), axis=-1)
    predicted = most.astype(jnp.int32)[cell]
    return matrix + count(truth, predicted, counted, num_classes), None

  nothing = jnp.zeros((num_classes, num_classes + 1), jnp.int32)
  inputs = truth, counted, seen, shown, cells
  return jax.lax.scan(add_image, nothing, inputs)[0]


def ious(
  matrix: Int[np.ndarray, "C columns"],
) -> Float64[np.ndarray, " C"]:
  """Returns the intersection over union of each class.

  It is NaN for classes that neither the truth nor the prediction has.
  """
  right = np.diagonal(matrix)
  union = matrix.sum(axis=1) + matrix[:, :-1].sum(axis=0) - right
  return np.where(union > 0, right / np.maximum(union, 1), np.nan)


def metrics(matrix: Int[np.ndarray, "C columns"]) -> dict[str, float]:
  """Returns mIoU, pixel_accuracy and mean_accuracy, in [0, 1].

  The first is the mean over the classes that the truth or the prediction has,
  the last the mean over those of the truth of the share that is right.

  Args:
    matrix: of the whole set, with at least one pixel.
  """
  right, pixels = np.diagonal(matrix), matrix.sum(axis=1)
  there = pixels > 0
  return {
    "mIoU": float(np.nanmean(ious(matrix))),
    "pixel_accuracy": float(right.sum() / pixels.sum()),
    "mean_accuracy": float((right[there] / pixels[there]).mean()),
  }
