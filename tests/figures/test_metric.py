"""Intervals of shares against published values."""

import pytest

from tokenlearner_flexivit.figures import metric as metric_lib
from tokenlearner_flexivit.figures.metric import Metric


@pytest.mark.parametrize(
  "right, count, low, high",
  [
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ],
)
def test_intervals_of_shares(right, count, low, high):
  found = metric_lib.wilson(right / count, count)
  assert found == pytest.approx((low, high), abs=1e-4)
  mirrored = metric_lib.wilson(1 - right / count, count)
  assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-4)


def test_only_shares_of_known_numbers_have_intervals():
  accuracy = Metric("accuracy", "%", is_share=True)
  low, high = accuracy.interval(10 / 15, 15)
  assert (round(low, 1), round(high, 1)) == (41.7, 84.8)
  assert accuracy.interval(0.5, None) is None
  assert Metric("mAP", "%").interval(0.5, 15) is None


@pytest.mark.parametrize(
  "metric, value, column, axis, text",
  [
    (Metric("top-5", "%"), 0.98765, "top-5 %", "top-5 in %", "98.77 ± 1.00"),
    (Metric("loss"), 2.5, "loss", "loss", "2.5000 ± 0.0100"),
    (Metric("error", "px"), 3, "error px", "error in px", "3.0000 ± 0.0100"),
  ],
)
def test_a_metric_is_shown_in_its_unit(metric, value, column, axis, text):
  assert (metric.column, metric.axis) == (column, axis)
  assert metric.text(value, 0.01) == text


def test_reports_of_the_first_version_have_shares():
  old, new = {"headline": "mAP"}, {"metrics": {"e": {"title": "error"}}}
  assert metric_lib.from_report(old, "mAP") == Metric("mAP", "%")
  few = metric_lib.from_report({}, "10shot")
  assert few == Metric("10shot", "%", is_share=True)
  assert metric_lib.from_report(new, "e") == Metric("error")
