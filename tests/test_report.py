"""Reports: tables before files, and intervals beside shares."""

import itertools
import json
import os
import subprocess
import sys

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import dials, report
from tokenlearner_flexivit.figures import curve, drawing
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.run import workdir as workdir_lib
from tokenlearner_flexivit.train import setup

ACCURACY = Metric("accuracy", "%", is_share=True)

PARAMS = {"kernel": jnp.ones((2, 3))}


@pytest.fixture
def parts(config, monkeypatch):
  """An experiment whose throughput is not measured."""
  config.model.token_learner = None
  parts = setup.Experiment(config)
  for evaluator in parts.evaluators.values():
    speeds = {s: 100.0 * s.patch_size[0] for s in evaluator.settings}
    monkeypatch.setattr(evaluator, "throughput", lambda _, all=speeds: all)
  return parts


def results(parts):
  return {
    name: {
      f"{setting.name}/{metric}": value
      for setting in evaluator.settings
      for metric, value in (
        (evaluator.headline, 14 / 21),
        ("loss", 14 / 21),
        ("examples", 21.0),
      )
    }
    for name, evaluator in parts.evaluators.items()
  }


def test_a_report_names_its_metric_and_its_examples(parts, tmp_path, capsys):
  written = report.write(parts, tmp_path, PARAMS, results(parts), 4)
  assert written == json.loads((tmp_path / "report.json").read_bytes())
  assert (written["headline"], written["num_examples"]) == ("accuracy", 21)
  assert written["num_params"] == 6
  text = (tmp_path / "report.md").read_text(encoding="utf-8")
  for shown in (text, capsys.readouterr().out):
    assert "| 95 % interval |" in shown
    assert shown.count("|  45.4 to 82.8 |") == 3
  assert cv2.imread(str(tmp_path / "patch_sizes.png")).std() > 10


def test_a_report_tells_whose_costs_are_of_a_window(parts, tmp_path):
  report.write(parts, tmp_path, PARAMS, results(parts), 4)
  text = (tmp_path / "report.md").read_text(encoding="utf-8")
  assert "multiply-adds per image (in" in text
  name = list(parts.evaluators)[-1]
  parts.config["evals"][name]["window"] = 8
  report.write(parts, tmp_path, PARAMS, results(parts), 4)
  text = (tmp_path / "report.md").read_text(encoding="utf-8")
  assert f"per image, of {name} per window that slides" in text


def test_a_report_names_any_folder(parts, tmp_path):
  """Also one that would be a wrong formula, with bytes that are not UTF-8."""
  parts.config["data"]["name"] = "folder:/mnt/c$/1_2_3$/caf\udce9"
  report.write(parts, tmp_path, PARAMS, results(parts), 4)
  text = (tmp_path / "report.md").read_text(encoding="utf-8")
  assert text.startswith(r"# folder:/mnt/c$/1_2_3$/caf\udce9: one model")
  assert (tmp_path / "patch_sizes.png").exists()


def test_a_report_shows_what_was_before_training(parts, tmp_path, capsys):
  """Of the first step's evaluation, where the run has one."""
  names = [setting.name for setting in parts.dials.settings]
  records = [
    {"step": 0} | {f"test/{name}/accuracy": 0.25 for name in names},
    {"step": 4} | {f"test/{name}/accuracy": 0.5 for name in names},
  ]
  lines = "".join(f"{json.dumps(record)}\n" for record in records)
  (tmp_path / "metrics.jsonl").write_text(lines)
  written = report.write(parts, tmp_path, PARAMS, results(parts), 4)
  assert [r["before_training"] for r in written["settings"]] == [0.25] * 3
  shown = capsys.readouterr().out
  assert "| before: accuracy % |" in shown and shown.count(" 25.00 |") == 3
  # It is no news of an untrained model.
  report.write(parts, tmp_path, PARAMS, results(parts), 0)
  assert "before" not in capsys.readouterr().out


