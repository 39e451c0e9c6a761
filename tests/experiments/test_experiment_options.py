"""What a study is asked for, and the file that its results go to."""

import json
import pathlib

import pytest
from absl import app, flags

from experiments import options, study


def parse(*line):
  """Parses the command line of a study with two scales."""
  values = flags.FlagValues()
  asked = options.define(["cpu", "gpu"], values)
  values(["run.py", *line])
  return asked()


def test_flags():
  asked = parse("--workdir=/w")
  assert asked == options.Options(pathlib.Path("/w"), "cpu", [0, 1, 2], [], 1)
  asked = parse("--workdir=w", "--scale=gpu", "--seeds=3", "--cells=a,b")
  assert (asked.seeds, asked.cells, asked.suffix) == ([3], ["a", "b"], "_gpu")
  for line, word in (
    ([], "workdir"),
    (["--workdir=w", "--scale=tpu"], "tpu"),
    (["--workdir=w", "--jobs=0"], "jobs"),
  ):
    with pytest.raises(flags.Error, match=word):
      parse(*line)


@pytest.mark.parametrize("seeds", ["0,0", "1,2,01", "a", ""])
def test_seeds_are_different_numbers(seeds):
  """The same run twice would have no spread."""
  with pytest.raises(app.UsageError, match=f"--seeds={seeds} must be"):
    parse("--workdir=w", f"--seeds={seeds}")


def test_cells_are_all_or_those_asked_for():
  assert parse("--workdir=w").choose(["a", "b"]) == ["a", "b"]
  some = parse("--workdir=w", "--cells=b")
  assert some.choose({"a": 1, "b": 2}) == ["b"]
  with pytest.raises(app.UsageError, match="--cells=b: known are a, c"):
    some.choose(["a", "c"])


def test_results_of_other_seeds_stay_in_the_workdir(tmp_path):
  committed = study.ROOT / "experiments/two_dials"
  for seeds, is_whole in (("0", False), ("3,4,5", False), ("0,1,2,3", True)):
    asked = parse(f"--workdir={tmp_path}", f"--seeds={seeds}")
    folder = asked.results_folder(committed)
    assert (folder == committed) == is_whole
    assert is_whole or folder.is_relative_to(tmp_path)


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_results_say_how_they_were_made(scale, tmp_path):
  folder = tmp_path / "two_dials"
  folder.mkdir()
  asked = parse("--workdir=w", f"--scale={scale}", "--seeds=0,1", "--jobs=2")
  reports = {
    "a": [{"hardware": "x", "train": {"seconds": s}} for s in (1, 2)],
    "b": [{"hardware": "x", "train": {"seconds": 4}}],
  }
  claims = [study.claim("so", "us", "1", "2", False)]
  results = asked.write_results(folder, reports, iter([{"row": 1}]), claims)
  file = folder / ("results.json" if scale == "cpu" else "results_gpu.json")
  assert json.loads(file.read_text()) == results
  assert results["command"] == (
    "python -m experiments.two_dials.run --workdir=WORKDIR "
    f"--scale={scale} --seeds=0,1 --jobs=2"
  )
  assert results["seconds"] == 7 and results["rows"] == [{"row": 1}]
