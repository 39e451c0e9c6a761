"""COCO's average precision: pycocotools' own numbers, by our arrays."""

import numpy as np
import pytest

from tests.vectors import Vectors, checks
from tokenlearner_flexivit.evaluators import coco_ap, detection

pytest.importorskip("pycocotools", reason="pip install pycocotools")
KINDS = [
  f"dense_cocoap_{kind}" for kind in ("plain", "ties", "empty_images", "many")
]


def corners(boxes):
  """(x, y, width, height) as corners."""
  return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


@checks(*KINDS)
def test_precisions_are_the_published_ones(name):
  vectors = Vectors(name)
  truth, found = (vectors[f"in/{k}"].astype(np.float64) for k in ("gt", "det"))
  images = vectors.meta["images"]
  classes = {c: i for i, c in enumerate(vectors.meta["categories"])}
  numbers = sorted({*truth[:, 0], *found[:, 0]})
  numbers = [*numbers, *range(10**6, 10**6 + images - len(numbers))]
  truths, detections = [], []
  for number in numbers:
    gt, det = (rows[rows[:, 0] == number] for rows in (truth, found))
    labels = [
      np.array([classes[c] for c in rows[:, 1].tolist()], int)
      for rows in (gt, det)
    ]
    truths.append(
      coco_ap.Truth(corners(gt[:, 2:6]), labels[0], gt[:, 6], gt[:, 7] > 0)
    )
    detections.append(
      coco_ap.Detections(corners(det[:, 2:6]), det[:, 6], labels[1])
    )
  result = coco_ap.evaluate(truths, detections, len(classes))
  published = vectors["out/oracle64/stats"]
  np.testing.assert_allclose(
    list(result.stats.values()),
    np.where(published < 0, np.nan, published),
    atol=1e-9,
  )
  per_class = vectors["out/oracle64/ap_per_category"]
  np.testing.assert_allclose(
    result.of_classes["AP"],
    np.where(per_class < 0, np.nan, per_class),
    atol=1e-9,
  )
  for name, values in result.of_classes.items():
    np.testing.assert_allclose(np.nanmean(values), result.stats[name])


def test_perfect_and_no_detections():
  box = np.array([[1.0, 2, 30, 40], [5, 5, 9, 9]])
  labels = np.array([0, 2])
  truth = coco_ap.Truth(box, labels, np.array([50.0, 16]), np.zeros(2, bool))
  right = coco_ap.Detections(box, np.array([0.9, 0.2]), labels)
  nothing = coco_ap.Detections(box[:0], np.zeros(0), labels[:0])
  result = coco_ap.evaluate([truth], [right], 3)
  assert result.stats["AP"] == result.stats["AP_small"] == pytest.approx(1)
  assert np.isnan(result.stats["AP_large"])
  assert np.isnan(result.of_classes["AP"]).tolist() == [False, True, False]
  assert coco_ap.evaluate([truth], [nothing], 3).stats["AP"] == 0


@pytest.mark.parametrize("labels", [[-1, -1], [0, -1]])
def test_crowds_alone_have_no_precision(labels):
  """Without an error, a report would ask for an AP that is not there."""
  made = object.__new__(detection.Evaluator)
  made._where, made.settings, made._answers = "config.evals.x", (), {}
  made._nothing, made._gather = tuple, lambda _, rows: rows
  made._inputs, made._in_use = lambda batch: {}, lambda params: params
  truth = dict(
    size=np.full((1, 2), 8),
    boxes=np.array([[[0, 0, 1, 1], [0, 0, 0, 0]]]),
    box_label=np.array([labels]),
    box_crowd=np.array([[1, 0]]),
  )
  rows = {f"truth_{key}": value for key, value in truth.items()}
  made._images = [{**rows, "mask": np.ones(1)}]
  with pytest.raises(ValueError, match=r"x\.data has a box that is not of a"):
    list(made.run(None))
  rows["truth_box_crowd"][:] = 0
  if labels[0] == 0:
    assert not list(made.run(None))


def test_detections_in_the_padding_alone_do_not_count():
  """Predictions leave them out, so they are no false positives."""
  made = object.__new__(detection.Evaluator)
  made._where = "config.evals.x"
  # The right half of the prepared image is padding.
  boxes = [[0, 0.6, 1, 0.9], [0, 0.1, 0.5, 0.9], [0.2, 0.5, 0.4, 0.7]]
  rows = {
    "mask": np.ones(1),
    "valid": np.array([[1, 0.5]]),
    "truth_size": np.array([[40, 20]]),
    "patch8": {
      "boxes": np.array([boxes]),
      "scores": np.array([[0.9, 0.8, 0.7]]),
      "labels": np.array([[0, 1, 0]]),
    },
  }
  (seen,) = made._detections(rows, "patch8")
  np.testing.assert_allclose(seen.boxes, [[4, 0, 20, 20]])
  assert (seen.scores.tolist(), seen.labels.tolist()) == ([0.8], [1])
