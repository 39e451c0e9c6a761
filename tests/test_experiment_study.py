"""Studies train what is missing, each run once, and stop when one fails."""

import json
import pathlib
import sys

import pytest

from experiments import study

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
(folder / "report.json").write_text(json.dumps({"name": folder.name}))
"""


@pytest.fixture
def make_runs(monkeypatch):
  """Makes runs of the stand-in that need so many starts."""

  def command(run, workdir):
    return [sys.executable, "-c", STAND_IN, str(workdir / run.name), run.config]

  def make(**starts):
    return [study.Run(name, str(number)) for name, number in starts.items()]

  monkeypatch.setattr(study.Run, "command", command)
  return make


def test_each_run_is_trained_once(make_runs, tmp_path, capsys):
  first, both = make_runs(a=1), make_runs(a=1, b=1)
  for runs in (first, both, both):
    reports = study.train_all(runs, tmp_path, 1, lambda report: report["name"])
    assert reports == {run.name: {"name": run.name} for run in runs}
  assert (tmp_path / "a" / "starts").read_text() == "x"
  assert (tmp_path / "b" / "starts").read_text() == "x"
  printed = capsys.readouterr().out
  assert "1/1 b: b (" in printed and "ETA 0:00" in printed
  assert "2 of 2 runs are there." in printed


def test_a_run_that_fails_stops_the_study_and_can_go_on(make_runs, tmp_path):
  runs = make_runs(a=2, b=1)
  with pytest.raises(RuntimeError, match=r"a ended with exit code 1.*a\.log"):
    study.train_all(runs, tmp_path, 1, str)
  assert "it failed" in (tmp_path / "a.log").read_text()
  assert not (tmp_path / "b").exists()
  assert len(study.train_all(runs, tmp_path, 1, str)) == 2


def test_jobs_share_the_cores(make_runs, tmp_path):
  shares = study.cores_of_jobs(1)
  assert len(shares) == 1
  count = len(shares[0])
  parts = study.cores_of_jobs(count)
  assert sorted(core for part in parts for core in part) == shares[0]
  with pytest.raises(ValueError, match=f"--jobs={count + 1}.* {count} cores"):
    study.cores_of_jobs(count + 1)
  study.train_all(make_runs(a=1, b=1), tmp_path, count, str)
  assert "cores 1\n" in (tmp_path / "a.log").read_text()


def test_the_command_trains_one_run_alone(tmp_path):
  run = study.Run("a", "configs/quickstart.py:runlocal")
  assert run.command(tmp_path)[1:] == [
    "-m",
    "tokenlearner_flexivit.main",
    "--config=configs/quickstart.py:runlocal",
    f"--workdir={tmp_path / 'a'}",
  ]


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


def test_spread():
  assert study.spread([1.0]) == {"mean": 1, "std": 0, "by_seed": [1]}
  found = study.spread(iter([1.0, 2.0, 3.0]))
  assert (found["mean"], found["std"]) == (2, 1)


def test_reports_are_read_where_runs_leave_them(tmp_path):
  run = study.Run("a", "")
  path = study.report_path(tmp_path, run)
  assert path == pathlib.Path(tmp_path, "a", "report.json")
  path.parent.mkdir()
  path.write_text(json.dumps({"hardware": "x"}))
  assert study.hardware([study.read(tmp_path, run)] * 2).startswith("x (")
