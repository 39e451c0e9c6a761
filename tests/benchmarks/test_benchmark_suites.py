"""Suites that run whole evaluations, trainings and processes, at toy sizes.

What they measure is not judged here.
"""

import math

import pytest

from benchmarks import (
  allocator,
  cka,
  distillation,
  evaluation,
  latency_budget,
  matching,
  overhead,
  scaling,
  token_dial,
)


def check(rows, keys, positive):
  for row in rows:
    assert list(row) == keys
    assert all(row[key] > 0 for key in positive)
    numbers = [v for v in row.values() if isinstance(v, float)]
    assert all(map(math.isfinite, numbers))


@pytest.mark.benchmarks
def test_evaluation_compares_one_pass_with_separate_ones():
  rows = evaluation.run(quick=True)
  keys = [
    "variant",
    "num_tokens",
    "patch_sizes",
    "images",
    "one_pass_s",
    "separate_s",
    "data_s",
    "one_pass_images_per_s",
    "separate_images_per_s",
    "one_pass_data_share",
    "separate_data_share",
    "over_separate",
    "target",
  ]
  check(rows, keys, positive=keys[1:])


@pytest.mark.benchmarks
def test_allocator_compares_processes():
  rows = allocator.run(quick=True)
  check(rows, ["memory", "ms", "times as fast"], ("ms", "times as fast"))
  assert len(rows) == 3 and rows[0]["times as fast"] == 1


@pytest.mark.benchmarks
def test_cka_of_few_batches_and_of_more():
  rows = cka.run(quick=True)
  numbers = ("settings", "representations", "images")
  times = ("compile_s", "ms_per_image", "peak_gib")
  goal = ("of_goal_s", "of_limit", "peak_over_few")
  keys = ["model", *numbers, *times, *goal]
  check(rows, keys, positive=keys[1:])
  assert [row["images"] for row in rows] == [8, 32]
  assert {(row["settings"], row["representations"]) for row in rows} == {(4, 4)}


@pytest.mark.benchmarks
def test_budgets_are_those_of_settings():
  rows = latency_budget.run(quick=True)
  times = ("budget_ms", "median_ms", "of_budget", "reach")
  check(rows, ["images", "budget_ms", "setting", *times[1:]], times)
  budgets = [row["budget_ms"] for row in rows]
  assert len(rows) == 3 and budgets == sorted(budgets)
  assert {row["setting"][:7] for row in rows} <= {"patch30", "patch20"}


@pytest.mark.benchmarks
def test_the_token_dial_needs_no_further_program():
  rows = token_dial.run(quick=True)
  times = ("compile_s", "step_ms", "over_flexivit", "over_fixed")
  check(rows, ["model", "programs", *times], ("programs", *times))
  assert [row["programs"] for row in rows] == [2, 2, 2]


@pytest.mark.benchmarks
def test_padding_is_assigned_at_the_first_search():
  (row,) = rows = matching.run(quick=True)
  times = ("matching ms", "step ms", "share")
  check(rows, list(row), times)
  assert row["searches"] >= row["places"] > row["true boxes"]
  assert row["if padding cost the same"] > row["searches"]


@pytest.mark.benchmarks
def test_distillation_compares_steps_with_and_without_a_teacher():
  rows = distillation.run(quick=True)
  keys = [
    "student",
    "teacher",
    "patch_size",
    "supervised_ms",
    "distilled_ms",
    "teacher_ms",
    "teacher_share",
    "added_over_teacher",
  ]
  # What it adds to so short a step may be lost in the noise.
  check(rows, keys, positive=keys[3:-1])
  assert [row["patch_size"] for row in rows] == [30, 20, "drawn"]


@pytest.mark.benchmarks
def test_overhead_compares_steps_and_saves():
  rows = overhead.run(quick=True)
  check(rows, ["what", "ms", "over", "ratio"], positive=("ms", "ratio"))
  assert rows[0]["ratio"] == 1
  whats = [row["what"] for row in rows]
  assert len(set(whats)) == len(whats) == 5
  assert {row["over"] for row in rows} <= set(whats)


@pytest.mark.benchmarks
def test_scaling_has_devices_and_three_growths():
  rows = scaling.run(quick=True)
  keys = ["what", "from", "to", "ms", "law", "measured", "expected"]
  # The exponent of times that are all overhead may be negative.
  check(rows, keys, positive=("from", "to", "ms", "expected"))
  devices = [row for row in rows if row["law"] != "exponent"]
  assert [row["to"] for row in devices] == [1, 2]
  assert devices[0]["measured"] == devices[0]["expected"] == 1
  growths = [row["what"] for row in rows if row["law"] == "exponent"]
  assert growths == [
    f"forward pass by {what}" for what in ("image size", "tokens", "batch size")
  ]


def test_exponent_of_a_power():
  x = [1.0, 2.0, 5.0]
  assert math.isclose(scaling.exponent(x, [3 * n**1.5 for n in x]), 1.5)
