"""The study of panoptic transfers compares what it says, by numbers."""

import re

import pytest

from configs import panoptic_code_scenes
from experiments import seeds, study
from experiments.flexivit_curves import cells as curves_cells
from experiments.flexivit_curves import config as curves_config
from experiments.transfer_panoptic import config, pictures, run
from tests.experiments import tiny_cells

SCALE = config.SCALES["cpu"]
SIZES, NUMBERS = SCALE.sizes, SCALE.numbers
COARSE, FINE = SIZES[0], SIZES[-1]
DIFFER = (-0.01, 0.0, 0.01)


def get(cell):
  return config.get_config(f"cell={cell},seed=1,workdir=runs").to_dict()


def test_each_cell_comes_after_those_it_needs():
  seen = set()
  for cell, needs in config.needs(SCALE).items():
    assert seen.issuperset(needs)
    seen.add(cell)
  assert seen.issuperset(config.cells_by_name(SCALE))
  text = "cell=distilled_from_teacher,seed=2,workdir=runs"
  assert config.get_config(text) == curves_config.get_config(text)
  coder = get(config.CODER)
  assert coder["seed"] == 1 and coder["total_steps"] == SCALE.code_steps


def test_transfers_differ_in_backbone_and_dials_alone():
  base = get(config.ANY_SIZE)
  assert base["total_steps"] == SCALE.map_steps
  assert base["model"]["coder"].endswith("runs/cpu_coder_1")
  backbones = curves_cells.backbones(SCALE)
  for name, cell in config.cells_by_name(SCALE).items():
    other = get(name)
    backbone = backbones[cell.backbone]
    assert other["init"].endswith(f"runs/cpu_{backbone.name}_1")
    flexi = other["flexi"]
    assert tuple(flexi["patch_size"]["values"]) == cell.sizes
    if cell.version:
      learner = other["model"].pop("token_learner")
      assert learner["version"] == cell.version
      assert learner["layer"] == SCALE.depth - 1
      assert tuple(flexi["num_tokens"]["values"]) == cell.numbers
      assert learner["num_tokens"] in cell.numbers
    evaluated = other["evals"]["test"].pop("patch_sizes")
    assert tuple(evaluated) == (cell.sizes if cell.version else SIZES)
    for key in ("patch_size", "posemb_grid"):
      other["model"][key] = base["model"][key]
    other["evals"]["test"]["patch_sizes"] = base["evals"]["test"]["patch_sizes"]
    for key in ("init", "flexi"):
      other[key] = base[key]
    assert other == base
  with pytest.raises(
    ValueError, match="panoptic_both_dials needs distilled_from_teacher"
  ):
    config.get_config("cell=panoptic_both_dials")


def curve(first, last):
  """Returns a straight curve over the patch sizes, from coarse to fine."""
  step = (last - first) / (len(SIZES) - 1)
  return {size: first + i * step for i, size in enumerate(SIZES)}


def judge(**changed):
  """Returns the outcome of numbers for which each claim holds, but for some.

  Args:
    **changed: the curve of a transfer's PQ, by its name.
  """
  rows = []
  for name, cell in config.cells_by_name(SCALE).items():
    values = curve(0.4, 0.5)
    if name == "panoptic_coarse_at15":
      values = curve(0.4, 0.1)
    if name.startswith("panoptic_averages"):
      values = curve(0.2, 0.3)
    values = changed.get(name, values)
    for number in cell.numbers or (None,):
      for size in cell.sizes if cell.version else SIZES:
        quality = seeds.spread(values[size] + d for d in DIFFER)
        rows.append(
          {"cell": name, "patch_size": size, "num_tokens": number}
          | dict.fromkeys(pictures.METRICS, quality)
          | {"ceiling": seeds.spread([0.9] * 3), "train_seconds": [60.0] * 3}
        )
  return run.STUDY.judge("cpu", [0, 1, 2], rows)


def test_claims_follow_the_numbers():
  outcome = judge()
  assert [claim["verdict"] for claim in outcome.claims] == ["yes"] * 8
  gain, loss, *_ = outcome.claims
  assert gain["measured"] == "40.0 % -> 50.0 % (+10.0 ± 0.0)"
  assert loss["measured"] == "40.0 % -> 10.0 % (-30.0 ± 0.0)"
  (text,) = run.STUDY.tables(outcome).values()
  assert re.search(r"\| `panoptic_averages16` +\| 16 ", text)
  assert "keeps of the labels: 90" in text
  (figure,) = run.STUDY.figures(outcome).values()
  lines = [len(axes.containers) for axes in figure.axes]
  assert lines == [4, len(NUMBERS) + 1, 2]


@pytest.mark.parametrize(
  "cell, changed, failing",
  [
    ("panoptic_flexible_at15", curve(0.4, 0.3), [0]),
    ("panoptic_coarse_at15", curve(0.4, 0.6), [1]),
    ("panoptic_fine_at6", curve(0.1, 0.6), [2]),
    ("panoptic_any_size", curve(0.5, 0.4), [2, 3]),
    ("panoptic_averages8", curve(0.2, 0.6), [6]),
  ],
)
def test_a_claim_fails_by_its_own_numbers(cell, changed, failing):
  judged = [claim["verdict"] for claim in judge(**{cell: changed}).claims]
  assert [i for i, verdict in enumerate(judged) if verdict != "yes"] == failing


@pytest.mark.studies
def test_tokens_of_a_tower_are_read_by_the_decoder(tmp_path):
  """The reports have what rows read."""
  reports = {}
  backbone = "distilled_from_teacher"
  trained = (
    "fixed6",
    backbone,
    "coder",
    "panoptic_both_dials",
    "panoptic_averages4",
  )
  for cell in trained:
    text = f"cell={cell},workdir={tmp_path},runlocal=True"
    c = config.get_config(text)
    if cell == "coder":
      c = panoptic_code_scenes.get_config("runlocal=True")
    reports[cell] = [tiny_cells.train_cell(c, tmp_path, cell)]
  every = {
    name: reports["panoptic_averages4"] for name in config.cells_by_name(SCALE)
  }
  done = study.Done(
    study.Asked(),
    SCALE,
    {**every, "panoptic_both_dials": reports["panoptic_both_dials"]},
  )
  measured = pictures.by_cell(run.rows(done))
  assert set(measured["panoptic_both_dials"]) == {*NUMBERS, "all"}
  assert list(measured["panoptic_averages4"]) == [4]
  assert list(measured["panoptic_both_dials"]["all"]["PQ"]) == list(SIZES)
