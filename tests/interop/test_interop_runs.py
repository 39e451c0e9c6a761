"""Runs, exports and files of this library tell all of their models."""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from configs import flexify, transfer
from tests import conftest, tiny
from tokenlearner_flexivit import interop, models, tasks
from tokenlearner_flexivit.data import statistics
from tokenlearner_flexivit.inference import runs, trained
from tokenlearner_flexivit.interop import __main__ as cli
from tokenlearner_flexivit.interop import about, containers
from tokenlearner_flexivit.run import checkpoint, workdir
from tokenlearner_flexivit.tasks import teachers as teachers_lib
from tokenlearner_flexivit.train import setup

ROOT = pathlib.Path(__file__).parents[2]
# Arguments of configs, so that they need no data.
ARGS = {
  "detection_folder": "path=/data/dogs",
  "owl_vit": "init=none",
  "panoptic_scenes": "runlocal",
  "uvim": "coder=none,init=none",
  "captions": "path=/data/pairs.csv",
  "flexify": "runlocal",
  "folder": "path=/data/flowers",
  "lit": "runlocal",
  "segmentation_folder": "path=/data/fields",
  "segmenter": "data=cityscapes,path=/data/cityscapes,init=none",
  "transfer": "runlocal",
  "video_folder": "path=/data/clips",
  "vivit": "path=/data/k400",
  "vivit_bottleneck": "path=/data/charades",
}
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))


def write_run(folder, section, num_classes=7, task=None):
  """Writes what describes a run, with a checkpoint of holes of the right size.

  Returns the model, and the size of the checkpoint in bytes.
  """
  folder.mkdir(exist_ok=True)
  task = task or {"name": "classification"}
  config = json.dumps({"model": section, "task": task})
  (folder / workdir.CONFIG_FILE).write_text(config)
  if num_classes is not None:
    section = {**section, "num_classes": num_classes}
  model = tasks.named(task).build_model(section)
  example = jnp.zeros((1, *models.input_shape(model)))
  params = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
  header, end = {}, 0
  for name, spec in traverse_util.flatten_dict(params, sep="/").items():
    start, end = end, end + 4 * spec.size
    header[f"params/{name}"] = {
      "dtype": "F32",
      "shape": spec.shape,
      "data_offsets": [start, end],
    }
  head = json.dumps(header).encode()
  state = folder / checkpoint.CHECKPOINTS / "3" / "state"
  state.mkdir(parents=True)
  with (state / "state.safetensors").open("wb") as file:
    file.write(len(head).to_bytes(8, "little") + head)
    file.truncate(8 + len(head) + end)
  return model


def shallow(section):
  """Returns a model's section with two blocks, which tell as much as many."""
  if section.get("name") == "vivit_bottleneck":  # Its blocks differ.
    return section
  if "encoder_depth" in section:
    return section | {"encoder_depth": 1, "decoder_depth": 1}
  if section.get("token_learner"):
    section["token_learner"]["layer"] = 1
  if section.get("temporal_depth"):
    section["temporal_depth"] = 1
  return section | {"depth": 2}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_of_each_config_is_described(name, tmp_path):
  module = importlib.import_module(f"configs.{name}")
  config = module.get_config(ARGS.get(name, "")).to_dict()
  section, task = shallow(config["model"]), config.get("task")
  section.pop("num_classes", None)
  headless = ("detection", "panoptic", "panoptic_code")
  number = None if task and task["name"] in headless else 7
  model = write_run(tmp_path / "run", section, number, task)
  # Its arrays are holes: to tell the shapes none of them is read.
  described = interop.describe(tmp_path / "run")
  assert described.format == "native" and not described.guesses
  assert models.MODELS[described.model["name"]] is type(model)
  for key in ("width", "depth", "patch_size", "posemb_grid", "posemb", "pool"):
    assert described.model.get(key) == getattr(model, key, None)
  built = models.create(**described.model)
  assert type(built) is type(model)
  assert about.arguments(built) == about.arguments(model)
  assert str(described).startswith("source")


def test_variants_of_runs(tmp_path):
  for variant, name, expected in (
    ("mu", "vit", "mu/32"),
    ("mu/16", "vit", "mu/16"),
    ("mu/16x2", "vivit", "mu/16x2"),
  ):
    folder = tmp_path / variant.replace("/", "-")
    write_run(folder, dict(name=name, variant=variant))
    assert interop.describe(folder).variant == expected


