"""The study of flexible backbones compares what it says, by numbers."""

import json

import pytest

from experiments import seeds, training
from experiments.flexify import config, pictures, run
from experiments.flexivit_curves import config as curves_config
from tokenlearner_flexivit import train

SCALE = config.SCALES["cpu"]
SIZES = config.evaluated(SCALE)
OWN = SCALE.sizes[-1]
DIFFER = (-0.001, 0.0, 0.001)


def test_the_teacher_is_a_training_of_flexivit_curves():
  name = config.teacher(SCALE)
  assert list(config.needs(SCALE)) == [name, config.FLEXIFIED]
  text = f"cell={name},seed=2,workdir=runs"
  assert config.get_config(text) == curves_config.get_config(text)


def test_the_student_starts_as_its_teacher_and_sees_no_label():
  c = config.get_config("seed=1,workdir=runs").to_dict()
  assert c["init"].endswith(f"runs/cpu_{config.teacher(SCALE)}_1")
  (teacher,) = c["task"]["teachers"].values()
  assert (teacher["init"], teacher["patch_size"]) == (c["init"], OWN)
  assert "label" not in c["data"]["pp"] and c["eval_first"]
  assert set(c["flexi"]["patch_size"]["values"]) < set(SIZES)
  with pytest.raises(ValueError, match="flexified needs fixed6"):
    config.get_config()


def judge(before=None, after=None, cosine_after=0.9):
  """Returns the outcome of numbers for which each claim holds, but for some.

  Args:
    before: accuracies of neighbours by patch size, in place of some.
    after: the same after the training.
    cosine_after: the similarity after the training, at all sizes.
  """
  known = {size: 0.5 for size in SIZES} | {OWN: 0.8}
  values = {
    "neighbours_before": known | (before or {}),
    "neighbours_after": {size: 0.79 for size in SIZES}
    | {OWN: 0.8}
    | (after or {}),
    "similarity_before": {size: 0.7 for size in SIZES},
    "similarity_after": {size: cosine_after for size in SIZES},
  }
  rows = [
    {"patch_size": size, "train_seconds": [60.0] * 3}
    | {
      name: seeds.spread(curve[size] + d for d in DIFFER)
      for name, curve in values.items()
    }
    for size in SIZES
  ]
  return run.STUDY.judge("cpu", [0, 1, 2], rows)


def test_claims_follow_the_numbers():
  outcome = judge()
  assert [claim["verdict"] for claim in outcome.claims] == ["yes"] * 6
  resized, level, flexified, own, *_ = outcome.claims
  assert resized["measured"].startswith("15: -30.0 ± 0.0, 12: -30.0")
  for claim in (level, flexified):
    assert claim["measured"].startswith("15: -1.0 ± 0.0, 12: -1.0")
  assert own["measured"] == "+0.0 ± 0.0"
  (text,) = run.STUDY.tables(outcome).values()
  assert "PI-resize alone" in text and "79.0 ± 0.1" in text
  (figure,) = run.STUDY.figures(outcome).values()
  assert {len(axes.containers) for axes in figure.axes} == {2}


@pytest.mark.parametrize(
  "changed, failing",
  [
    ({"before": {10: 0.75}}, [0]),
    ({"after": {15: 0.75}}, [1, 2]),
    ({"after": {OWN: 0.82}}, [1]),
    ({"after": {OWN: 0.77}}, [3]),
    ({"after": {20: 0.4}}, [4]),
    ({"cosine_after": 0.6}, [5]),
  ],
)
def test_a_claim_fails_by_its_own_numbers(changed, failing):
  judged = [claim["verdict"] for claim in judge(**changed).claims]
  assert [i for i, verdict in enumerate(judged) if verdict != "yes"] == failing


@pytest.mark.studies
def test_a_teacher_is_made_flexible(tmp_path):
  """The report has what rows read."""
  for cell in config.needs(SCALE):
    text = f"cell={cell},workdir={tmp_path},runlocal=True"
    c = config.get_config(text)
    for section in (c.data, *(e.data for e in c.evals.values())):
      section.name = "rendered_scenes/tiny"
    for section in c.evals.values():
      section.batch_size = 16  # Which the devices of the tests share.
    folder = tmp_path / training.run_name(cell, 0, "cpu")
    train.train_and_evaluate(c, folder)
  report = json.loads((folder / "report.json").read_bytes())
  for name, (metric, _) in pictures.METRICS.items():
    rows = report["evals"][name]
    assert [row["patch_size"] for row in rows] == list(SIZES)
    assert all({metric, "before_training"} <= set(row) for row in rows)
  assert report["evals"][config.SIMILARITY][SIZES.index(OWN)][
    "before_training"
  ] == pytest.approx(1, abs=1e-3)
