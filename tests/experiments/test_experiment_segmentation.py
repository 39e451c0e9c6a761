"""The study of segmentation transfers what it says, and judges by numbers."""

import pytest

from experiments import seeds, training
from experiments.flexivit_curves import cells, curves
from experiments.flexivit_curves import config as curves_config
from experiments.transfer_segmentation import config, run
from tests.experiments import tiny_cells

SCALE = config.SCALES["cpu"]
SIZES = SCALE.sizes
DIFFER = (-0.01, 0.0, 0.01)


@pytest.mark.parametrize("name", config.SCALES)
def test_each_cell_comes_after_those_it_needs(name):
  seen = set()
  for cell, needs in config.needs(config.SCALES[name]).items():
    assert seen.issuperset(needs)
    seen.add(cell)
  assert seen.issuperset(config.cells_by_name(config.SCALES[name]))


def test_backbones_are_those_of_flexivit_curves():
  text = "cell=distilled_from_teacher,seed=2,workdir=runs"
  assert config.get_config(text) == curves_config.get_config(text)


def test_transfers_differ_in_backbone_sizes_and_steps_alone():
  base = config.get_config("cell=any_size,seed=1,workdir=runs").to_dict()
  assert base["total_steps"] == len(SIZES) * SCALE.short_steps
  assert base["data"]["split"] == "validation"  # Backbones had "train".
  for name, cell in config.cells_by_name(SCALE).items():
    other = config.get_config(f"cell={name},seed=1,workdir=runs").to_dict()
    backbone = cells.backbones(SCALE)[cell.backbone].name
    assert other["init"].endswith(f"runs/cpu_{backbone}_1")
    stored = curves_config.get_config(f"cell={backbone},workdir=runs").model
    for key in ("patch_size", "posemb_grid"):
      assert tuple(other["model"][key]) == tuple(stored[key])
      other["model"][key] = base["model"][key]
    if name != config.ANY_SIZE:
      assert other["total_steps"] == SCALE.short_steps
    assert tuple(other["evals"]["test"]["patch_sizes"]) == SIZES
    for key in ("init", "total_steps", "flexi"):
      other[key] = base[key]
    assert other == base
  with pytest.raises(ValueError, match="flexible_at15 needs distilled_from"):
    config.get_config("cell=flexible_at15")


def judge(**changed):
  """Returns the claims of numbers for which each holds, but for some.

  Args:
    **changed: the seeds' mIoU of a cell, by `CELL_used_at_SIZE`.
  """
  finer = dict(zip(SIZES, (0.6, 0.65, 0.7, 0.75), strict=True))
  coarser = dict(zip(SIZES, (0.6, 0.5, 0.4, 0.3), strict=True))
  curves = {name: finer for name in config.cells_by_name(SCALE)}
  curves |= dict(coarse_at15=coarser, coarse_at6=finer)
  curves["fine_at6"] = {s: 0.75 if s == SIZES[-1] else 0.2 for s in SIZES}
  curves[config.ANY_SIZE] = {s: value + 0.01 for s, value in finer.items()}
  rows = [
    {
      "cell": name,
      "patch_size": size,
      "mIoU": seeds.spread(
        changed.get(f"{name}_used_at_{size}", [value + d for d in DIFFER])
      ),
      "ceiling": 0.9,
      "train_seconds": [60.0],
    }
    for name, curve in curves.items()
    for size, value in curve.items()
  ]
  return run.STUDY.judge("cpu", [0, 1, 2], rows)


def test_claims_follow_the_numbers():
  outcome = judge()
  assert [c["verdict"] for c in outcome.claims] == ["yes"] * 6
  gain, loss, *_ = outcome.claims
  assert gain["measured"] == "60.0 % -> 75.0 % (+15.0 ± 0.0)"
  assert loss["measured"] == "60.0 % -> 30.0 % (-30.0 ± 0.0)"
  (table,) = run.STUDY.tables(outcome).values()
  assert "| `any_size`" in table and "| ceiling of the grid" in table
  far = [value + d for value, d in zip([0.65] * 3, DIFFER, strict=True)]
  claims = judge(any_size_used_at_6=far).claims
  assert claims[4]["verdict"] == claims[5]["verdict"] == "no"
  unclear = judge(flexible_at15_used_at_6=[0.5, 0.7, 0.8]).claims[0]
  assert unclear["verdict"] == "undecided"


@pytest.mark.studies
def test_a_backbone_without_its_head_is_transferred(tmp_path):
  """To another patch size than its own; the report has what rows read."""
  for cell in ("fixed15", "coarse_at6"):
    text = f"cell={cell},workdir={tmp_path},runlocal=True"
    c = config.get_config(text)
    report = tiny_cells.train_cell(c, tmp_path, cell)
  (values,) = {len(v) for v in curves.from_reports([report], "mIoU").values()}
  assert values == 1 and training.in_words(report).endswith(" %")
