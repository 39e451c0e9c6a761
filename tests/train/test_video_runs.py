"""A run on videos from end to end: training, views, report, pictures, init."""

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import tracemalloc

import cv2
import jax
import ml_collections
import numpy as np
import pytest
from flax import traverse_util
from jax import export as jax_export
from PIL import Image

from configs import video_folder
from experiments import study
from tests.data.sources.video_folder.test_video_file import (
  write_video,
)
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, interop, models, parallel, train
from tokenlearner_flexivit.analysis import video_maps
from tokenlearner_flexivit.data.sources import fake
from tokenlearner_flexivit.data.sources.video_folder import decode as video_file
from tokenlearner_flexivit.inference import (
  Predictor,
  export,
  model_card,
  profile,
  runs,
  videos,
)
from tokenlearner_flexivit.inference import about as about_lib
from tokenlearner_flexivit.models import cost
from tokenlearner_flexivit.train import optimizer, setup

LAST = "value_range(-1,1,key='video')|keep('video','label')"


def make_config() -> ml_collections.ConfigDict:
  """Two steps on noise: clips of 4 frames of 12 px, two views of each."""
  c = ml_collections.ConfigDict()
  c.batch_size = 8
  c.total_steps = 2
  c.data = dict(
    name="fake:6x12x12x3:5:16",
    split="train",
    pp=f"decode_video|temporal_crop(4)|{LAST}",
    num_threads=1,
  )
  c.model = dict(
    name="vivit",
    variant="mu",
    depth=1,
    patch_size=(2, 4, 4),
    posemb_grid=(2, 3, 3),
    token_learner=dict(layer=0, num_tokens=2),
  )
  c.optimizer = dict(name="adamw", lr=1e-3, schedule=dict(warmup_steps=1))
  data = dict(
    name="fake:6x12x12x3:5:9",
    split="test",
    pp=f"decode_video|temporal_views(4,1,2)|resize(12,key='video')|{LAST}",
    num_threads=1,
  )
  c.evals = dict(test=dict(data=data))
  return c


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """The workdir of a finished run."""
  workdir = tmp_path_factory.mktemp("run")
  train.train_and_evaluate(make_config(), workdir)
  return workdir


def test_the_report_is_complete(workdir):
  report = json.loads((workdir / "report.json").read_text())
  (row,) = report["settings"]
  assert row["patch_size"] == 4
  assert row["seq_len"] == 2 * 9  # Of a view.
  model = models.create(**make_config().model.to_dict(), num_classes=5)
  assert row["gmacs"] == cost.macs(model, (4, 12, 12, 3)) / 1e9
  assert 0 <= row["accuracy"] <= 1
  assert row["images_per_s"] > 0
  text = (workdir / "report.md").read_text()
  for part in ("(9 videos)", "videos/s", "multiply-adds per view", ".gif)"):
    assert part in text
  about = json.loads((workdir / "about_data.json").read_text())
  assert about["image_shape"] == [4, 12, 12, 3]


def test_predictions_of_videos_are_those_of_the_evaluation(workdir, tmp_path):
  predictor = Predictor.load(workdir, max_batch=2)
  data = make_config().evals.test.data.to_dict()
  source = data_lib.open_source(data)
  clips = [source[i]["video"] for i in range(3)]
  experiment = setup.Experiment(make_config())
  batch = next(iter(data_lib.eval_batches(data, batch_size=8)))
  setting = predictor.setting()
  expected = experiment.task.predict(
    predictor.trained.params, {"video": batch["video"]}, setting
  )
  prepared, errors = predictor.preprocess(clips)
  assert not errors and prepared.shape == (3, 2, 4, 12, 12, 3)
  found = predictor.forward(prepared, setting)
  np.testing.assert_allclose(found.logits, expected[:3], atol=1e-5)
  assert found.pre_logits.shape == (3, experiment.task.model.width)
  (row,) = predictor.profile(repeats=1)
  table = profile.markdown([{**row, "images_per_s": 0.25}], kind="video")
  assert "GMACs/view" in table and "videos/s" in table and "0.25" in table
  assert row["accuracy"] == predictor.trained.recorded[0]["accuracy"]

  # A file, one that is none, and the file of the model in place of its run.
  write_video(tmp_path / "clip.mp4", 8)
  (tmp_path / "bad.mp4").write_bytes(b"nothing")
  given = [tmp_path / "clip.mp4", tmp_path / "bad.mp4", b"bytes"]
  good, bad, unknown = predictor.predict(given)
  assert sum(label.probability for label in good.labels) == pytest.approx(1)
  assert bad.error and "bytes is no video" in unknown.error
  (same, _) = predictor.predict(np.array([str(path) for path in given[:2]]))
  assert same.labels == good.labels
  predictor.trained.save(tmp_path / "model.safetensors")
  again = Predictor.load(tmp_path)
  assert again.predict(given[0])[0].labels[0].index == good.labels[0].index


