"""The study of detection transfers compares what it says, by numbers."""

import json

import pytest

from configs import detection_scenes
from experiments import seeds, study
from experiments.flexivit_curves import cells as curves_cells
from experiments.flexivit_curves import config as curves_config
from experiments.transfer_detection import config, longer, pictures, run
from tests.experiments import tiny_cells

SCALE = config.SCALES["cpu"]
SIZES = SCALE.box_sizes
COARSE, FINE = SIZES[0], SIZES[-1]
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


def test_transfers_differ_in_backbone_and_sizes_alone():
  base = config.get_config("cell=boxes_any_size,seed=1,workdir=runs").to_dict()
  assert base["total_steps"] == SCALE.box_steps
  assert tuple(base["evals"]["test"]["patch_sizes"]) == SIZES
  backbones = curves_cells.backbones(SCALE)
  for name, cell in config.cells_by_name(SCALE).items():
    other = config.get_config(f"cell={name},seed=1,workdir=runs").to_dict()
    backbone = backbones[cell.backbone]
    assert other["init"].endswith(f"runs/cpu_{backbone.name}_1")
    assert tuple(other["flexi"]["patch_size"]["values"]) == cell.sizes
    kernel = backbone.kernel
    assert tuple(other["model"]["patch_size"]) == (kernel, kernel)
    for key in ("patch_size", "posemb_grid"):
      other["model"][key] = base["model"][key]
    for key in ("init", "flexi"):
      other[key] = base[key]
    assert other == base
  with pytest.raises(ValueError, match="boxes_flexible_at24 needs distilled"):
    config.get_config("cell=boxes_flexible_at24")


def curve(first, last):
  """Returns a straight curve over the patch sizes, from coarse to fine."""
  step = (last - first) / (len(SIZES) - 1)
  return {size: first + i * step for i, size in enumerate(SIZES)}


def judge(**changed):
  """Returns the outcome of numbers for which each claim holds, but for some.

  Args:
    **changed: the curve of a transfer's metric, by `CELL__METRIC`.
  """
  rows = []
  for name, cell in config.cells_by_name(SCALE).items():
    curves = dict(
      AP=curve(0.3, 0.4),
      AP_small=curve(0.1, 0.3),
      AP_medium=curve(0.5, 0.6),
      AP50_seen=curve(0.5, 0.7),
      AP50_novel=curve(0.1, 0.2),
    )
    if name == config.ANY_SIZE:
      curves["AP"] = curve(0.32, 0.45)
    elif cell.backbone != "flexible":
      high = 0.3, 0.1
      curves["AP"] = curve(*(high if cell.backbone == "coarse" else high[::-1]))
    for size in SIZES:
      rows.append(
        {"cell": name, "patch_size": size, "train_seconds": [60.0] * 3}
        | {
          metric: seeds.spread(
            changed.get(f"{name}__{metric}", values)[size] + d for d in DIFFER
          )
          for metric, values in curves.items()
        }
      )
  return run.STUDY.judge("cpu", [0, 1, 2], rows)


def test_claims_follow_the_numbers():
  outcome = judge()
  assert [claim["verdict"] for claim in outcome.claims] == ["yes"] * 8
  gain, loss, *_, seen, novel = outcome.claims
  assert gain["measured"] == "30.0 % -> 40.0 % (+10.0 ± 0.0)"
  assert loss["measured"] == "30.0 % -> 10.0 % (-20.0 ± 0.0)"
  assert seen["measured"] == "70.0 %" and novel["expected"].startswith("> 2.5")
  (text,) = run.STUDY.tables(outcome).values()
  assert "| `boxes_fine_at8`" in text and "70.0 ± 1.0" in text
  (figure,) = run.STUDY.figures(outcome).values()
  lines = {len(axes.containers) for axes in figure.axes}
  assert lines == {len(config.cells_by_name(SCALE))}


