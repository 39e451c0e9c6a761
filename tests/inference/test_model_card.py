"""The folder for a model hub: what is in it, and that it can be used again."""

import dataclasses
import json
import re

import chex
import cv2
import numpy as np
import pytest
import yaml

from tests.inference.test_export import RECORDED, SETTINGS, build
from tokenlearner_flexivit.inference import export, model_card, profile
from tokenlearner_flexivit.inference import trained as trained_lib
from tokenlearner_flexivit.run import checkpoint

TRAINING = {
  "data": "rendered_scenes/96",
  "split": "train",
  "evaluation": "rendered_scenes/96, test",
  "steps": 1500,
  "seconds": 904.7,
  "hardware": "1 x cpu",
  "date": "2026-11-21",
  "num_examples": 2000,
}


@pytest.fixture(scope="module")
def trained():
  return dataclasses.replace(build(), training=TRAINING)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
  path = tmp_path_factory.mktemp("hub") / "model"
  assert model_card.write(trained, path) == path / "README.md"
  return path


def parts(card):
  """What a hub reads of a card, and the text below."""
  _, front, text = card.read_text().split("---\n", 2)
  return yaml.safe_load(front), text


def rows(text):
  """The cells of the first table."""
  lines = [line for line in text.split("\n") if line.startswith("|")]
  cells = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
  end = next(i for i, line in enumerate(cells) if line[0] == "step")
  return [dict(zip(cells[0], line, strict=True)) for line in cells[2:end]]


def test_the_folder_is_the_model_again(trained, folder):
  again = trained_lib.load(folder)
  chex.assert_trees_all_equal(again.params, trained.params)
  for field in dataclasses.fields(trained):
    if field.name != "params":
      assert getattr(again, field.name) == getattr(trained, field.name)


def test_the_card_shows_the_plane(folder):
  front, text = parts(folder / "README.md")
  assert front["library_name"] == "tokenlearner_flexivit"
  assert front["pipeline_tag"] == "image-classification"
  assert front["datasets"] == ["rendered_scenes"]
  assert "license" not in front
  assert front["metrics"] == ["accuracy"]
  [index] = front["model-index"]
  [result] = index["results"]
  assert index["name"] == "model"
  assert result["task"] == {"type": "image-classification"}
  assert result["dataset"] == {
    "name": "rendered_scenes/96",
    "type": "rendered_scenes",
    "split": "test",
  }
  assert result["metrics"][-1] == {
    "type": "accuracy",
    "value": 0.875,
    "name": "accuracy (patch4_tokall)",
  }
  shown = rows(text)
  assert [row["patch size"] for row in shown] == ["6", "6", "4", "4"]
  assert [row["learned tokens"] for row in shown] == ["2", "all", "2", "all"]
  assert [row["accuracy %, 2,000 images"] for row in shown] == [
    "40.00",
    "50.00",
    "75.00",
    "87.50",
  ]
  assert [row["best"] for row in shown] == ["", "*", "*", "*"]
  assert "ms" not in shown[0]
  for words in (
    "measured on rendered_scenes/96, test",
    "evaluation batches on 1 x cpu",
    "1,500 steps in 15.1 min",
    "ant, bee, cat",
    'Predictor.load("model")',
    'Predictor.load("hf://OWNER/NAME")',
    "budget_ms=",
    "hf upload OWNER/NAME model\n",
  ):
    assert words in text
  assert "(plane.png)" in text
  height, width, _ = cv2.imread(folder / "plane.png").shape
  assert width > 2 * height > 500


def test_others_can_read_the_config(trained, folder):
  config = json.loads((folder / "config.json").read_text())
  assert config["model"] == trained.model_section
  assert config["input"]["preprocessing"] == trained.pp
  assert config["labels"] == ["ant", "bee", "cat"]
  assert config["training"] == TRAINING
  settings = [(r["patch_size"], r["num_tokens"]) for r in config["settings"]]
  assert settings == [(list(s.patch_size), s.num_tokens) for s in SETTINGS]


def test_a_profile_gives_the_times(trained, tmp_path):
  measured = {
    "patch_size": 4,
    "num_tokens": 2,
    "batch_size": 8,
    "latency_ms": 1.25,
    "images_per_s": 6400.0,
    "memory_bytes": 2_500_000,
  }
  _, text = parts(model_card.write(trained, tmp_path, [measured]))
  shown = rows(text)
  assert [row["ms"] for row in shown] == ["", "", "1.25", ""]
  assert shown[2]["images"] == "8"
  assert shown[2]["MB"] == "2.5"
  assert f"measured on {profile.hardware()} with JAX" in text


def test_of_several_numbers_of_images_the_fewest_are_shown(trained, tmp_path):
  measured = [
    {
      "patch_size": 4,
      "num_tokens": 2,
      "batch_size": size,
      "latency_ms": float(size),
      "images_per_s": 1000.0,
      "memory_bytes": 1_000_000,
    }
    for size in (1, 64)
  ]
  _, text = parts(model_card.write(trained, tmp_path, measured))
  assert [row["images"] for row in rows(text)] == ["", "", "1", ""]