def test_a_report_counts_the_examples_that_an_evaluation_counted(
  parts, tmp_path, capsys
):
  """Not those of the split: some may have no label."""
  values = results(parts)
  for key in values["test"]:
    if key.endswith("/examples"):
      values["test"][key] = 6.0
  written = report.write(parts, tmp_path, PARAMS, values, 4)
  assert written["num_examples"] == 6
  text = capsys.readouterr().out
  assert "test, 6 images:" in text and "|  30.0 to 90.3 |" in text


def test_an_older_log_that_does_not_count_gives_no_interval(
  parts, tmp_path, capsys
):
  values = {
    k: v for k, v in results(parts)["test"].items() if "examples" not in k
  }
  written = report.write(parts, tmp_path, PARAMS, {"test": values}, 4)
  assert written["num_examples"] is None
  text = capsys.readouterr().out
  assert "\ntest:\n" in text and "interval" not in text


def test_a_report_is_of_the_steps_that_its_weights_have_seen(parts, tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 2, "train_seconds": 1.5}\n{"step": 4, "train_seconds": 3.0}\n'
  )
  written = report.write(parts, tmp_path, PARAMS, results(parts), 3)
  assert written["train"] == {"steps": 3, "seconds": 1.5}
  notes = tmp_path / "checkpoints" / "3" / "notes"
  notes.mkdir(parents=True)
  (notes / "metadata").write_text('{"notes": {"pending": [], "seconds": 2.2}}')
  written = report.write(parts, tmp_path, PARAMS, results(parts), 3)
  assert written["train"] == {"steps": 3, "seconds": 2.2}


def test_a_report_is_of_the_evaluation_that_suits_the_training(parts, tmp_path):
  test, evaluator = parts.config["evals"]["test"], parts.evaluators["test"]
  parts.config["data"]["name"] = test["data"]["name"]
  parts.config["data"]["split"] = "train[:90%]"
  for name, changes in (
    ("a_few_held_out", {"split": "train[90%:]"}),
    ("a_few_learned", {"split": "train[:10%]"}),
    ("all_there_are", {"split": "all"}),
    ("another", {"name": "fake:12x12x3:5:9"}),
  ):
    data = {**test["data"], **changes}
    parts.config["evals"][name] = {**test, "data": data}
    parts.evaluators[name] = evaluator
  all_results = dict(sorted(results(parts).items()))
  written = report.write(parts, tmp_path, PARAMS, all_results, 4)
  assert written["evaluation"] == "test"
  del all_results["test"], test["data"]["split"]
  written = report.write(parts, tmp_path, PARAMS, all_results, 4)
  assert written["evaluation"] == "a_few_held_out"
  for held_out, expected in (
    ("a_few_held_out", "another"),
    ("another", "a_few_learned"),
  ):
    del all_results[held_out]
    written = report.write(parts, tmp_path, PARAMS, all_results, 4)
    assert written["evaluation"] == expected


def test_tables_are_said_whatever_cannot_be_written(
  parts, tmp_path, capsys, monkeypatch
):
  def full(*unused):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(curve, "draw", full)
  (tmp_path / f"report.json.{os.getpid()}.partial").mkdir()  # Also stops root.
  with pytest.raises(OSError, match="could not be written") as error:
    report.write(parts, tmp_path, PARAMS, results(parts), 4)
  assert "report.json (Is a directory), patch_sizes.png (No sp" in str(
    error.value
  )
  assert "| patch size |" in capsys.readouterr().out
  text = (tmp_path / "report.md").read_text(encoding="utf-8")
  assert "| patch size |" in text and "patch_sizes.png" not in text


def test_evaluations_of_many_settings_are_a_short_line(parts):
  evaluator = parts.evaluators["test"]
  values = results(parts)["test"]
  line = report.one_line(parts, "test", values, 7, 1.0)
  assert line == (
    "step 7  test accuracy in %  6: 66.67  4: 66.67  3: 66.67  (1.0 s)"
  )
  evaluator.settings = [dials.Setting((i, i), 4) for i in range(1, 30)]
  values = {
    f"{setting.name}/accuracy": i / 100
    for i, setting in enumerate(evaluator.settings)
  }
  line = report.one_line(parts, "test", values, 7, 1.0)
  assert "0.00 (1_tok4) to 28.00 (29_tok4), 29 settings" in line


