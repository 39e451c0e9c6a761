"""The study of zero-shot counting compares what it says, by numbers."""

import json

import pytest

from experiments import seeds, study
from experiments.transfer_retrieval import config, counts
from tests.experiments import tiny_cells

SCALE = config.SCALES["cpu"]
SIZES = SCALE.sizes
COARSE, FINE = SIZES[0], SIZES[-1]


def get(cell):
  return config.get_config(f"cell={cell},seed=1,workdir=runs").to_dict()


def test_each_cell_comes_after_those_it_needs():
  seen = set()
  for cell, needs in config.needs_of_counts(SCALE).items():
    assert seen.issuperset(needs)
    seen.add(cell)
  # Runs of one name in one workdir must be the same run.
  both = seen & set(config.needs(SCALE))
  assert not both & {*config.towers(SCALE), *config.transfers(SCALE)}


@pytest.mark.parametrize("tower", config.towers(SCALE))
def test_towers_differ_in_what_they_learn_alone(tower):
  every, alone = get(tower), get(config.of_counts(tower))
  assert alone["data"]["features"] == ("image", "num_objects")
  assert alone["task"] == dict(name="classification", loss="softmax_xent")
  assert alone["model"].pop("num_classes") == 7
  for c in (every, alone):
    for section in (c["data"], c["evals"]["test"]["data"]):
      del section["features"], section["pp"]
    del c["task"], c["evals"]["test"]["type"]
  assert alone == every


def test_transfers_differ_in_their_tower_alone():
  for name, transfer in config.transfers_of_counts(SCALE).items():
    like = get(name.removeprefix("counts_"))
    own = get(name)
    assert transfer.way == config.LOCKED
    assert own.pop("init").endswith(f"runs/cpu_{transfer.tower}_1")
    del like["init"]
    assert own == like


def make_rows(**changed):
  """Returns rows for which each claim holds, but for some.

  Args:
    **changed: accuracies at the coarse and the fine size, by cell.
  """
  accuracies = dict.fromkeys(config.towers_of_counts(SCALE), (0.5, 0.6))
  accuracies |= dict(
    counts_locked_flexible_at15=(0.45, 0.55),
    counts_locked_coarse_at15=(0.4, 0.2),
    counts_locked_fine_at15=(0.2, 0.4),
    counts_locked_fine_at6=(0.2, 0.5),
    counts_locked_any_size=(0.44, 0.56),
  )
  rows = []
  for name, ends in (accuracies | changed).items():
    for size in SIZES:
      value = ends[0] if size == COARSE else ends[1]
      values = seeds.spread(value + d for d in (-0.01, 0.0, 0.01))
      row = {"cell": name, "patch_size": size, "accuracy": values}
      rows.append(row | {"train_seconds": [60.0]})
  return rows


def test_committed_claims_are_those_of_the_committed_rows():
  file = counts.STUDY.folder / "counts.json"
  committed = json.loads(file.read_text(encoding="utf-8"))
  outcome = counts.STUDY.judge("cpu", committed["seeds"], committed["rows"])
  assert outcome.claims == committed["claims"]


def test_claims_follow_the_numbers():
  outcome = counts.STUDY.judge("cpu", [0, 1, 2], make_rows())
  assert [claim["verdict"] for claim in outcome.claims] == ["yes"] * 5
  assert outcome.claims[0]["measured"] == "45.0 % -> 55.0 % (+10.0 ± 0.0)"
  (text,) = counts.STUDY.tables(outcome).values()
  assert "| `counts_flexible`" in text and "55.0 ± 1.0" in text
  (figure,) = counts.STUDY.figures(outcome).values()
  (axes,) = figure.axes
  assert len(axes.containers) == len(config.transfers_of_counts(SCALE))


@pytest.mark.parametrize(
  "cell, changed, failing",
  [
    ("counts_locked_flexible_at15", (0.56, 0.55), [0]),
    ("counts_locked_any_size", (0.6, 0.56), [1]),
    ("counts_locked_coarse_at15", (0.4, 0.6), [2]),
    ("counts_locked_fine_at15", (0.5, 0.6), [3]),
    ("counts_locked_fine_at6", (0.2, 0.7), [4]),
  ],
)
def test_a_claim_fails_by_its_own_numbers(cell, changed, failing):
  rows = make_rows(**{cell: changed})
  judged = counts.STUDY.judge("cpu", [0, 1, 2], rows).claims
  verdicts = [claim["verdict"] for claim in judged]
  assert [i for i, v in enumerate(verdicts) if v != "yes"] == failing
  assert {verdicts[i] for i in failing} == {"no"}


@pytest.mark.studies
def test_a_tower_of_counts_is_put_beside_texts(tmp_path):
  """The reports have what rows read."""
  reports = {}
  cells = ("fixed6", "counts_fine", "counts_locked_fine_at6")
  for cell in cells:
    text = f"cell={cell},workdir={tmp_path},runlocal=True"
    c = config.get_config(text)
    reports[cell] = [tiny_cells.train_cell(c, tmp_path, cell)]
  others = {
    name: reports["counts_fine"] for name in config.towers_of_counts(SCALE)
  } | {
    name: reports["counts_locked_fine_at6"]
    for name in config.transfers_of_counts(SCALE)
  }
  rows = counts.rows(study.Done(study.Asked(), SCALE, reports | others))
  assert {row["cell"] for row in rows} == set(others)
  assert all(0 <= row["accuracy"]["mean"] <= 1 for row in rows)