@pytest.fixture
def run(tmp_path, make_params):
  """Returns a function that writes a run with real arrays."""

  def write(section, shape=(12, 12), num_classes=5):
    model = models.create(**section, num_classes=num_classes)
    params = make_params(model, shape=shape)
    folder = tmp_path / "run"
    checkpoints = checkpoint.Checkpoints(folder, keep=1, config={})
    checkpoints.save(
      3, {"params": jax.tree.map(jnp.asarray, params), "ema": None}
    )
    checkpoints.close()
    (folder / workdir.CONFIG_FILE).write_text(json.dumps({"model": section}))
    return folder, model, params

  return write


TINY = dict(width=8, depth=1, mlp_dim=8, num_heads=1, patch_size=[8, 8])


@pytest.mark.parametrize("grid", [(4, 4), (8, 8)])
def test_the_grid_of_a_run_is_known(grid, run):
  folder, _, params = run(TINY | dict(posemb_grid=[2, 8]), shape=(16, 64))
  model = models.ViT(num_classes=5, **TINY | dict(posemb_grid=grid))
  loaded, report = interop.load_params_and_report(folder, model)
  right, _ = interop.load_params_and_report(folder, model, posemb_grid=(2, 8))
  np.testing.assert_array_equal(loaded["pos_embedding"], right["pos_embedding"])
  assert "2x8 -> " in str(report)
  # A file with its model knows it, one without takes the model's.
  wide = models.ViT(num_classes=5, **TINY | dict(posemb_grid=(2, 8)))
  for name, noted in (
    ("a.npz", wide),
    ("b.safetensors", wide),
    ("c.npz", None),
  ):
    interop.save_params(params, folder / name, model=noted)
    again, report = interop.load_params_and_report(folder / name, model)
    same = np.array_equal(again["pos_embedding"], right["pos_embedding"])
    assert same == (noted is not None)
    assert bool(report.warnings) == (noted is None)  # As `describe` warns.
  assert "taken as a grid (4, 4), but nothing tells" in report.warnings[0]
  described = interop.describe(folder / "c.npz")
  assert any(g.startswith("posemb_grid=(4, 4)") for g in described.guesses)
  _, report = interop.load_params_and_report(folder / "c.npz", wide)
  assert "(4, 4) is as possible" in str(report)
  with pytest.raises(ValueError, match=r"posemb_grid=\(2, 8\), not \(4, 4\)"):
    interop.describe(folder, posemb_grid=(4, 4))


def test_a_run_of_a_standard_size_is_a_source(
  run, tmp_path, assert_same, capsys
):
  folder, model, params = run(dict(variant="mu"), shape=(224, 224))
  assert model.patch_size == (32, 32)
  config = transfer.get_config(
    f"init={folder},data=fake:64x64x3:2:16,size=64,patch_size=32,runlocal"
  )
  tuned = models.create(**config.model.to_dict(), num_classes=5)
  assert tuned == model
  assert runs.open_weights(str(folder)).model.clone(name=None) == model
  for suffix, format in (("npz", "big_vision"), ("safetensors", "native")):
    path = tmp_path / f"a.{suffix}"
    cli.main(["convert", str(folder), str(path), f"--format={format}"])
    loaded, report = interop.load_params_and_report(path, model)
    assert_same(loaded, params)
    assert not report.warnings
  video = tmp_path / "video"
  write_run(video, dict(name="vivit", variant="mu/4x2"))
  with pytest.raises(ValueError, match="is a model for videos"):
    transfer.get_config(f"init={video},runlocal")
  with pytest.raises(ValueError, match=r"analysis\.video_maps"):
    runs.open_weights(str(video))


def test_an_analysis_says_each_guess_once(tmp_path, capsys, caplog):
  config = dict(width=16, depth=1, mlp_dim=8, num_heads=1, pool="tok")
  model = models.ViT(num_classes=3, posemb_grid=(15, 15), **config)
  params = tiny.init(model, np.zeros((1, 480, 480, 3)))
  path = tmp_path / "weights.npz"
  np.savez(path, **traverse_util.flatten_dict({"params": params}, sep="/"))
  with caplog.at_level("WARNING"):
    assert runs.open_weights(str(path)).model.posemb_grid == (15, 15)
  words = r"(14, 16) or (16, 14) and one for the cls token are as possible"
  assert capsys.readouterr().out.count(words) == 1
  assert caplog.text.count(words) == 1


def test_other_places_and_sines_are_said(run):
  learner = dict(layer=0, num_tokens=2, bottleneck_dim=4)
  section = TINY | dict(
    depth=2, posemb="sincos2d", posemb_grid=[2, 3], token_learner=learner
  )
  folder, model, _ = run(section, shape=(16, 24))
  _, report = interop.load_params_and_report(folder, model)
  assert not report.warnings
  other = model.clone(posemb_grid=(7, 7), token_learner=dict(learner, layer=1))
  _, report = interop.load_params_and_report(folder, other)
  assert "WARNING: posemb_grid=(7, 7) of the model is (2, 3)" in str(report)
  assert "WARNING: token_learner={'layer': 1" in str(report)