@pytest.mark.slow
def test_what_the_card_shows_runs(folder, tmp_path, monkeypatch):
  code = re.search(r"```python\n(.*?)```", parts(folder / "README.md")[1], re.S)
  code = code[1].replace("budget_ms=20", "budget_ms=1e6")
  assert code.count(".predict(") == 2
  (tmp_path / "model").symlink_to(folder)
  photo = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  cv2.imwrite(tmp_path / "image.jpg", photo)
  monkeypatch.chdir(tmp_path)
  exec(code, {})


def test_what_is_missing_is_said(trained, tmp_path):
  unknown = dataclasses.replace(
    trained, recorded=(), training={}, class_names=None
  )
  front, text = parts(model_card.write(unknown, tmp_path))
  assert "datasets" not in front
  assert "No accuracy is recorded" in text
  assert "have no names" in text
  assert "Nothing is recorded" in text
  assert "budget_ms" not in text
  assert not (tmp_path / "plane.png").exists()
  assert "plane.png" not in text
  assert len(rows(text)) == len(SETTINGS)


def test_one_dial_has_a_table_and_a_picture_of_its_own(trained, tmp_path):
  one = dataclasses.replace(
    trained,
    settings=tuple(s.replace(num_tokens=None) for s in SETTINGS[::2]),
    recorded=tuple({**row, "num_tokens": None} for row in RECORDED[::2]),
  )
  _, text = parts(model_card.write(one, tmp_path))
  assert "learned tokens" not in rows(text)[0]
  assert "num_tokens" not in text
  assert (tmp_path / "plane.png").exists()


def test_the_card_names_another_metric(trained, tmp_path):
  rows_ = tuple(
    {("mAP" if key == "accuracy" else key): row[key] for key in row}
    for row in RECORDED
  )
  other = dataclasses.replace(
    trained, recorded=rows_, headline="mAP", settings=SETTINGS[:1]
  )
  front, text = parts(model_card.write(other, tmp_path))
  assert front["metrics"] == ["mAP"]
  assert "ccuracy" not in text
  # What was evaluated is in it, though not trained.
  assert len(rows(text)) == len(SETTINGS)
  assert "3 more were evaluated, but not trained" in text
  assert (tmp_path / "plane.png").exists()
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["metric"] == "mAP"


@pytest.mark.parametrize(
  "data, name, is_public",
  [
    ("cifar10:3.0.2", "cifar10", True),
    ("coco/2017:1.1.0", "coco", True),
    ("folder:flowers", "flowers", False),
    ("video_folder/clips-25fps-256px-3d55", "clips-25fps-256px-3d55", False),
  ],
)
def test_a_hub_gets_the_name_of_the_data(
  trained, tmp_path, data, name, is_public
):
  training = {**TRAINING, "data": data, "evaluation": f"{data}, test"}
  known = dataclasses.replace(trained, training=training)
  front, _ = parts(model_card.write(known, tmp_path))
  assert front.get("datasets") == ([name] if is_public else None)
  (result,) = front["model-index"][0]["results"]
  assert result["dataset"] == {"name": data, "type": name, "split": "test"}


def test_names_that_are_not_utf8_are_escaped(trained, tmp_path):
  training = {**TRAINING, "evaluation": "folder:caf\udce9, test"}
  names = ("ant", "na\udcefve", "cat")
  odd = dataclasses.replace(trained, training=training, class_names=names)
  text = model_card.write(odd, tmp_path / "card").read_text(encoding="utf-8")
  assert r"Classes: ant, na\udcefve, cat." in text
  manifest = export.write(odd, tmp_path / "programs", settings=SETTINGS[:1])
  assert json.loads(manifest.read_bytes())["labels"] == list(names)


def test_nothing_is_overwritten(trained, folder):
  before = {path: path.read_bytes() for path in folder.iterdir()}
  with pytest.raises(ValueError, match=r"not empty: it holds README\.md"):
    model_card.write(trained, folder)
  with pytest.raises(ValueError, match="not empty"):
    export.write(trained, folder)
  assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_tells_of_its_training_but_not_its_paths(
  trained, tmp_path, monkeypatch
):
  data = {"name": "folder:/home/ann/flowers", "split": "train"}
  config = {
    "model": {
      k: v for k, v in trained.model_section.items() if k != "num_classes"
    },
    "flexi": {"patch_size": {"values": [6, 4]}},
    "task": {"name": "classification"},
    "data": data,
    "evals": {"test": {"data": {**data, "split": "test", "pp": trained.pp}}},
  }
  about = {"num_classes": 3, "class_names": None, "image_shape": [12, 12, 3]}
  report = {
    "settings": list(RECORDED),
    "train": {"steps": 10, "seconds": 2.5},
    "hardware": "1 x cpu",
  }
  for name, content in (
    ("config", config),
    ("about_data", about),
    ("report", report),
  ):
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
  monkeypatch.setattr(checkpoint, "read_params", lambda _: trained.params)
  monkeypatch.setattr(checkpoint, "newest_step", lambda _: 10)
  told = trained_lib.load(tmp_path)
  assert told.training == {
    "data": "folder:flowers",
    "split": "train",
    "evaluation": "folder:flowers, test",
    "steps": 10,
    "seconds": 2.5,
    "hardware": "1 x cpu",
  }
  front, text = parts(model_card.write(told, tmp_path / "hub"))
  assert "datasets" not in front
  assert "on folder:flowers (split train)" in text
  for path in (tmp_path / "hub").iterdir():
    assert b"/home/ann" not in path.read_bytes()
