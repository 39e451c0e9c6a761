"""The command line: predictions, profiles and exports."""

import csv
import io
import json
import subprocess
import sys

import chex
import numpy as np
import pytest
import safetensors.numpy
from jax import export
from PIL import Image

from tests.inference.conftest import NAMES
from tokenlearner_flexivit import predict
from tokenlearner_flexivit.inference import Predictor, profile, written
from tokenlearner_flexivit.tasks import panoptic


@pytest.fixture
def photo(tmp_path):
  path = tmp_path / "photo.png"
  pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  return path


def _run(*arguments):
  """Returns the exit status, or the error that it is."""
  with pytest.raises(SystemExit) as stopped:
    predict.main([str(a) for a in arguments])
  return stopped.value.code


def test_predictions_as_text_and_json(run, predictor, photo, tmp_path, capsys):
  setting = [f"--workdir={run}", "--patch_size=6", "--num_tokens=2"]
  assert _run(photo, *setting, "--top_k=2") == 0
  (expected,) = predictor.predict(photo, 6, 2, top_k=2)
  best = expected.labels[0]
  assert best.name in NAMES
  shown = f"{photo}: {best.name} {100 * best.probability:.1f} %, "
  assert shown in capsys.readouterr().out

  bad = tmp_path / "bad.png"
  bad.write_bytes(photo.read_bytes()[:100])
  assert _run(bad, photo, *setting, "--json", "--top_k=1") == 1
  captured = capsys.readouterr()
  found = json.loads(captured.out)
  assert (found["patch_size"], found["num_tokens"]) == (6, 2)
  first, second = found["predictions"]
  assert first["image"] == str(bad) and first["error"] in captured.err
  assert second["labels"] == [
    {
      "index": best.index,
      "name": best.name,
      "probability": pytest.approx(best.probability),
    }
  ]


def test_a_profile_serves_the_budget(run, photo, tmp_path, capsys):
  path = tmp_path / "profile.json"
  assert (
    _run("profile", f"--workdir={run}", "--repeats=1", f"--output={path}") == 0
  )
  assert "90.00" in capsys.readouterr().out
  profiled = ["profile", f"--workdir={run}", "--repeats=1", "--json"]
  assert _run(*profiled) == 0
  printed = json.loads(capsys.readouterr().out)
  content = json.loads(path.read_text())
  assert printed.keys() == content.keys()
  rows = content["rows"]
  assert [row["gmacs"] for row in printed["rows"]] == [
    row["gmacs"] for row in rows
  ]
  # As if all but the first took long.
  for row, latency in zip(rows, (1, 50, 60, 70), strict=True):
    row["latency_ms_p90"] = latency
  content = {**json.loads(path.read_text()), "rows": rows}
  path.write_text(json.dumps(content))
  budget = [photo, f"--workdir={run}", f"--profile={path}"]
  assert _run(*budget, "--budget_ms=10", "--json") == 0
  found = json.loads(capsys.readouterr().out)
  assert (found["patch_size"], found["num_tokens"]) == (6, 2)
  assert "patch6_tok2, needs 1 ms" in _run(*budget, "--budget_ms=0.5")


def test_a_folder_of_images_as_csv(run, predictor, photo, tmp_path, capsys):
  """Those of all folders below, whatever else is there."""
  folder = tmp_path / "some, images"
  (folder / "deeper").mkdir(parents=True)
  (folder / ".hidden").mkdir()
  for name in ("b.PNG", "deeper/a.png", ".hidden/c.png", ".d.png"):
    (folder / name).write_bytes(photo.read_bytes())
  (folder / "notes.txt").touch()
  (folder / "a.png").write_bytes(b"nothing")
  setting = [f"--workdir={run}", "--patch_size=6", "--num_tokens=2"]
  assert _run(folder, *setting, "--csv", "--top_k=2") == 1
  lines = list(csv.reader(io.StringIO(capsys.readouterr().out)))
  head, bad, *rest = lines
  assert head == ["image", "rank", "index", "name", "probability", "error"]
  assert bad[0] == f"{folder}/a.png" and "no image" in bad[-1]
  (expected,) = predictor.predict(photo, 6, 2, top_k=2)
  names = [f"{folder}/b.PNG", f"{folder}/deeper/a.png"]
  assert [line[:4] for line in rest] == [
    [name, str(rank), str(label.index), label.name]
    for name in names
    for rank, label in enumerate(expected.labels, start=1)
  ]
  probability = expected.labels[0].probability
  assert float(rest[0][4]) == pytest.approx(probability, rel=1e-4)
  empty = tmp_path / "empty"
  empty.mkdir()
  assert "no file that the model reads (.avif, .bmp" in _run(empty, *setting)
  (answer,) = predictor.predict(folder, 6, 2)
  assert "is a folder" in answer.error


