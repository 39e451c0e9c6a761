"""The benchmarks run; what they measure is not judged here."""

import json

import pytest

from benchmarks import __main__ as main
from benchmarks import compilation, dispatch, patch_embed


def test_patch_embed_reports_times():
  for result in (
    patch_embed.measure_matrices(processes=1),
    patch_embed.measure_application(sizes=(8, 4), width=8, repeats=1),
  ):
    assert result["milliseconds"] > 0


@pytest.mark.parametrize("module", [dispatch, patch_embed])
def test_help_measures_nothing(module, capsys):
  with pytest.raises(SystemExit, match="0"):
    module.main(["--help"])
  assert module.__doc__.split("\n", 1)[0] in capsys.readouterr().out


@pytest.mark.benchmarks
def test_dispatch_reports_ratios(config):
  result = dispatch.measure(config, rounds=1, steps=2)
  assert result["backend"] == "cpu"
  for what in ("compile", "step"):
    assert result[f"{what}_switch_over_host"] > 0


@pytest.mark.benchmarks
def test_the_page_and_its_files(tmp_path, capsys):
  main.main(
    ["--suite=steps,token_learner,memory", "--quick", f"--out={tmp_path}"]
  )
  page = capsys.readouterr().out
  rows = {
    path.stem: json.loads(path.read_text())["rows"]
    for path in tmp_path.glob("*.json")
  }
  assert set(rows) == {"steps", "token_learner", "memory"}
  for name, columns in (
    ("steps", ("forward_speedup", "train_limit_ms", "train_of_peak")),
    ("token_learner", ("promised", "forward_kept", "train_kept")),
    ("memory", ("analysed_gib", "measured_over_plain")),
  ):
    assert f"## {name}" in page
    for row in rows[name]:
      assert all(row[column] > 0 for column in columns)


def test_an_unknown_suite(capsys):
  with pytest.raises(SystemExit):
    main.main(["--suite=step"])
  assert "there are steps, token_learner" in capsys.readouterr().err


@pytest.mark.benchmarks
@pytest.mark.parametrize("way", ["host", "switch scan"])
def test_compilation_reports_seconds(way):
  dispatch, _, scan = way.partition(" ")
  assert compilation.time_ours("mu", (48, 40), dispatch, bool(scan)) > 0
  assert compilation.time_stock("mu", (48,)) > 0
