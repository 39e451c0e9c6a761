"""Tests of the curve of the dial."""

import pytest
from matplotlib import figure

from tokenlearner_flexivit.figures import curve
from tokenlearner_flexivit.figures.metric import Metric


@pytest.mark.parametrize(
  ("before", "after"),
  [
    ((0.5, 1.5), (0, 5)),
    ((-0.1, 0.9), (-0.1, 4.9)),
    ((98.5, 99.5), (95, 100)),
    ((99.9, 100.1), (95.1, 100.1)),
    ((50, 51), (48, 53)),
    ((-2, 42), (-2, 42)),
  ],
)
def test_an_axis_of_percents_is_widened_within_0_to_100(before, after):
  axes = figure.Figure().subplots()
  axes.set_ylim(before)
  curve.span(axes, Metric("AP", "%"))
  assert axes.get_ylim() == pytest.approx(after)


def test_an_axis_without_percents_stays():
  axes = figure.Figure().subplots()
  axes.set_ylim(0.5, 1.5)
  curve.span(axes, Metric("loss"))
  assert axes.get_ylim() == (0.5, 1.5)
