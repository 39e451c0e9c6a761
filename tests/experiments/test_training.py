"""Studies train what is missing, each run once, and stop when one fails."""

import json
import pathlib
import sys

import pytest

from experiments import study, training
from experiments.two_dials import run as two_dials

# Stands in for training: counts its starts, takes as many to write a report.
STAND_IN = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
with (folder / "starts").open("a") as file:
  file.write("x")
print("cores", len(os.sched_getaffinity(0)))
if len((folder / "starts").read_text()) < int(sys.argv[2]):
  sys.exit("it failed")
report = {"name": folder.name, "config": {"starts": int(sys.argv[2])}}
report["headline"] = "accuracy"
report["settings"] = [{"accuracy": 0.5}, {"accuracy": 0.25}]
(folder / "report.json").write_text(json.dumps(report))
"""


@pytest.fixture
def make_runs(monkeypatch):
  """Makes runs of the stand-in that need so many starts."""

  def command(run, workdir):
    return [sys.executable, "-c", STAND_IN, str(workdir / run.name), run.config]

  def make(**starts):
    return [training.Run(name, str(number)) for name, number in starts.items()]

  monkeypatch.setattr(training.Run, "command", command)
  monkeypatch.setattr(
    training.Run, "sections", property(lambda run: {"starts": int(run.config)})
  )
  return make


def test_each_run_is_trained_once(make_runs, tmp_path, capsys):
  first, both = make_runs(a=1), make_runs(a=1, b=1)
  for runs in (first, both, both):
    reports = training.train_all(runs, tmp_path, 1)
    assert {name: r["name"] for name, r in reports.items()} == {
      run.name: run.name for run in runs
    }
  assert (tmp_path / "a" / "starts").read_text() == "x"
  assert (tmp_path / "b" / "starts").read_text() == "x"
  printed = capsys.readouterr().out
  assert "1/1 b: 25.00 to 50.00 % (" in printed and "ETA 0:00" in printed
  assert "2 of 2 runs are there." in printed


def test_reports_of_another_config_are_refused(make_runs, tmp_path):
  training.train_all(make_runs(a=1), tmp_path, 1)
  with pytest.raises(ValueError, match=r"different config[^/]*starts: 1 -> 2"):
    training.train_all(make_runs(a=2), tmp_path, 1)


def test_what_a_config_gives_is_looked_for_in_a_complete_one():
  asked = study.Asked(scale="cpu")
  run = two_dials.STUDY.training_run(asked, "fixed6_8", 3)
  config = run.sections
  assert config["seed"] == 3
  assert config["data"]["features"] == ["image", "label"]
  complete = {**config, "ema": None, "data": {**config["data"], "prefetch": 8}}
  training._check_config(run, {"config": complete}, pathlib.Path("there"))
  complete["total_steps"] += 1
  with pytest.raises(
    ValueError, match=r"fixed6_8.*\n.*total_steps: 801 -> 800"
  ):
    training._check_config(run, {"config": complete}, pathlib.Path("there"))


def test_a_run_that_fails_stops_the_study_and_can_go_on(make_runs, tmp_path):
  runs = make_runs(a=2, b=1)
  with pytest.raises(RuntimeError, match=r"a ended with exit code 1.*a\.log"):
    training.train_all(runs, tmp_path, 1)
  assert "it failed" in (tmp_path / "a.log").read_text()
  assert not (tmp_path / "b").exists()
  assert len(training.train_all(runs, tmp_path, 1)) == 2


def test_jobs_share_the_cores(make_runs, tmp_path):
  shares = training.cores_of_jobs(1)
  assert len(shares) == 1
  count = len(shares[0])
  parts = training.cores_of_jobs(count)
  assert sorted(core for part in parts for core in part) == shares[0]
  with pytest.raises(ValueError, match=f"--jobs={count + 1}.* {count} cores"):
    training.cores_of_jobs(count + 1)
  training.train_all(make_runs(a=1, b=1), tmp_path, count)
  assert "cores 1\n" in (tmp_path / "a.log").read_text()


def test_the_command_trains_one_run_alone(tmp_path):
  run = training.Run("a", "configs/quickstart.py:runlocal")
  assert run.command(tmp_path)[1:] == [
    "-m",
    "tokenlearner_flexivit.main",
    "--config=configs/quickstart.py:runlocal",
    f"--workdir={tmp_path / 'a'}",
  ]


def test_reports_are_read_where_runs_leave_them(tmp_path):
  run = training.Run("a", "")
  path = training.report_path(tmp_path, run)
  assert path == pathlib.Path(tmp_path, "a", "report.json")
  path.parent.mkdir()
  path.write_text(json.dumps({"accuracy": 0.5}))
  assert training.read(tmp_path, run) == {"accuracy": 0.5}


def test_cells_are_trained_with_every_seed(make_runs, tmp_path):
  def run_for(cell, seed):
    return make_runs(**{f"{cell}{seed}": 1})[0]

  cells = {"a": (), "b": ()}
  reports = training.train_cells(cells, cells, [1, 0], run_for, tmp_path, 1)
  names = {cell: [r["name"] for r in reports[cell]] for cell in reports}
  assert names == {"a": ["a1", "a0"], "b": ["b1", "b0"]}


def test_what_cells_need_is_trained_before():
  cells = {"a": (), "b": ("a",), "c": (), "d": ("b", "c")}
  assert training.rounds(cells, ["d"]) == [["a", "c"], ["b"], ["d"]]
  assert training.rounds(cells, ["b", "c"]) == [["a", "c"], ["b"]]
  assert training.rounds(cells, []) == []