def test_an_export_answers_as_the_evaluation_does(workdir, tmp_path):
  """Its programs, the card, and either folder in place of the run."""
  predictor = Predictor.load(workdir)
  clips = np.random.default_rng(0).integers(0, 256, (3, 7, 12, 12, 3), np.uint8)
  prepared, _ = predictor.preprocess(clips)
  [setting] = export.best_settings(predictor.trained)
  wanted = predictor.forward(prepared, setting).logits
  assert np.ptp(prepared, axis=1).any()  # The views differ.

  about = json.loads(
    export.write(predictor.trained, tmp_path / "out").read_text()
  )
  assert about["input"]["shape"] == ["batch", 2, 4, 12, 12, 3]
  assert about["input"]["axes"][:3] == ["batch", "views", "frames"]
  assert (about["input"]["fps"], about["input"]["size"]) == (25, 256)
  ops = {x["op"]: x["does"] for x in about["input"]["preprocessing_steps"]}
  assert ops["decode_video"] == "Decodes a video."
  assert len(ops) == 4
  [row] = about["settings"]
  assert row["seq_len"] == 2 * 9
  assert row["accuracy"] == predictor.trained.recorded[0]["accuracy"]
  text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
  assert "[batch, views, frames, height, width, channels]" in text
  assert "25 times a second" in text and "image" not in text
  code = text.split("```python\n")[1].split("```")[0]
  code = code.replace("np.zeros((1, 2, 4, 12, 12, 3), np.float32)", "prepared")
  names = {"prepared": prepared}
  with contextlib.chdir(tmp_path / "out"):
    exec(code, names)
  np.testing.assert_allclose(names["logits"], wanted, atol=1e-5)

  card = model_card.write(predictor.trained, tmp_path / "hub")
  text = card.read_text(encoding="utf-8")
  assert "# A video classifier" in text and "video-classification" in text
  assert "9 videos" in text and "image" not in text
  assert (tmp_path / "hub" / "plane.png").exists()
  for folder in ("out", "hub"):
    again = Predictor.load(tmp_path / folder)
    same, _ = again.preprocess(clips)
    np.testing.assert_array_equal(same, prepared)
    np.testing.assert_allclose(
      again.forward(same, setting).logits, wanted, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:.* has no report")
def test_clips_of_an_evaluation_are_known_before_it_ends(workdir, tmp_path):
  """They may be longer and larger than those of the training."""
  shutil.copytree(workdir, tmp_path / "run")
  (tmp_path / "run" / "report.json").unlink()
  config = tmp_path / "run" / "config.json"
  text = config.read_text()
  larger = text.replace("temporal_views(4,1,2)|resize(12", "{}|resize(24")
  assert larger != text
  config.write_text(larger.replace("{}", "temporal_views(6,1,2)"))
  predictor = Predictor.load(tmp_path / "run")
  assert predictor.trained.image_shape == (6, 24, 24, 3)
  model, setting = predictor.trained.model, predictor.setting()
  about = about_lib.about_setting(predictor.trained, setting)
  assert about["multiply_adds"] == cost.macs(model, (6, 24, 24, 3), **setting)
  [answer] = predictor.predict(np.zeros((9, 50, 50, 3), np.uint8))
  assert answer.error is None


@pytest.mark.slow
@pytest.mark.parametrize(
  "model",
  [
    dict(name="vivit_factorised", temporal_depth=1),
    dict(
      name="vivit_bottleneck",
      stages=((24, 1),),
      width=24,
      depth=1,
      mlp_dim=8,
      num_heads=3,
      patch_size=None,
    ),
  ],
)
def test_models_of_all_kinds_are_exported(model, workdir, tmp_path):
  """Of a preprocessing without views, too."""
  trained = Predictor.load(workdir).trained
  section = {**trained.model_section, **model}
  if "stages" in model:
    del section["variant"]
  clips = np.random.default_rng(0).normal(size=(2, 4, 12, 12, 3)).astype("f4")
  created = models.create(**section)
  params = jax.jit(created.init)(jax.random.key(0), clips)["params"]
  setting = dials.Setting((4, 4), None)
  other = dataclasses.replace(
    trained,
    params=jax.tree.map(lambda x: np.asarray(x) + 0.1, params),
    model_section=section,
    pp=f"decode_video|temporal_central_crop(4)|{LAST}",
    recorded=(),
    settings=(setting,),
  )
  manifest = export.write(other, tmp_path / "out", [setting])
  assert json.loads(manifest.read_text())["input"]["shape"][1] == 4
  blob = (tmp_path / "out" / "patch4.jax").read_bytes()
  weights = traverse_util.flatten_dict(other.params, sep="/")
  answer, _ = created.apply({"params": other.params}, clips)
  program = jax_export.deserialize(blob)
  np.testing.assert_allclose(program.call(weights, clips), answer, atol=1e-4)


def test_what_is_for_images_says_so(workdir):
  with pytest.raises(ValueError, match=r"for videos.*video_maps"):
    runs.open_run(workdir, "image")


def test_maps_of_a_run_move_in_time(workdir, tmp_path, capsys):
  scale, gap = 9, 4  # 108 pixels a cell, the nearest to 112.
  line = 17  # Of words, above and below.
  sides = [n * (12 * scale + gap) - gap for n in (1 + 2, 3)]
  sides[1] += gap + 2 * line
  with Image.open(workdir / "token_maps.gif") as moving:
    assert (moving.n_frames, [*moving.size]) == (4, sides)
  assert cv2.imread(str(workdir / "token_maps.png")).shape[0] > 100

  mine, output = tmp_path / "mine.mp4", tmp_path / "maps.png"
  write_video(mine, 3)  # Shorter than a clip, which begins anew then.
  arguments = ["--workdir", str(workdir), "--output", str(output)]
  video_maps.main([*arguments, "--videos", str(mine), "--num_tokens=1"])
  assert "Maps of 1 video:" in capsys.readouterr().out
  with Image.open(output.with_suffix(".gif")) as moving:
    assert moving.size == (220, 108 + gap + 2 * line)
  mine.write_bytes(b"no video")
  with pytest.raises(SystemExit, match=r"mine\.mp4: "):
    video_maps.main([*arguments, "--videos", str(mine)])


def test_an_evaluation_reads_each_video_once(monkeypatch):
  """However many settings and views there are."""
  config = make_config()
  config.model.depth = 1
  config.evals.test.patch_sizes = (6, 4)
  config.evals.test.data.num_threads = 0
  experiment = setup.Experiment(config)
  params = experiment.task.init(jax.random.key(0), experiment.image_shape)
  read, get = [], fake.FakeSource.__getitem__
  monkeypatch.setattr(
    fake.FakeSource,
    "__getitem__",
    lambda self, index: read.append(index) or get(self, index),
  )
  found = dict(
    experiment.evaluators["test"].run(parallel.create().place(params))
  )
  assert {"patch6/accuracy", "patch4/accuracy"} <= found.keys()
  assert sorted(read) == [*range(9)]


@pytest.mark.filterwarnings("ignore:.* has no video of")
@pytest.mark.parametrize("count", [12, 36])
def test_a_few_videos_are_enough(count, tmp_path, capsys):
  """The config for own videos as it stands: all that precedes the training."""
  for i in range(count):
    write_video(tmp_path / "clips" / "abc"[i % 3] / f"{i}.mp4", 20)
  config = video_folder.get_config(f"path={tmp_path / 'clips'}")
  config.data.data_dir = config.evals.test.data.data_dir = str(tmp_path)
  experiment = setup.Experiment(config)
  num_examples = len(experiment.source)
  assert num_examples == count - round(0.1 * count)
  steps = experiment.steps("total")
  rate = optimizer.create_schedule(
    experiment.config["optimizer"]["schedule"],
    steps,
    batch_size=experiment.config["batch_size"],
    num_examples=num_examples,
  )
  # A tenth is for the warmup.
  assert max(range(steps), key=rate) == steps // 10
  said = capsys.readouterr().out
  assert f"Storing the frames of {count} videos once, in " in said


@pytest.mark.slow
def test_own_videos_from_end_to_end(tmp_path):
  """The README's commands: training, --mode=eval, and maps over a video."""
  clips, workdir = tmp_path / "clips", tmp_path / "mine"
  for name in ("train/jump/1.mp4", "train/sit/2.mp4", "val/jump/3.mp4"):
    write_video(clips / name, 6, side=(32, 48))

  def run(module, *arguments):
    command = [sys.executable, "-m", f"tokenlearner_flexivit.{module}"]
    subprocess.run([*command, *arguments], cwd=study.ROOT, check=True)

  config = f"configs/video_folder.py:path={clips}?fps=12.5,runlocal"
  run("main", f"--workdir={workdir}", f"--config={config}")
  report = json.loads((workdir / "report.json").read_text())
  assert [row["patch_size"] for row in report["settings"]] == [28, 16]
  assert "(1 videos)" in (workdir / "report.md").read_text()
  (workdir / "report.json").unlink()
  run("main", f"--workdir={workdir}", "--mode=eval")
  again = json.loads((workdir / "report.json").read_text())
  accuracies = [[r["accuracy"] for r in x["settings"]] for x in (report, again)]
  assert accuracies[0] == accuracies[1]
  video = str(clips / "val" / "jump" / "3.mp4")
  maps = f"--output={tmp_path / 'maps.png'}"
  run("analysis.video_maps", f"--workdir={workdir}", maps, "--videos", video)
  with Image.open(tmp_path / "maps.gif") as moving:
    assert moving.n_frames == 4


def test_an_animation_shows_each_tubelet_as_long_as_it_lasts():
  rng = np.random.default_rng(0)
  video, maps = rng.random((4, 8, 16, 3)), rng.random((2, 3, 2, 4))
  pictures = [np.asarray(p) for p in video_maps.animation([video], [maps])]
  assert len(pictures) == 4 and pictures[0].shape == (94, 4 * 112 + 3 * 4, 3)
  maps[0] = maps[1]
  same = [np.asarray(p) for p in video_maps.animation([video], [maps])]
  equal = [np.array_equal(*two) for two in zip(pictures, same, strict=True)]
  assert equal == [False, False, True, True]


@pytest.mark.parametrize(
  "inflate",
  ["central_frame", pytest.param("average", marks=pytest.mark.slow)],
)
def test_init_from_a_model_for_images(inflate, tmp_path):
  sizes = dict(patch_size=(4, 4), posemb_grid=(3, 3))
  image_model = models.create(variant="mu", num_classes=7, **sizes)
  shapes = jax.eval_shape(
    image_model.init, jax.random.key(0), np.zeros((1, 12, 12, 3), "f4")
  )["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), shapes)
  interop.save_params(params, tmp_path / "image.npz")
  config = make_config()
  config.evals = {}
  config.init = str(tmp_path / "image.npz")
  config.init_inflate = inflate
  loaded = setup.Experiment(config).init_params()
  kernel = params["embedding"]["kernel"]
  still = [kernel / 2] * 2
  expected = still if inflate == "average" else [0 * kernel, kernel]
  np.testing.assert_allclose(loaded["embedding"]["kernel"], np.stack(expected))
  positions = np.tile(params["pos_embedding"], (1, 2, 1))
  np.testing.assert_array_equal(loaded["pos_embedding"], positions)
  assert loaded["head"]["bias"].shape == (5,)


def test_bad_values_are_found_before_the_first_step():
  config = make_config()
  config.data.pp = config.evals.test.data.pp
  with pytest.raises(ValueError, match="Several views are for evaluation"):
    setup.Experiment(config)
  config = make_config()
  config.model.token_learner.num_tokens = 10
  with pytest.raises(ValueError, match=r"frames of 12x12 .* most 9"):
    setup.Experiment(config)


def test_a_film_is_not_held_in_memory(tmp_path, monkeypatch):
  """Neither for a prediction nor for a picture; and nothing is left behind."""
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  jpeg = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
  monkeypatch.setattr(
    video_file,
    "iter_jpegs",
    lambda *_: (jpeg + bytes(100_000 + i) for i in range(300)),
  )
  pp = "decode_video|temporal_views(4,2,3)|keep('video')"
  section = dict(name="video_folder:clips", pp=pp)
  prepare = videos.Preparation(pp, (4, 16, 16, 3), 25, 256)
  for read, shape in (
    (lambda: prepare("film.mp4"), (3, 4, 16, 16, 3)),
    (lambda: video_maps.read_files(["film.mp4"], section), (1, 4, 16, 16, 3)),
  ):
    tracemalloc.start()
    try:
      assert read().shape == shape
      _, peak = tracemalloc.get_traced_memory()
    finally:
      tracemalloc.stop()
    assert peak < 3e6  # Of 30e6.
  assert not list(tmp_path.iterdir())