def test_files_of_answers_lie_as_the_images_do(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  out = tmp_path / "out"
  names = ["a/b/c/1.jpg", f"{tmp_path}/a/b/2.v2.png", "a/d/1.jpg"]
  assert written.paths(out, names, [""]) == {
    out / "b/c/1": names[0],
    out / "b/2.v2": names[1],
    out / "d/1": names[2],
  }
  assert written.paths(out, ["a/1.jpg"], [""]) == {out / "1": "a/1.jpg"}
  # Files of the same name but for the suffix keep it.
  names = ["a/1.jpg", "a/1.png", "a/2.png", "a/IMG.1", "a/IMG.2"]
  assert [path.name for path in written.paths(out, names, [""])] == [
    *("1.jpg", "1.png", "2", "IMG.1", "IMG.2")
  ]
  with pytest.raises(ValueError, match=r"a/1\.jpg and \./a/1\.jpg would be"):
    written.paths(out, ["a/1.jpg", "./a/1.jpg"], [""])
  # A picture of the second would be the ids of the first.
  named = ["1.jpg", "1_ids.jpg"]
  assert len(written.paths(out, named, [""])) == 2
  with pytest.raises(ValueError, match=r"1\.jpg and 1_ids\.jpg would be"):
    written.paths(out, named, panoptic.Panoptic.written_ends)


def test_the_budget_is_that_of_a_call(run, photo, tmp_path, capsys):
  """Of all images, unless fewer are given per call."""
  path = tmp_path / "profile.json"
  predictor = Predictor.load(run)
  rows = [
    {
      **setting.row,
      "batch_size": size,
      "gmacs": predictor._known.gmacs(setting),
      "latency_ms_p90": float(size),
    }
    for size in (1, 4)
    for setting in predictor.trained.known_settings
  ]
  profile.write(rows, path)
  call = [photo] * 3 + [f"--workdir={run}", f"--profile={path}", "--json"]
  found = _run(*call, "--budget_ms=2")
  assert "4 ms for 3 images at once" in found and "--batch_size=1" in found
  assert _run(*call, "--budget_ms=2", "--batch_size=1") == 0
  assert len(json.loads(capsys.readouterr().out)["predictions"]) == 3


def test_a_profile_that_cannot_be_written_is_not_measured(
  run, tmp_path, monkeypatch
):
  monkeypatch.setattr(Predictor, "profile", lambda *_, **__: 1 / 0)
  call = ["profile", f"--workdir={run}"]
  assert "must be 1 to max_batch" in _run(*call, "--batch_sizes=1,100000")
  assert "is a folder" in _run(*call, f"--output={tmp_path}")
  (tmp_path / "file").touch()
  assert "Error" in _run(*call, f"--output={tmp_path}/file/p.json")


def test_paths_of_home(run, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  (tmp_path / "run").symlink_to(run)
  call = ["--workdir=~/run", "--repeats=1", "--output=~/new/p.json"]
  assert _run("profile", *call) == 0
  export_call = ["--workdir=~/run", "--patch_size=6", "--num_tokens=2"]
  export_call += ["--output=~/out", "--hub_dir=~/hub"]
  assert _run("export", *export_call, "--profile=~/new/p.json") == 0
  assert not (tmp_path / "~").exists()
  for name in ("new/p.json", "out/manifest.json", "hub/README.md"):
    assert (tmp_path / name).exists()


def test_both_folders_are_checked_before_either_is_written(run, tmp_path):
  kept = tmp_path / "hub" / "mine.txt"
  kept.parent.mkdir()
  kept.touch()
  call = ["export", f"--workdir={run}", f"--output={tmp_path / 'out'}"]
  assert "not empty" in _run(*call, f"--hub_dir={kept.parent}")
  assert _run(*call, f"--hub_dir={tmp_path / 'out'}") == 2
  assert [path.name for path in tmp_path.iterdir()] == ["hub"]


@pytest.mark.processes
def test_nothing_is_drawn_to_predict(tmp_path):
  """In an environment whose notebook names a backend that is not installed."""
  script = """
import sys
sys.modules["matplotlib"] = None  # Makes an import an error.
from tokenlearner_flexivit import predict
predict.main(["x.png", "--workdir=nowhere"])
"""
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True
  )
  assert done.stderr.strip() == "Error: There is no file or folder nowhere."


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["x.png", "--patch_size=5"], "1, 2, 3, 4, 6, 12"),
    (["x.png", "--num_tokens=many"], "'many' is no number"),
    (["x.png", "--budget_ms=5", "--patch_size=6"], "not both"),
    (["x.png", "--workdir=/nowhere"], "no file or folder"),
    (["x.png", "--output=answers"], "this model classifies. Give --csv"),
  ],
)
def test_mistakes_are_a_line(run, arguments, words):
  assert words in _run(f"--workdir={run}", *arguments)


