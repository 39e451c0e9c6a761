"""The engine of the studies, and what all of them have committed."""

import importlib
import json
import pathlib

import pytest
from absl import app, flags

from experiments import seeds, study

# Modules of studies, with the scales whose results are committed.
COMMITTED = [
  ("cost.run", ""),
  ("flexify.run", "cpu"),
  ("flexivit_curves.run", "cpu"),
  ("flexivit_curves.run", "digits"),
  ("inside_flexivit.run", ""),
  ("quickstart.run", "cpu"),
  ("token_learner_placement.longer", "cpu"),
  ("token_learner_placement.run", "cpu"),
  ("transfer_detection.longer", "cpu"),
  ("transfer_detection.run", "cpu"),
  ("transfer_panoptic.run", "cpu"),
  ("transfer_retrieval.counts", "cpu"),
  ("transfer_retrieval.run", "cpu"),
  ("transfer_segmentation.run", "cpu"),
  ("two_dials.run", "cpu"),
  ("video_token_learner.run", "cpu"),
]


def open_study(module):
  return importlib.import_module(f"experiments.{module}").STUDY


@pytest.fixture(params=COMMITTED, ids=" ".join)
def committed(request):
  """A study, its committed results, and what it says of their rows now."""
  module, scale = request.param
  declared = open_study(module)
  suffix = "_digits" if scale == "digits" else ""
  file = declared.folder / f"{declared.file}{suffix}.json"
  results = json.loads(file.read_text())
  outcome = declared.judge(scale, results["seeds"], results["rows"])
  return declared, results, outcome


def test_committed_claims_and_tables_are_those_of_the_code(committed):
  declared, results, outcome = committed
  assert list(results) == [
    *("command", "seeds", "hardware", "seconds", "rows", "claims")
  ]
  assert results["claims"] == outcome.claims
  readme = (declared.folder / "README.md").read_text()
  for mark, text in declared.tables(outcome).items():
    assert f"<!-- {mark} -->\n\n{text}\n\n<!-- end of {mark} -->" in readme


def test_figures_are_drawn_and_shown(committed, tmp_path):
  declared, _, outcome = committed
  readme = (declared.folder / "README.md").read_text()
  for name, figure in declared.figures(outcome).items():
    assert f"({name})" in readme and (declared.folder / name).exists()
    figure.savefig(tmp_path / "figure.png", dpi=30)
    assert (tmp_path / "figure.png").stat().st_size > 1_000


def test_the_readme_has_a_place_for_every_scale():
  for module in dict(COMMITTED):
    declared = open_study(module)
    readme = (declared.folder / "README.md").read_text()
    for scale in declared.scales if len(declared.scales) > 1 else ():
      assert f"<!-- end of results of {scale} -->" in readme


def test_studies_import_no_benchmarks():
  for path in (study.ROOT / "experiments").rglob("*.py"):
    text = path.read_text()
    assert "from benchmarks" not in text and "import benchmarks" not in text


def test_reliability_is_a_record_in_the_same_format():
  folder = study.ROOT / "experiments" / "reliability"
  results = json.loads((folder / "results.json").read_text())
  assert {claim["verdict"] for claim in results["claims"]} == {"yes"}


@pytest.fixture
def toy(tmp_path, monkeypatch):
  """A study of two cells and two scales, in a folder of its own."""
  monkeypatch.setattr(study, "ROOT", tmp_path)
  folder = tmp_path / "experiments" / "toy"
  folder.mkdir(parents=True)
  (folder / "README.md").write_text("<!-- t -->\n<!-- end of t -->\n")
  return study.Study(
    name="toy",
    scales={"cpu": 1, "gpu": 2},
    cells=lambda asked, scale: {"a": (), "b": ("a",)},
    rows=lambda done: [{"row": len(done.reports), "scale": done.scale}],
    claims=lambda outcome: [seeds.claim("so", "us", "1", "2", 1)],
    tables=lambda outcome: {"t": f"{outcome.scale_name}{outcome.suffix}"},
  )


def parse(declared, *line):
  values = flags.FlagValues()
  asked = declared.define_flags(values)
  values(["run.py", *line])
  return asked()


