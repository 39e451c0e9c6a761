"""Confusion matrices, metrics and sliding windows, by hand and as published."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.vectors import Vectors, checks
from tokenlearner_flexivit.evaluators import confusion, windows


@checks("dense_segm_miou")
def test_metrics_are_the_published_ones(name):
  vectors = Vectors(name)
  for case, about in vectors.meta["cases"].items():
    matrix = np.zeros((about["n_cls"], about["n_cls"] + 1), np.int64)
    for image, truth in vectors.flat(f"in/{case}/gt/").items():
      predicted = vectors[f"in/{case}/pred/{image}"]
      counted = jnp.asarray(truth != vectors.meta["ignore_index"])
      truth, predicted = jnp.asarray(truth), jnp.asarray(predicted)
      matrix += np.asarray(
        confusion.count(truth, predicted, counted, about["n_cls"])
      )
    published = vectors.flat(f"out/oracle64/{case}/")
    iou = np.where(published["iou"] < 0, np.nan, published["iou"])
    np.testing.assert_allclose(confusion.ious(matrix), iou, rtol=1e-12)
    values = confusion.metrics(matrix)
    for ours, theirs in (
      ("mIoU", "mean_iou"),
      ("pixel_accuracy", "pixel_accuracy"),
      ("mean_accuracy", "mean_accuracy"),
    ):
      assert values[ours] == pytest.approx(float(published[theirs]), rel=1e-12)


def test_pixels_without_a_number_are_never_right():
  logits = jnp.asarray([[0.0, 1], [jnp.nan, 1], [jnp.nan, jnp.nan], [2, 1]])
  predicted = confusion.predictions(logits)
  np.testing.assert_array_equal(predicted, [1, 2, 2, 0])
  truth = jnp.asarray([1, 1, 0, 0])
  matrix = np.asarray(confusion.count(truth, predicted, truth >= 0, 2))
  np.testing.assert_array_equal(matrix, [[1, 0, 1], [0, 1, 1]])
  assert confusion.metrics(matrix)["mIoU"] == 0.5


def test_sums_of_more_pixels_than_one_number_holds():
  matrix = np.zeros((1, 2), np.int32)
  matrix[0, 0] = 2**30 - 1
  sums = confusion.zeros(1)
  for _ in range(5):
    sums = jax.jit(confusion.add)(sums, matrix)
  assert confusion.total(jax.device_get(sums)).tolist() == [
    [5 * (2**30 - 1), 0]
  ]


def test_counts_at_the_size_of_the_truth():
  """Larger, smaller and unequal pictures, against OpenCV's resize."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 12, 10, 4)).astype(np.float32)
  seen = np.int32([[12, 10], [9, 10], [5, 7]])
  shown = np.int32([[40, 30], [12, 31], [5, 3]])
  truth = rng.integers(0, 4, (3, 40, 31)).astype(np.int32)
  counted = rng.random(truth.shape) < 0.8
  expected = np.zeros((4, 5), int)
  for i in range(3):
    (h, w), (height, width) = seen[i], shown[i]
    counted[i, height:] = counted[i, :, width:] = False
    full = cv2.resize(
      logits[i, :h, :w].astype(np.float64),
      (int(width), int(height)),
      interpolation=cv2.INTER_LINEAR,
    )
    best = full.argmax(axis=-1)
    for row in range(height):
      for column in range(width):
        if counted[i, row, column]:
          expected[truth[i, row, column], best[row, column]] += 1
  matrix = jax.jit(confusion.count_resized)(logits, truth, counted, seen, shown)
  np.testing.assert_array_equal(matrix, expected)


def test_the_best_of_patches():
  truth = np.full((1, 4, 6), 2, np.int32)
  truth[0, :2, :2] = [[0, 1], [1, 1]]
  truth[0, 2:, 4:] = [[0, 0], [2, 1]]
  counted = np.ones(truth.shape, bool)
  counted[0, 0, 1] = counted[0, 1, 1] = False  # Of 0 and 1 remains one each.
  size = np.int32([[4, 6]])

  def best(patch_size, seen=size):
    sizes = [int(side) for side in seen[0]]
    cells, grid = zip(
      *map(windows.cells, sizes, jnp.asarray(seen.T), sizes, sizes, patch_size),
      strict=True,
    )
    return np.asarray(
      confusion.count_best_of_cells(
        jnp.asarray(truth),
        jnp.asarray(counted),
        jnp.asarray(seen),
        jnp.asarray(size),
        cells,
        grid,
        3,
      )
    )

  # Patches of 2: the first has a tie, which the lower class wins.
  expected = [[3, 0, 0, 0], [2, 0, 0, 0], [1, 0, 16, 0]]
  np.testing.assert_array_equal(best((2, 2)), expected)
  # The same places, whatever the size at which the model sees them.
  np.testing.assert_array_equal(best((4, 6), size * [[2, 3]]), expected)
  assert np.diagonal(best((1, 1))).sum() == counted.sum()


def test_cells_are_what_no_edge_of_a_patch_cuts():
  seen = jnp.asarray([10, 7, 3])
  cells, limit = windows.cells(11, seen, window=5, stride=4, patch_size=3)
  # Windows from 0, 4 and 5, from 0 and 2, and from 0, of patches 3 and 2 long.
  begins = np.asarray([0, 3, 4, 5, 7, 8, 9]), np.asarray([0, 2, 3, 5])
  for row, edges in zip(cells, begins, strict=False):
    expected = np.searchsorted(edges, np.arange(7), side="right") - 1
    np.testing.assert_array_equal(row[:7], expected)
  assert cells[2, :3].tolist() == [0, 0, 0]
  assert int(cells.max()) < limit <= 11


@checks("dense_segm_sliding")
def test_sliding_windows_are_the_published_ones(name):
  vectors = Vectors(name)
  for case in vectors.meta["cases"]:
    size, rest = case.split("@")
    height, width = map(int, size.split("x"))
    window, stride = map(int, rest.split("/"))
    places = [
      (i, j)
      for i in windows.anchors(height, window, stride)
      for j in windows.anchors(width, window, stride)
    ]
    expected = vectors[f"out/{case}/anchors"]
    np.testing.assert_array_equal(places, expected)
    maps = jnp.moveaxis(jnp.asarray(vectors[f"in/{case}/seg_maps"]), 1, -1)
    # Beside the picture there is padding, and each pixel knows its place.
    rows, columns = np.indices((height + 5, width + 9)).astype(np.float32)
    images = np.stack([rows, columns, 0 * rows], axis=-1)[None]

    def answer(parts, expected=expected, maps=maps):
      begins = parts[:, 0, 0, :2].astype(jnp.int32)
      same = (begins[:, None] == jnp.asarray(expected)[None]).all(axis=-1)
      return maps[jnp.argmax(same, axis=1)]

    seen = jnp.asarray([[height, width]])
    logits = jax.jit(
      lambda x, seen, answer=answer, window=window, stride=stride: (
        windows.slide(answer, x, seen, (window,) * 2, (stride,) * 2)
      )
    )(images, seen)
    y = jax.nn.softmax(logits[0, :height, :width])
    np.testing.assert_allclose(
      y, np.moveaxis(vectors[f"out/{case}/y"], 0, -1), atol=1e-6
    )


def test_a_window_larger_than_the_image():
  images = jnp.ones((1, 3, 4, 3))
  seen = jnp.asarray([[3, 4]])
  logits = windows.slide(lambda x: x, images, seen, (5, 4), (2, 2))
  np.testing.assert_array_equal(logits, images)