def test_an_export_is_described_loaded_and_a_teacher(
  tmp_path, make_model, make_params, assert_same, capsys
):
  learner = dict(layer=1, num_tokens=3, bottleneck_dim=8)
  model = make_model(token_learner=learner, posemb_grid=(2, 5))
  params = make_params(model)
  section = dict(
    width=16,
    depth=2,
    mlp_dim=24,
    num_heads=2,
    patch_size=(4, 4),
    posemb_grid=(2, 5),
    token_learner=learner,
    num_classes=5,
  )
  export = tmp_path / "export"
  export.mkdir()
  trained.Trained(
    params,
    section,
    "decode",
    (8, 20, 3),
    "sigmoid_xent",
    (),
    None,
    (),
  ).save(export / trained.MODEL_FILE)
  for source in (export, export / trained.MODEL_FILE):
    described = interop.describe(source)
    assert described.format == "native" and not described.guesses
    assert models.create(**described.model) == model
    loaded, report = interop.load_params_and_report(source, model)
    assert_same(loaded, params)
    assert report.sha256
  teacher = teachers_lib.Teacher.create(
    5, "config.task.teachers.t", str(export)
  )
  assert_same(teacher.load(), params)
  # Analyses read its logits as the run did.
  task = {"name": "classification", "loss": "sigmoid_xent"}
  assert runs.open_weights(str(export)).config["task"] == task


def test_a_run_for_videos_is_a_teacher(tmp_path):
  write_run(tmp_path / "run", dict(name="vivit", variant="mu/4x2"), 5)
  teacher = teachers_lib.Teacher.create(
    5, "config.task.teachers.t", str(tmp_path / "run")
  )
  assert isinstance(teacher.model, models.ViViT) and teacher.image == "video"


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280])
def test_the_length_of_a_header_is_no_pickle(length, tmp_path):
  header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
  text = json.dumps(header).encode().ljust(length)
  path = tmp_path / "a.safetensors"
  path.write_bytes(length.to_bytes(8, "little") + text + bytes(4))
  with containers.open_file(path) as opened:
    assert opened.kind == "safetensors" and list(opened.leaves) == ["a"]


def test_a_file_is_read_once_for_its_checksum(
  tmp_path, make_model, make_params, monkeypatch
):
  model = make_model()
  path = tmp_path / "a.npz"
  interop.save_params(make_params(model), path)
  counted = []
  digest = importlib.import_module("hashlib").file_digest
  monkeypatch.setattr(
    "hashlib.file_digest", lambda *a: counted.append(1) or digest(*a)
  )
  described = interop.describe(path)
  assert not counted
  _, first = interop.load_params_and_report(path, model)
  _, second = interop.load_params_and_report(path, model)
  assert first.sha256 == second.sha256 == described.sha256
  assert len(counted) == 1
  interop.save_params(make_params(model, seed=1), path)
  _, third = interop.load_params_and_report(path, model)
  assert third.sha256 != first.sha256


def test_images_are_given_as_a_run_has_seen_them(untrained_run, tmp_path):
  """A run that standardizes its images has other values than [-1, 1]."""
  folder = tmp_path / "run"
  folder.mkdir()
  for name in ("about_data.json", "checkpoints"):
    (folder / name).symlink_to(untrained_run / name)
  config = json.loads((untrained_run / "config.json").read_text())
  section = f"init={folder},data=fake:60x60x3:4:16,size=60,patch_size=30"
  for values, mean, std in (
    ("value_range(-1,1)", None, None),
    ("value_range(0,1)|standardize(0.3,0.2)", (0.3,), (0.2,)),
    ("value_range(1,-1)", (0.5,), (-0.5,)),
  ):
    config["data"]["pp"] = f"decode|{values}|keep('image','label')"
    (folder / "config.json").write_text(json.dumps(config))
    described = interop.describe(folder)
    model = models.create(**described.model)
    (m,), (s,) = mean or (0.5,), std or (0.5,)
    assert f"minus {m}, divided by {s}" in str(described)
    params, report = interop.load_params_and_report(folder, model)
    assert (f"minus [{m}], divided by [{s}]" in str(report)) == bool(mean)
    teacher = teachers_lib.Teacher.create(
      described.model["num_classes"], "config.task.teachers.t", str(folder)
    )
    assert teacher.input_mean is None  # It sees what the run saw.
    path = tmp_path / "a.safetensors"
    cli.main(["convert", str(folder), str(path), "--format=native"])
    both = params, interop.load_params(path, model)
    same = np.array_equal(*(each["embedding"]["kernel"] for each in both))
    assert same == (mean is None)  # What is written takes [-1, 1].
    assert interop.describe(path).input_mean == (0.5,)
    chosen = transfer.get_config(f"{section},runlocal")
    assert (chosen.get("init_mean"), chosen.get("init_std")) == (mean, std)
    flexible = flexify.get_config(f"init={folder},size=60,runlocal")
    itself = flexible.task.teachers.itself
    known = itself.get("input_mean"), itself.get("input_std")
    assert known == (flexible.get("init_mean"), flexible.get("init_std"))
    assert known == (mean, std)
    pp = runs.open_weights(str(folder)).data["pp"]
    mean_and_std = statistics.mean_and_std(pp, "image")
    np.testing.assert_allclose(mean_and_std[0], mean or [0.5], atol=1e-5)
    np.testing.assert_allclose(mean_and_std[1], std or [0.5], atol=1e-5)