@pytest.mark.parametrize(
  "cell, metric, changed, failing",
  [
    ("boxes_flexible_at24", "AP", curve(0.3, 0.2), [0]),
    ("boxes_coarse_at24", "AP", curve(0.3, 0.4), [1]),
    ("boxes_coarse_at24", "AP", curve(0.5, 0.1), [2]),
    ("boxes_fine_at8", "AP", curve(0.1, 0.6), [2]),
    ("boxes_any_size", "AP_small", curve(0.3, 0.1), [3, 4]),
    ("boxes_any_size", "AP_medium", curve(0.1, 0.6), [4]),
    ("boxes_any_size", "AP", curve(0.3, 0.3), [5]),
  ],
)
def test_a_claim_fails_by_its_own_numbers(cell, metric, changed, failing):
  judged = [
    claim["verdict"] for claim in judge(**{f"{cell}__{metric}": changed}).claims
  ]
  assert [i for i, verdict in enumerate(judged) if verdict != "yes"] == failing


def test_the_model_of_all_sizes_must_reach_the_goal_and_beat_chance():
  low = {
    f"boxes_any_size__AP50_{part}": curve(0.01, value)
    for part, value in (("seen", 0.5), ("novel", 0.01))
  }
  *_, seen, novel = judge(**low).claims
  assert [seen["verdict"], novel["verdict"]] == ["no", "undecided"]


def longer_outcome(workdir, last):
  """Returns the outcome of a log whose AP50 of seen names ends at `last`."""
  records = [{"step": 100, "loss": 1.0}]
  for step, share in ((2000, 0.5), (12_000, 1.0)):
    records.append(
      {"step": step}
      | {
        f"test/patch{size}/{metric}": last * share - size / 1000
        for size in SIZES
        for metric in pictures.METRICS
      }
    )
  folder = workdir / f"cpu_{config.LONGER}_0"
  folder.mkdir(parents=True)
  lines = [json.dumps(record) for record in records]
  (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
  asked = study.Asked(workdir=workdir, scale="cpu", seeds=[0])
  rows = longer.rows(study.Done(asked, SCALE, {}))
  return longer.STUDY.judge("cpu", [0], rows)


def test_a_longer_training_is_evaluated_on_its_way(tmp_path):
  c = config.get_config(f"cell={config.LONGER},seed=1,workdir=runs")
  short = config.get_config(f"cell={config.ANY_SIZE},seed=1,workdir=runs")
  assert c.total_steps == SCALE.longer_steps == 6 * c.evals.test.eval_steps
  for name in ("init", "model", "data", "flexi", "task"):
    assert c[name] == short[name]
  outcome = longer_outcome(tmp_path, last=0.7)
  assert [row["step"] for row in outcome.rows[:: len(SIZES)]] == [2000, 12_000]
  (claim,) = outcome.claims
  assert claim["measured"] == "69.2 %"
  assert claim["verdict"] == "undecided"  # One seed has no interval.
  (text,) = longer.STUDY.tables(outcome).values()
  assert "| 34.2 |" in text and "| 69.2 |" in text
  (figure,) = longer.STUDY.figures(outcome).values()
  assert {len(axes.lines) for axes in figure.axes} == {len(SIZES)}


@pytest.mark.studies
def test_a_backbone_learns_boxes(tmp_path):
  """The reports have what rows read."""
  reports = {}
  for cell in ("fixed15", "boxes_coarse_at24"):
    text = f"cell={cell},workdir={tmp_path},runlocal=True"
    c = config.get_config(text)
    if cell == "boxes_coarse_at24":
      name = "rendered_scenes/tiny"
      c.data = detection_scenes.boxes(name, "train")
      c.evals.test = detection_scenes.evaluation(name, "test", SIZES)
    reports[cell] = [tiny_cells.train_cell(c, tmp_path, cell)]
  every = {
    name: reports["boxes_coarse_at24"] for name in config.cells_by_name(SCALE)
  }
  rows = run.rows(study.Done(study.Asked(), SCALE, every))
  assert [row["patch_size"] for row in rows[: len(SIZES)]] == list(SIZES)
  assert set(pictures.METRICS) <= rows[0].keys()
