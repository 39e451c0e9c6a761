"""Exported programs: what they compute, and what stands beside them."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from flax import traverse_util
from jax import export as jax_export

from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.inference import about as about_lib
from tokenlearner_flexivit.inference import export
from tokenlearner_flexivit.inference import trained as trained_lib

SETTINGS = tuple(
  dials.Setting(size, number)
  for size in ((6, 6), (4, 4))
  for number in (2, "all")
)
# Of four patches TokenLearner costs more than it saves: the first is no choice.
RECORDED = tuple(
  {
    "patch_size": setting.patch_size[0],
    "num_tokens": setting.num_tokens,
    "accuracy": accuracy,
    "images_per_s": 1000.0 * setting.patch_size[0],
  }
  for setting, accuracy in zip(SETTINGS, (0.4, 0.5, 0.75, 0.875), strict=True)
)


def build(recorded=RECORDED, loss="softmax_xent", **model):
  section = dict(
    width=16,
    depth=2,
    mlp_dim=16,
    num_heads=2,
    num_classes=3,
    patch_size=[4, 4],
    posemb_grid=[3, 3],
    token_learner=dict(layer=1, num_tokens=3),
  )
  section |= model
  images = jax.ShapeDtypeStruct((1, 12, 12, 3), np.float32)
  shapes = jax.eval_shape(
    models.create(**section).init, jax.random.key(0), images
  )
  # Random parameters: a head of zeros, as at the start, hides all.
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: np.float32(0.3 * rng.normal(size=x.shape)), shapes["params"]
  )
  return trained_lib.Trained(
    params=params,
    model_section=section,
    pp="decode|resize(12)|value_range(-1,1)|keep('image','label')",
    image_shape=(12, 12, 3),
    loss=loss,
    settings=SETTINGS,
    class_names=("ant", "bee", "cat"),
    recorded=recorded,
    training={"data": "insects", "split": "train"},
  )


def images(number):
  rng = np.random.default_rng(number)
  return rng.uniform(-1, 1, (number, 12, 12, 3)).astype("f4")


def expected(trained, settings, *inputs):
  """The logits for all inputs and settings, of one compilation."""
  apply = trained.model.apply

  def logits(params, inputs):
    return [
      [apply({"params": params}, x, **s)[0] for x in inputs] for s in settings
    ]

  return jax.device_get(jax.jit(logits)(trained.params, inputs))


@pytest.fixture(scope="module")
def trained():
  return build()


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
  path = tmp_path_factory.mktemp("export") / "new"
  assert export.write(trained, path) == path / "manifest.json"
  return path


def run_here(script, folder, monkeypatch):
  monkeypatch.chdir(folder)
  for name in ("tokenlearner_flexivit", "flax"):
    monkeypatch.delitem(sys.modules, name)  # Comes back after the test.
  exec(script, {})


def run_elsewhere(script, folder, monkeypatch):
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)


@pytest.mark.parametrize(
  "run",
  [run_here, pytest.param(run_elsewhere, marks=pytest.mark.processes)],
)
def test_the_readme_runs_without_this_package(
  run, trained, folder, tmp_path, monkeypatch
):
  readme = (folder / "README.md").read_text()
  code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
  code, replaced = re.subn(
    r"images = np\.zeros\(.*", "images = np.load('images.npy')", code
  )
  assert replaced == 1
  # None in sys.modules makes an import of that name an error.
  script = f"""
