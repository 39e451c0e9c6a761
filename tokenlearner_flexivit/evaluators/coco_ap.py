"""COCO's average precision of boxes, by pycocotools.

Letters: M true boxes of an image, n detections, K classes.
"""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from tokenlearner_flexivit.figures.metric import Metric

# Detections of an image and a class that count.
_MOST = (1, 10, 100)
# The names of pycocotools' twelve numbers, in their order.
STATS = (
  *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
  *("AR1", "AR10", "AR", "AR_small", "AR_medium", "AR_large"),
)
METRICS = {
  "AP": Metric("AP", "%"),
  "AP50": Metric("AP50", "%"),
  "AP75": Metric("AP75", "%"),
  "AP_small": Metric("AP, small", "%"),
  "AP_medium": Metric("AP, medium", "%"),
  "AP_large": Metric("AP, large", "%"),
  "AR": Metric("AR", "%"),
}


@dataclasses.dataclass(frozen=True)
class Truth:
  """The true boxes of an image.

  Attributes:
    boxes: (xmin, ymin, xmax, ymax) in pixels.
    labels: classes.
    areas: in pixels, of what is in the boxes, which decides what is small.
    crowds: whether a box is around many things, any number of which may be
      detected.
  """

  boxes: Float[np.ndarray, "M 4"]
  labels: Int[np.ndarray, " M"]
  areas: Float[np.ndarray, " M"]
  crowds: Bool[np.ndarray, " M"]


@dataclasses.dataclass(frozen=True)
class Detections:
  """The detections of an image.

  Attributes:
    boxes: (xmin, ymin, xmax, ymax) in pixels.
    scores: of any range; of equal scores the first counts first.
    labels: classes.
  """

  boxes: Float[np.ndarray, "n 4"]
  scores: Float[np.ndarray, " n"]
  labels: Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Result:
  """Average precisions.

  Attributes:
    stats: by the names of `STATS`, in [0, 1]; NaN where no box is true.
    of_classes: "AP" and "AP50" of each class, NaN for one without a true box.
  """

  stats: dict[str, float]
  of_classes: dict[str, Float[np.ndarray, " K"]]


def check_installed() -> None:
  """Raises ImportError, with what to do, if pycocotools is missing."""
  _pycocotools()


def evaluate(
  truths: Sequence[Truth], detections: Sequence[Detections], num_classes: int
) -> Result:
  """Returns the average precisions of a set of images.

  Args:
    truths: of each image.
    detections: of each image, in the same order.
    num_classes: K.

  Raises:
    ImportError: pycocotools is missing.
  """
  coco_module, eval_module = _pycocotools()
  # It prints what it does.
  with contextlib.redirect_stdout(io.StringIO()):
    truth = coco_module.COCO()
    truth.dataset = _dataset(truths, num_classes)
    truth.createIndex()
    rows = _rows(detections)
    found = truth.loadRes(rows) if len(rows) else coco_module.COCO()
    if not len(rows):
      found.dataset = {**truth.dataset, "annotations": []}
      found.createIndex()
    evaluation = eval_module.COCOeval(truth, found, "bbox")
    evaluation.params.maxDets = list(_MOST)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
  # IoU thresholds, recalls, classes, areas, numbers of detections.
  precision = evaluation.eval["precision"][:, :, :, 0, -1]
  is_known = (precision > -1).all(axis=(0, 1))
  return Result(
    dict(zip(STATS, stats.tolist(), strict=True)),
    {
      name: np.where(is_known, values.mean(axis=(0, 1)), np.nan)
      for name, values in (("AP", precision), ("AP50", precision[:1]))
    },
  )


def _dataset(truths: Sequence[Truth], num_classes: int) -> dict[str, Any]:
  """Returns true boxes in COCO's form."""
  annotations = []
  for number, truth in enumerate(truths):
    sizes = truth.boxes[:, 2:] - truth.boxes[:, :2]
    boxes = np.concatenate([truth.boxes[:, :2], sizes], axis=1).tolist()
    for box, label, area, crowd in zip(
      boxes, truth.labels, truth.areas, truth.crowds, strict=True
    ):
      annotations.append(
        {
          "id": len(annotations) + 1,
          "image_id": number,
          "category_id": int(label),
          "bbox": box,
          "area": float(area),
          "iscrowd": int(crowd),
        }
      )
  return {
    "info": {},
    "images": [{"id": i} for i in range(len(truths))],
    "categories": [{"id": i} for i in range(num_classes)],
    "annotations": annotations,
  }


def _rows(detections: Sequence[Detections]) -> Float[np.ndarray, "n 7"]:
  """Returns image, x, y, width, height, score and class of detections."""
  rows = [np.zeros((0, 7))]
  for number, found in enumerate(detections):
    low, size = found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]
    columns = (
      np.full(len(low), number),
      *low.T,
      *size.T,
      found.scores,
      found.labels,
    )
    rows.append(np.stack(columns, axis=1))
  return np.concatenate(rows).astype(np.float64)


def _pycocotools() -> tuple[Any, Any]:
  try:
    from pycocotools import coco, cocoeval
  except ImportError:
    raise ImportError(
      "Average precision needs pycocotools: pip install "
      "'tokenlearner_flexivit[detection]'."
    ) from None
  return coco, cocoeval
