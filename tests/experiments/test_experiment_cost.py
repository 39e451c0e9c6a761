"""The cost study's committed rows are what its code computes."""

import json

import pytest

from experiments.cost import published, run

RESULTS = json.loads((run.STUDY.folder / "results.json").read_text())
XLA = {
  "params_of_init",
  "xla_operations",
  "xla_deviation",
  "xla_deviation_of_matmul",
}


def test_closed_forms_are_those_of_the_code():
  rows = [run.closed_form(setting) for setting in published.settings()]
  assert rows == [
    {k: v for k, v in row.items() if k not in XLA} for row in RESULTS["rows"]
  ]


def test_what_does_not_hold_is_known():
  verdicts = {c["claim"]: c["verdict"] for c in RESULTS["claims"]}
  assert set(verdicts.values()) == {"yes", "no"}
  assert [claim for claim, verdict in verdicts.items() if verdict == "no"] == [
    "matrix products alone are XLA's count of a batch of one, largest deviation"
    " of 72 rows",
    "L/16, 16 tokens after 12 of 24 blocks at 512 px: multiply-adds in 10^9",
    "L/8 (24+11), grid of 512 px at 512 px: parameters in 10^6",
  ]


def test_xla_counts_now_what_it_counted_then():
  setting = published.settings()[0]
  row = RESULTS["rows"][0]
  now = run.check(setting, row)
  assert now.keys() == XLA
  assert now == {k: pytest.approx(row[k], rel=1e-3, abs=1e-3) for k in XLA}
