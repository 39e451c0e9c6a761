"""Metrics of classes have names of their own."""

import types

import numpy as np
import pytest

from tokenlearner_flexivit.evaluators import (
  class_table,
  coco_ap,
  detection,
  panoptic,
  panoptic_quality,
)


@pytest.mark.parametrize(
  "classes, others, names",
  [
    (["sea", "n/a"], (), ["AP_sea", "AP_n_a"]),
    (range(2), (), ["AP_0", "AP_1"]),
    # Of another metric, of an earlier class, and of one that was renamed.
    (["small", "cat"], ["AP_small"], ["AP_small_0", "AP_cat"]),
    (["a/b", "a_b"], (), ["AP_a_b", "AP_a_b_1"]),
    (["a_b_2", "a/b", "a_b"], (), ["AP_a_b_2", "AP_a_b", "AP_a_b_2_2"]),
  ],
)
def test_no_two_classes_have_one_metric(classes, others, names):
  assert class_table.metric_names("AP_", classes, others) == names


def evaluator(cls, **task):
  made = object.__new__(cls)
  made._task = types.SimpleNamespace(**task)
  return made


def test_a_class_named_small_leaves_the_metric_of_small_things():
  made = evaluator(
    detection.Evaluator, class_names=("small", "cat"), held_out=()
  )
  stats = dict.fromkeys(coco_ap.METRICS, 0.5) | {"AP_small": 0.25}
  of_classes = {"AP": np.array([0.75, 0.5]), "AP50": np.ones(2)}
  named = made._named(coco_ap.Result(stats, of_classes))
  assert named["AP_small"] == 0.25
  assert (named["AP_small_0"], named["AP_cat"]) == (0.75, 0.5)


def test_a_class_named_stuff_leaves_the_metric_of_all_stuff():
  made = evaluator(panoptic.Evaluator, num_classes=2, stuff=(1,))
  made._class_names = ("stuff", "sky")
  counts = panoptic_quality.Counts(
    matched=np.array([1, 1]),
    predicted=np.zeros(2, int),
    missed=np.zeros(2, int),
    iou=np.array([0.75, 0.5]),
  )
  named = made._named(counts)
  assert (named["PQ_stuff"], named["PQ_things"]) == (0.5, 0.75)
  assert (named["PQ_stuff_0"], named["PQ_sky"]) == (0.75, 0.5)
