"""Intervals of shares against published values."""

import pytest

from tokenlearner_flexivit.figures import intervals


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
  found = intervals.of_share(right / count, count)
  assert found == pytest.approx((low, high), abs=1e-4)
  mirrored = intervals.of_share(1 - right / count, count)
  assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-4)


def test_only_shares_of_known_numbers_have_intervals():
  low, high = intervals.in_percent(10 / 15, "accuracy", 15)
  assert (round(low, 1), round(high, 1)) == (41.7, 84.8)
  assert intervals.in_percent(0.5, "10shot", 15) is not None
  assert intervals.in_percent(0.5, "5shot_tuned", 15) is not None
  assert intervals.in_percent(0.5, "mAP", 15) is None
  assert intervals.in_percent(0.5, "AP/screenshot", 15) is None
  assert intervals.in_percent(0.5, "accuracy", None) is None