def test_flags(toy):
  asked = parse(toy, "--workdir=/w")
  assert (asked.workdir, asked.scale) == (pathlib.Path("/w"), "cpu")
  assert (asked.seeds, asked.cells, asked.jobs) == ([0, 1, 2], [], 1)
  asked = parse(toy, "--workdir=w", "--scale=gpu", "--seeds=3", "--cells=a,b")
  assert (asked.seeds, asked.cells, asked.scale) == ([3], ["a", "b"], "gpu")
  assert asked.command == (
    "python -m experiments.toy.run --workdir=WORKDIR --scale=gpu --seeds=3 "
    "--cells=a,b --jobs=1"
  )
  for line, word in (
    ([], "workdir"),
    (["--workdir=w", "--scale=tpu"], "tpu"),
    (["--workdir=w", "--jobs=0"], "jobs"),
  ):
    with pytest.raises(flags.Error, match=word):
      parse(toy, *line)


@pytest.mark.parametrize("seeds", ["0,0", "1,2,01", "a", ""])
def test_seeds_are_different_numbers(toy, seeds):
  """The same run twice would have no spread."""
  with pytest.raises(app.UsageError, match=f"--seeds={seeds} must be"):
    parse(toy, "--workdir=w", f"--seeds={seeds}")


def test_runs_are_different():
  inside = open_study("inside_flexivit.run")
  asked = parse(inside, "--flexivit=a,./a")
  with pytest.raises(app.UsageError, match=r"--flexivit=a,\./a has a run twi"):
    list(inside.rows(study.Done(asked, None, {})))


def test_studies_have_flags_of_their_own():
  longer = open_study("token_learner_placement.longer")
  asked = parse(longer, "--workdir=w", "--cells=deeper", "--steps=7")
  assert asked.own == {"cells": ["deeper"], "steps": ["7"]}
  assert asked.cells == ()  # These are compared, not merely trained.
  inside = open_study("inside_flexivit.run")
  asked = parse(inside, "--flexivit=/a/b_0,/a/b_1", "--images=100")
  assert asked.command == (
    "python -m experiments.inside_flexivit.run "
    "--flexivit=WORKDIR/b_0,WORKDIR/b_1 --images=100"
  )
  assert inside.seeds(asked) == ["b_0", "b_1"]
  assert not inside.is_whole(asked)
  assert inside.workdir(asked) == pathlib.Path("/a")
  assert parse(open_study("cost.run")).command.endswith("experiments.cost.run")


def test_the_run_of_a_cell():
  asked = study.Asked(workdir=pathlib.Path("/w"), scale="gpu")
  run = open_study("flexivit_curves.run").training_run(asked, "distilled", 2)
  assert run.name == "gpu_distilled_2"
  assert run.config == (
    "experiments/flexivit_curves/config.py:"
    "cell=distilled,workdir=/w,seed=2,scale=gpu"
  )


@pytest.fixture
def trained(monkeypatch):
  """Stands in for training; what was asked for."""
  asked = []

  def train_cells(cells, names, seeds_asked, run_for, workdir, jobs):
    asked.extend(names)
    report = {"hardware": "x", "train": {"seconds": 1}}
    return {name: [report] * len(seeds_asked) for name in names}

  monkeypatch.setattr(study.training, "train_cells", train_cells)
  return asked


def test_a_study_leaves_results_and_tables(toy, trained, tmp_path):
  toy.run(parse(toy, f"--workdir={tmp_path}", "--scale=gpu", "--jobs=2"))
  results = json.loads((toy.folder / "results_gpu.json").read_text())
  assert results.pop("hardware").startswith("x (")
  assert results == {
    "command": "python -m experiments.toy.run --workdir=WORKDIR --scale=gpu "
    "--seeds=0,1,2 --jobs=2",
    "seeds": [0, 1, 2],
    "seconds": 6,
    "rows": [{"row": 2, "scale": 2}],
    "claims": [seeds.claim("so", "us", "1", "2", 1)],
  }
  assert "\n\ngpu_gpu\n\n" in (toy.folder / "README.md").read_text()


def test_less_than_the_whole_study_replaces_no_committed_result(
  toy, trained, tmp_path
):
  toy.run(parse(toy, f"--workdir={tmp_path}", "--seeds=3"))
  assert not (toy.folder / "results.json").exists()
  own = tmp_path / "results" / "toy"
  assert json.loads((own / "results.json").read_text())["seeds"] == [3]
  assert "cpu" in (own / "README.md").read_text()
  assert "cpu" not in (toy.folder / "README.md").read_text()


def test_some_cells_have_no_results(toy, trained, tmp_path):
  toy.run(parse(toy, f"--workdir={tmp_path}", "--cells=b"))
  assert trained == ["b"] and not (toy.folder / "results.json").exists()
  with pytest.raises(app.UsageError, match=r"--cells=c is unknown\. Known: a"):
    toy.run(parse(toy, f"--workdir={tmp_path}", "--cells=c"))


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