@pytest.mark.parametrize(
  "arguments, words",
  [
    ([], "IMAGE"),
    (["x.png", "--profile=p.json"], "for --budget_ms"),
    (["x.png", "--json", "--csv"], "not allowed with"),
    (["x.png", "--batch_size=0"], "at least 1"),
    (["x.png", "--top_k=-1"], "'-1' must be a whole number of at least 1"),
    (["x.png", "--budget_ms=nan"], "'nan' must be a finite number above 0"),
    (["x.png", "--budget_ms=-0"], "'-0' must be a finite number above 0"),
    (["profile", "--batch_sizes=1,0"], "'0' must be a whole number"),
    (["profile", "--repeats=0"], "at least 1"),
    (["export"], "--output, --hub_dir"),
    (["export", "--hub_dir=x", "--patch_size=6"], "what --output gets"),
    (["export", "--output=x", "--profile=p.json"], "for --hub_dir"),
    (["--top_k=3", "profile"], "The word profile comes before all flags"),
  ],
)
def test_usage(run, arguments, words, capsys):
  assert _run(*arguments, f"--workdir={run}") == 2
  assert words in capsys.readouterr().err


def test_a_profile_of_another_model_is_not_published(run, tmp_path):
  path = tmp_path / "profile.json"
  row = dict(patch_size=6, num_tokens=2, batch_size=1, gmacs=3.0)
  profile.write([row], path)
  folder = tmp_path / "hub"
  found = _run(
    "export", f"--workdir={run}", f"--hub_dir={folder}", f"--profile={path}"
  )
  assert "another model" in found
  assert not folder.exists()


def test_exports(run, predictor, photo, tmp_path):
  model = tmp_path / "model"
  assert (
    _run(
      "export",
      f"--workdir={run}",
      f"--output={model}",
      f"--hub_dir={tmp_path / 'hub'}",
      "--patch_size=6",
      "--num_tokens=2",
    )
    == 0
  )
  assert (tmp_path / "hub" / "README.md").exists()
  manifest = json.loads((model / "manifest.json").read_text())
  assert [row["name"] for row in manifest["settings"]] == ["patch6_tok2"]
  # The program gives the probabilities of the run's own predictor.
  program = export.deserialize(
    bytearray((model / manifest["settings"][0]["file"]).read_bytes())
  )
  images, errors = predictor.preprocess([photo, photo])
  assert not errors
  weights = safetensors.numpy.load_file(model / manifest["weights"])
  setting = predictor.setting(6, 2)
  chex.assert_trees_all_close(
    program.call(weights, images),
    predictor.forward(images, setting).logits,
    atol=1e-5,
  )
  (found,) = Predictor.load(tmp_path / "hub").predict(photo, 6, 2)
  (expected,) = predictor.predict(photo, 6, 2)
  assert found.labels[0].index == expected.labels[0].index
