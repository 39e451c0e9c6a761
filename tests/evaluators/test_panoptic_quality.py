"""Panoptic quality: equal to panopticapi, and what it must be."""

import jax
import numpy as np
import pytest

from tests import vectors
from tokenlearner_flexivit.evaluators import panoptic_quality
from tokenlearner_flexivit.evaluators.panoptic_quality import NO_CLASS, Counts

_areas = jax.jit(panoptic_quality.areas, static_argnums=(2, 3))


def numbered(ids, segments, categories):
  """Returns a map of segment numbers, and the class of each number."""
  listed = segments[:, 0].tolist()
  assert set(np.unique(ids).tolist()) <= {0, *listed}
  result = np.zeros(ids.shape, np.int32)
  for number, value in enumerate(listed, start=1):
    result[ids == value] = number
  order = {category: i for i, category in enumerate(categories.tolist())}
  classes = [order[category] for category in segments[:, 1].tolist()]
  return result, np.array([NO_CLASS, *classes])


def counts_of(case, name):
  """Returns the counts of a case, and which classes are things."""
  categories = case[f"in/{name}/categories"]
  total = Counts.zeros(len(categories))
  for image, ids in sorted(case.flat(f"in/{name}/gt/").items()):
    segments = [
      rows[rows[:, 0] == int(image), 1:]
      for rows in (
        case[f"in/{name}/gt_segments"],
        case[f"in/{name}/pred_segments"],
      )
    ]
    truth, true_classes = numbered(ids, segments[0], categories[:, 0])
    predicted, classes = numbered(
      case[f"in/{name}/pred/{image}"], segments[1], categories[:, 0]
    )
    table = _areas(predicted, truth, len(classes), len(true_classes))
    crowds = np.array([False, *segments[0][:, 2].astype(bool)])
    total = total.plus(
      panoptic_quality.compare(
        np.asarray(table), classes, true_classes, crowds, len(categories)
      )
    )
  return total, categories[:, 1] > 0


CASES = (
  "mixed",
  "no_crowd",
  "things_only",
  "perfect",
  "nothing",
  "edges",
  "two_crowds",
)


@pytest.mark.parametrize("case_name", CASES)
@vectors.checks("dense_pq")
def test_quality_is_that_of_panopticapi(name, case_name):
  case = vectors.Vectors(name)
  counts, is_thing = counts_of(case, case_name)
  np.testing.assert_array_equal(
    np.stack(counts[:3], axis=1), case[f"out/{case_name}/tp_fp_fn"]
  )
  expected = case.flat(f"out/oracle64/{case_name}/")
  np.testing.assert_allclose(counts.iou, expected["iou_sum"], rtol=1e-12)
  np.testing.assert_allclose(
    np.nan_to_num(panoptic_quality.of_classes(counts)),
    expected["per_category"],
    rtol=1e-12,
  )
  is_known = ~np.isnan(panoptic_quality.of_classes(counts)[:, 0])
  kinds = {"all": is_thing | True, "things": is_thing, "stuff": ~is_thing}
  for kind, chosen in kinds.items():
    number = case.flat(f"out/{case_name}/").get(f"{kind}_n", 0)
    assert (is_known & chosen).sum() == number
    mean = panoptic_quality.mean(counts, chosen)
    if kind in expected:
      np.testing.assert_allclose(mean, expected[kind], rtol=1e-12)
    else:  # panopticapi divides by zero.
      assert np.isnan(mean).all()


def test_the_truth_is_perfect_and_its_numbers_do_not_matter():
  rng = np.random.default_rng(0)
  truth = rng.integers(0, 5, (12, 9)).astype(np.int32)
  classes = np.array([NO_CLASS, 1, 0, 2, 1])
  order = np.array([0, 3, 1, 4, 2], np.int32)
  swapped = np.argsort(order)
  table = _areas(order[truth], truth, 5, 5)
  counts = panoptic_quality.compare(
    np.asarray(table), classes[swapped], classes, np.zeros(5, bool), 3
  )
  np.testing.assert_array_equal(counts.matched, [1, 2, 1])
  np.testing.assert_array_equal(panoptic_quality.mean(counts), [1, 1, 1])


def test_pixels_that_do_not_count_count_nowhere():
  truth = np.ones((4, 4), np.int32)
  predicted = np.full((4, 4), 2, np.int32)
  counted = np.arange(16).reshape(4, 4) < 5
  table = np.asarray(_areas(predicted, truth, 3, 2, counted))
  assert table.sum() == table[2, 1] == 5
