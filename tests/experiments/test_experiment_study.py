"""What the studies share: places for results, claims."""

import shutil

import numpy as np
import pytest

from experiments import study
from experiments.flexivit_curves import scales
from experiments.token_learner_placement import config as placement
from experiments.two_dials import cells as two_dials
from experiments.video_token_learner import cells as videos

# By folder the marks of its README that results are filled in at.
PLACES = {
  "flexivit_curves": [f"results of {scale}" for scale in scales.SCALES],
  "token_learner_placement": [
    *(f"tables of {scale}" for scale in placement.SCALES),
    "table of longer trainings",
  ],
  "two_dials": [f"tables of {scale}" for scale in two_dials.SCALES],
  "video_token_learner": [f"tables of {scale}" for scale in videos.SCALES],
}


def test_tables_are_filled_in_between_marks(tmp_path):
  readme = tmp_path / "README.md"
  readme.write_text("a\n<!-- x -->\nold\n<!-- end of x -->\nb\n")
  for text in ("new", "newer"):
    study.fill_in(readme, "x", text)
    assert readme.read_text() == (
      f"a\n<!-- x -->\n\n{text}\n\n<!-- end of x -->\nb\n"
    )
  with pytest.raises(ValueError, match=r"needs <!-- y --> and then"):
    study.fill_in(readme, "y", "")


@pytest.mark.parametrize("folder", PLACES)
def test_the_readme_has_a_place_for_every_scale(folder, tmp_path):
  readme = tmp_path / "README.md"
  shutil.copy(study.ROOT / "experiments" / folder / "README.md", readme)
  for mark in PLACES[folder]:
    study.fill_in(readme, mark, f"here: {mark}")
    assert f"here: {mark}" in readme.read_text()


def test_spread():
  assert study.spread([1.0]) == {"mean": 1, "std": None, "by_seed": [1]}
  found = study.spread(iter([1.0, 2.0, 3.0]))
  assert (found["mean"], found["std"]) == (2, 1)


def test_one_seed_has_no_error():
  mean, error = study.paired_difference([0.9], [0.8])
  assert mean == pytest.approx(10) and error is None
  assert study.plus_minus(mean, error, "+.1f") == "+10.0 (one seed)"
  assert study.percent(study.spread([0.5]), 1) == "50.0 % (one seed)"
  assert np.isnan(study.bars([error])).all()
  judged = study.claim("so", "us", "more", "10", None)
  assert "undecided" in study.table_of_claims([judged])


def test_several_seeds_have_one():
  mean, error = study.paired_difference([0.9, 0.7], [0.8, 0.7])
  # Differences of 10 and 0 points: deviation sqrt(50), over sqrt(2).
  assert (mean, error) == (pytest.approx(5), pytest.approx(5))
  assert study.plus_minus(mean, error, "+.2f") == "+5.00 ± 5.00"
  assert study.percent(study.spread([0.5, 0.6, 0.7]), 1) == "60.0 ± 10.0 %"


@pytest.mark.parametrize("folder", PLACES)
def test_less_than_the_whole_study_replaces_no_committed_result(
  folder, tmp_path
):
  committed = study.ROOT / "experiments" / folder
  assert study.results_folder(committed, tmp_path, whole=True) == committed
  own = study.results_folder(committed, tmp_path, whole=False)
  assert own.is_relative_to(tmp_path)
  for mark in PLACES[folder]:
    study.fill_in(own / "README.md", mark, "a quick look")
  assert "a quick look" not in (committed / "README.md").read_text()


def test_hardware_is_that_of_the_runs():
  assert study.hardware([{"hardware": "x"}] * 2).startswith("x (")
  found = study.hardware([{"hardware": "y"}, {"hardware": "x"}])
  assert found.startswith("x, y (")
