"""The command line: predictions, profiles and exports."""

import json

import chex
import numpy as np
import pytest
import safetensors.numpy
from jax import export
from PIL import Image

from tests.inference.conftest import NAMES
from tokenlearner_flexivit import predict
from tokenlearner_flexivit.inference import Predictor, profile


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


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["x.png", "--patch_size=5"], "1, 2, 3, 4, 6, 12"),
    (["x.png", "--num_tokens=many"], "'many' is no number"),
    (["x.png", "--budget_ms=5", "--patch_size=6"], "not both"),
    (["x.png", "--workdir=/nowhere"], "no file or folder"),
  ],
)
def test_mistakes_are_a_line(run, arguments, words):
  assert words in _run(f"--workdir={run}", *arguments)


@pytest.mark.parametrize(
  "arguments, words",
  [
    ([], "IMAGE"),
    (["x.png", "--profile=p.json"], "for --budget_ms"),
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
