"""Tests of tables."""

from tokenlearner_flexivit.figures import table


def test_numbers_are_aligned_right_and_text_left():
  rows = [
    {"model": "ViT", "cost": "100 %", "difference": ""},
    {"model": "8 tokens", "cost": "9 %", "difference": "-1.0 ± 0.5"},
  ]
  assert table.markdown(rows).splitlines() == [
    "| model    |  cost | difference |",
    "|----------|------:|-----------:|",
    "| ViT      | 100 % |            |",
    "| 8 tokens |   9 % | -1.0 ± 0.5 |",
  ]


def test_bars_in_cells_begin_no_column():
  rows = [{"class": "a|b", "share": "1"}]
  assert r"| a\|b  |" in table.markdown(rows)