import json, pathlib, sys
sys.modules["tokenlearner_flexivit"] = sys.modules["flax"] = None
{code}
manifest = json.loads(pathlib.Path("manifest.json").read_text())
blobs = [
  bytearray(pathlib.Path(row["file"]).read_bytes())
  for row in manifest["settings"]
]
call = jax.jit(
  lambda *inputs: [export.deserialize(blob).call(*inputs) for blob in blobs]
)
rest = call(weights, images[:1])
np.savez("out.npz", *rest, logits=logits, probabilities=probabilities)
"""
  there = tmp_path / "elsewhere"
  shutil.copytree(folder, there)
  np.save(there / "images.npy", images(3))
  run(script, there, monkeypatch)
  with np.load(there / "out.npz") as file:
    out = dict(file)
  best = export.best_settings(trained)
  wanted = [logits for [logits] in expected(trained, best, images(3))]
  chex.assert_trees_all_close(out["logits"], wanted[-1], atol=1e-5)
  assert np.ptp(out["logits"], axis=0).min() > 1e-2
  for number, logits in enumerate(wanted):
    # Of another number of images, but the images do not see one another.
    chex.assert_trees_all_close(out[f"arr_{number}"], logits[:1], atol=1e-5)
  chex.assert_trees_all_close(
    out["probabilities"], np.asarray(jax.nn.softmax(wanted[-1])), atol=1e-5
  )


def test_the_manifest_says_how_to_use_them(trained, folder):
  about = json.loads((folder / "manifest.json").read_text())
  assert [row["name"] for row in about["settings"]] == [
    "patch6_tokall",
    "patch4_tok2",
    "patch4_tokall",
  ]
  assert [row["accuracy"] for row in about["settings"]] == [0.5, 0.75, 0.875]
  assert [row["seq_len"] for row in about["settings"]] == [4, 9, 9]
  costs = [row["multiply_adds"] for row in about["settings"]]
  assert costs == sorted(set(costs))
  assert about["labels"] == ["ant", "bee", "cat"]
  assert about["input"]["preprocessing"] == trained.pp
  assert about["input"]["shape"] == ["batch", 12, 12, 3]
  *_, last = about["input"]["preprocessing_steps"]
  assert last["op"] == "value_range(-1, 1)"
  assert last["arguments"] == dict(vmin=-1, vmax=1, in_min=0, in_max=255)
  assert about["output"]["probabilities"] == "softmax"
  assert about["versions"]["jax"] == jax.__version__
  named = {about["weights"], *(row["file"] for row in about["settings"])}
  there = {path.name for path in folder.iterdir()}
  assert there == named | {"manifest.json", "README.md"}


def test_an_op_is_told_by_its_own_words(trained):
  """Also where another stands in for it, which spares work."""
  cut = dataclasses.replace(trained, pp="decode|central_crop(12)")
  decode, crop = about_lib.about_input_and_output(cut)["input"][
    "preprocessing_steps"
  ]
  assert decode["does"].startswith("Decodes ")
  assert crop["arguments"] == {"size": 12}


def test_the_weights_are_there_once_and_can_be_loaded(trained, folder):
  again = trained_lib.load(folder)
  chex.assert_trees_all_equal(again.params, trained.params)
  assert again.settings == trained.settings
  size = sum(x.nbytes for x in jax.tree.leaves(trained.params))
  weights = folder / trained_lib.MODEL_FILE
  assert size < weights.stat().st_size < size + 8_000
  # A second export of what was exported is the same.
  assert export.best_settings(again) == export.best_settings(trained)


def test_all_settings_are_the_choice_where_no_accuracy_is_recorded(trained):
  for recorded in ((), ({"patch_size": 6, "num_tokens": 2, "kl": 1.0},)):
    unknown = dataclasses.replace(trained, recorded=recorded)
    assert export.best_settings(unknown) == SETTINGS


def test_an_own_choice_of_settings(tmp_path):
  trained = build(recorded=(), loss="sigmoid_xent")
  setting = dials.Setting((3, 6), 1)
  with pytest.warns(UserWarning, match="neither trained .* patch3x6_tok1,"):
    export.write(trained, tmp_path / "a" / "b", [setting, setting])
  about = json.loads((tmp_path / "a" / "b" / "manifest.json").read_text())
  [row] = about["settings"]
  assert (row["file"], row["trained"]) == ("patch3x6_tok1.jax", False)
  assert row["accuracy"] is None
  assert about["output"]["probabilities"] == "sigmoid"
  readme = (tmp_path / "a" / "b" / "README.md").read_text()
  assert "jax.nn.sigmoid(logits)" in readme
  assert "not recorded" in readme


@pytest.mark.parametrize(
  "settings, words",
  [
    ([dials.Setting((5, 5), 2)], "5x5 does not divide the image size 12x12"),
    ([*SETTINGS, dials.Setting((4, 4), 4)], "num_tokens=4 is out of range"),
    ([], "at least one"),
  ],
)
def test_settings_that_do_not_fit_leave_nothing(
  trained, tmp_path, settings, words
):
  with pytest.raises(ValueError, match=words):
    export.write(trained, tmp_path / "new", settings)
  assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(trained, tmp_path):
  kept = tmp_path / "mine.txt"
  kept.write_text("mine")
  with pytest.raises(ValueError, match=r"not empty: it holds mine\.txt\."):
    export.write(trained, tmp_path)
  with pytest.raises(ValueError, match="is a file"):
    export.write(trained, kept)
  assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
  assert pathlib.Path(kept).read_text() == "mine"


def test_a_failure_leaves_nothing_that_stops_the_next_try(
  trained, tmp_path, monkeypatch
):
  """Whether the folder was there before or not, or a process was killed."""
  there = tmp_path / "there"
  there.mkdir()
  with monkeypatch.context() as patch:
    patch.setattr(export.export_readme, "readme", lambda *_: 1 / 0)
    for folder in (there, tmp_path / "new"):
      with pytest.raises(ZeroDivisionError):
        export.write(trained, folder, SETTINGS[:1])
  assert not list(there.iterdir()) and not (tmp_path / "new").exists()
  (there / export._PARTIAL).mkdir()
  (there / export._PARTIAL / "half.jax").touch()
  export.write(trained, there, SETTINGS[:1])
  assert sorted(path.name for path in there.iterdir()) == [
    "README.md",
    "manifest.json",
    "model.safetensors",
    "patch6_tok2.jax",
  ]


def test_a_home_folder(trained, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  manifest = export.write(trained, "~/out", SETTINGS[:1])
  assert manifest == tmp_path / "out" / "manifest.json"
  assert manifest.exists()
  with pytest.raises(ValueError, match="output=hf://a/b is no path"):
    export.write(trained, "hf://a/b", SETTINGS[:1])


def test_another_metric_is_named(tmp_path):
  rows = tuple(
    {("mAP" if key == "accuracy" else key): row[key] for key in row}
    for row in RECORDED
  )
  trained = dataclasses.replace(
    build(rows, loss="sigmoid_xent"), headline="mAP", settings=SETTINGS[:1]
  )
  # Not trained, but evaluated: no warning.
  export.write(trained, tmp_path, SETTINGS[1:2])
  about = json.loads((tmp_path / "manifest.json").read_text())
  assert about["metric"] == "mAP"
  assert about["model"] == trained.model_section
  [row] = about["settings"]
  assert (row["mAP"], row["accuracy"]) == (0.5, None)
  assert (row["trained"], row["evaluated"]) == (False, True)
  readme = (tmp_path / "README.md").read_text(encoding="utf-8")
  assert "mAP %" in readme and "accuracy" not in readme
  assert export.best_settings(trained) == SETTINGS[1:]


@pytest.mark.slow
@pytest.mark.parametrize(
  "model",
  [
    dict(pool="map"),
    dict(pool="tok"),
    dict(token_learner=dict(layer=0, num_tokens=3, fuser=True)),
    dict(
      token_learner=dict(layer=1, num_tokens=3, version="1.0", pooling="mean")
    ),
    dict(posemb="sincos2d"),
    dict(rep_size=True),
    dict(depth=4, scan=True),
    dict(dtype="bfloat16"),
  ],
)
def test_models_of_all_kinds_are_exported(tmp_path, model):
  trained = build(**model)
  weights = traverse_util.flatten_dict(trained.params, sep="/")
  chosen = SETTINGS[1:3]
  export.write(trained, tmp_path, chosen)
  wanted = expected(trained, chosen, images(5))
  for setting, [logits] in zip(chosen, wanted, strict=True):
    blob = (tmp_path / f"{setting.name}.jax").read_bytes()
    program = jax_export.deserialize(blob)
    assert program.platforms == export.PLATFORMS
    found = np.asarray(program.call(weights, images(5)))
    chex.assert_trees_all_close(found, logits, atol=1e-5)