def lines_of(rows, monkeypatch, **arguments):
  """Returns the panels that `curve.draw` draws."""
  panels = []
  monkeypatch.setattr(
    drawing, "save", lambda figure, *_, **__: panels.extend(figure.axes)
  )
  curve.draw(rows, "x.png", "title", "accuracy", ACCURACY, **arguments)
  return panels


def row(patch_size, gmacs, images_per_s, accuracy):
  return dict(
    patch_size=patch_size,
    num_tokens=None,
    gmacs=gmacs,
    images_per_s=images_per_s,
    accuracy=accuracy,
  )


def test_curves_do_not_run_back_nor_exaggerate(monkeypatch):
  speeds = (900, 1000, 400)  # As measured: the coarsest is not the quickest.
  rows = [
    row(size, 1 / size, speed, 0.66 + 0.001 * i)
    for i, (size, speed) in enumerate(zip((24, 16, 8), speeds, strict=True))
  ]
  for axes in lines_of(rows, monkeypatch):
    assert (np.diff(axes.lines[0].get_xdata()) > 0).all()
    assert np.diff(axes.get_ylim()) > 4.99
  for axes in lines_of(rows, monkeypatch, num_examples=15):
    low, high = axes.get_ylim()
    assert low < 45 and high > 80  # The intervals of 15 images.


@pytest.mark.parametrize(
  "low, high", [(2500, 2750), (0.0252, 0.0261), (1.5, 4), (2, 90), (1, 5e6)]
)
def test_numbers_of_an_axis_are_few_and_apart(low, high, monkeypatch):
  rows = [row(16, low / 1e3, 10, 0.5), row(8, high / 1e3, 5, 0.6)]
  figure = drawing.Figure(figsize=(4, 3), layout="constrained")
  axes = figure.subplots()
  axes.plot([low, high], [1, 2])
  drawing.log_axis(axes, [1e3 * r["gmacs"] for r in rows])
  figure.canvas.draw()
  boxes = [
    label.get_window_extent()
    for label in axes.get_xticklabels()
    if label.get_text() and low <= label.get_position()[0] <= high
  ]
  assert 1 <= len(boxes) <= 8
  edges = sorted((box.x0, box.x1) for box in boxes)
  assert all(a[1] < b[0] for a, b in itertools.pairwise(edges))


def test_a_notebooks_backend_stops_nothing():
  code = (
    "import sys; from tokenlearner_flexivit.figures import drawing\n"
    "drawing.Figure().savefig(sys.stdout.buffer)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "MPLBACKEND": "module://no_such_backend"},
    capture_output=True,
  )
  assert done.stdout.startswith(b"\x89PNG"), done.stderr


def test_metrics_of_all_evaluations_have_a_place(parts, tmp_path):
  """Also those that the first one has too."""
  parts.evaluators["val"] = parts.evaluators["test"]
  parts.config["evals"]["val"] = {
    **parts.config["evals"]["test"],
    "data": {**parts.config["evals"]["test"]["data"], "split": "train"},
  }
  values = results(parts)
  values["val"] = {k: v / 2 for k, v in values["val"].items()}
  written = report.write(parts, tmp_path, PARAMS, values, 4)
  for row in written["settings"]:
    assert row["val/accuracy"] == row["accuracy"] / 2
    assert "val/gmacs" not in row


def test_a_result_that_is_no_number_is_null(parts, tmp_path):
  """And stops no report; the other settings keep theirs."""
  values = results(parts)
  first = next(key for key in values["test"] if key.endswith("/accuracy"))
  values["test"][first] = float("nan")
  report.write(parts, tmp_path, PARAMS, values, 4)

  def refuse(constant):
    raise AssertionError(constant)

  path = tmp_path / "report.json"
  strict = json.loads(path.read_bytes(), parse_constant=refuse)
  shown = [row["accuracy"] for row in strict["settings"]]
  assert shown.count(None) == 1 and len(shown) == 3
  assert workdir_lib.read_report(tmp_path) == strict
  assert cv2.imread(str(tmp_path / "patch_sizes.png")).std() > 10