def test_a_run_is_converted_for_the_images_that_it_has_seen(tmp_path):
  """Kernel and positions of FlexiViT are stored for another size."""
  config = conftest.make_config()
  config.model.patch_size, config.model.posemb_grid = (8, 8), (3, 3)
  run = conftest.write_untrained(setup.Experiment(config), tmp_path / "run")
  assert interop.describe(run).images.size == (12, 12)
  new = tmp_path / "a.safetensors"
  turn = ["convert", str(run), str(new), "--format=native"]
  cli.main([*turn, "--patch_size=3"])
  model = interop.describe(new).model
  assert model["patch_size"] == (3, 3) and model["posemb_grid"] == (4, 4)
  with pytest.raises(SystemExit, match=r"must divide .*, 12 x 12 px"):
    cli.main([*turn, "--patch_size=8"])


@pytest.mark.parametrize("format", ["native", "timm"])
def test_weights_that_are_saved_claim_no_images_that_nobody_named(
  format, make_model, make_params, tmp_path, capsys
):
  model, path = make_model(pool="tok"), tmp_path / "a.safetensors"
  params = make_params(model)
  interop.save_params(params, path, format, model=model)
  described = interop.describe(path)
  assert described.input_mean is None
  assert "images      of unknown mean and std" in str(described)
  interop.save_params(
    params, path, format, model=model, input_mean=[0.3], input_std=0.2
  )
  described = interop.describe(path)
  assert (described.input_mean, described.input_std) == ((0.3,), (0.2,))
  _, report = interop.load_params_and_report(path, model)
  assert "minus [0.3], divided by [0.2]" in str(report)
  teacher = teachers_lib.Teacher.create(5, "config.teachers.t", str(path))
  assert (teacher.input_mean, teacher.input_std) == ((0.3,), (0.2,))
  for values, told in (
    ("value_range(-1,1)", True),
    ("value_range(0,1)|standardize(0.3,0.2)", False),
  ):
    pp = f"decode|{values}|keep('image','label')"
    interop.warn_of_other_values("config.init", str(path), pp, "image", "pp")
    said = "minus [0.3], divided by [0.2]" in capsys.readouterr().out
    assert said == told
    teacher.warn_of_other_values(pp, "pp")  # It absorbs them.
    said = "expects images in [-1, 1]" in capsys.readouterr().out
    assert said != told
  with pytest.raises(ValueError, match="give both"):
    interop.save_params(params, path, format, model=model, input_mean=0.3)


def test_weights_that_absorb_their_statistics_see_images_in_minus_one_to_one(
  capsys,
):
  pp = "decode|value_range(0,1)|standardize(0.3,0.2)"
  where = "config.init", "hf://a/b", pp, "image", "config.data.pp"
  for mean, told in (([0.3], True), ([0.5], False), (None, False)):
    std = mean and [0.2 if told else 0.5]
    interop.warn_of_other_values(*where, mean, std)
    said = capsys.readouterr().out
    assert ("[0.3], divided by [0.2]. Give value_range(-1,1)" in said) == told


def test_an_export_tells_its_preprocessing(tmp_path):
  array = {"x": np.zeros(1, np.float32)}
  for name, metadata, expected in (
    ("export", {about.EXPORT_KEY: json.dumps({"pp": "decode"})}, "decode"),
    ("weights", None, None),
  ):
    path = tmp_path / f"{name}.safetensors"
    safetensors.numpy.save_file(array, path, metadata=metadata)
    assert interop.preprocessing(path) == expected


def test_a_run_is_itself_whatever_is_saved_beside_it(run):
  folder, _, _ = run(TINY | dict(posemb_grid=[2, 8]), shape=(16, 64))
  (folder / "model.safetensors").write_bytes(b"the conversion of an older step")
  assert interop.fetch(folder) == folder
