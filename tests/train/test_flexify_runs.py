"""A plain backbone made flexible from photos, and in use at other sizes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import flexify
from tests import tiny
from tokenlearner_flexivit import interop, models, train
from tokenlearner_flexivit.inference import Predictor, export
from tokenlearner_flexivit.train import setup

MODEL = models.ViT(
  num_classes=None,
  width=32,
  depth=2,
  mlp_dim=64,
  num_heads=2,
  patch_size=14,
  posemb_grid=2,
  pool="tok",
  registers=2,
  gelu="erf",
  norm_eps=1e-6,
)
SIZE = 28


def write_photo(path, rng):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = rng.integers(0, 256, (36, 40, 3), np.uint8)
  Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  root = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  for number in range(40):
    write_photo(root / f"2025/day {number % 3}/{number}.jpg", rng)
  return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """A folder as hubs have it, whose images are standardised otherwise."""
  folder = tmp_path_factory.mktemp("dino")
  interop.save_params(
    tiny.init(MODEL, jnp.zeros((1, SIZE, SIZE, 3)), scale=0.1),
    folder,
    "hugging_face",
    model=MODEL,
    input_mean=(0.485, 0.456, 0.406),
    input_std=(0.229, 0.224, 0.225),
  )
  return folder


@pytest.fixture(scope="module")
def run(photos, weights, tmp_path_factory):
  """A run of the shipped config, made small."""
  config = flexify.get_config(
    f"init={weights},data=folder:{photos},size={SIZE},patch_sizes=7,tokens=2,"
    "runlocal"
  )
  config.flexi.patch_size.values = (14, 7)
  config.total_steps = 4
  workdir = tmp_path_factory.mktemp("flexified")
  train.train_and_evaluate(config, workdir)
  return workdir


def test_the_config_follows_the_weights(photos, weights):
  config = flexify.get_config(
    f"init={weights},data=folder:{photos},size=140"
  ).to_dict()
  assert config["flexi"]["patch_size"]["values"] == [28, 20, 14, 10, 7, 5]
  (teacher,) = config["task"]["teachers"].values()
  assert tuple(teacher["patch_size"]) == (14, 14)
  assert config["data"]["name"] == f"images:{photos}"
  assert config["init_mean"] == pytest.approx((0.485, 0.456, 0.406))
  assert config["model"]["token_learner"] is None
  with pytest.raises(ValueError, match=r"size=30 is no multiple .*14x14.*252"):
    flexify.get_config(f"init={weights},data=folder:{photos},size=30")


@pytest.mark.parametrize("own, size", [(16, 240), (14, 252), (32, 224)])
def test_the_default_size_is_the_one_that_most_patch_sizes_cut(own, size):
  assert flexify.default_size((own, own)) == size


def test_images_in_classes_are_neighbours(weights, tmp_path):
  rng = np.random.default_rng(0)
  for number in range(20):
    write_photo(tmp_path / f"{'ab'[number % 2]}/{number}.png", rng)
  config = flexify.get_config(f"init={weights},data=folder:{tmp_path},size=28")
  assert config.data.name == f"folder:{tmp_path}"
  assert config.evals.neighbours.train_split == config.data.split
  assert config.evals.neighbours.test_split == config.evals.held_out.data.split


def test_a_model_of_two_heads_begins_as_its_teacher(tmp_path):
  """DeiT's representation is the mean of its cls and distillation tokens."""
  model = MODEL.clone(num_classes=3, pool="tok_dist", registers=1)
  images = jax.random.uniform(jax.random.key(0), (2, SIZE, SIZE, 3), minval=-1)
  interop.save_params(
    tiny.init(model, images, scale=0.1),
    tmp_path,
    "hugging_face",
    model=model,
    input_mean=0.5,
    input_std=0.5,
  )
  config = flexify.get_config(f"init={tmp_path},size={SIZE},runlocal")
  config.task.teachers.itself.dtype = "float32"
  task = (run := setup.Experiment(config, begins=True)).task
  (teacher,) = task.teachers
  expected, _ = teacher.answer(teacher.load(), images)
  began = tiny.apply(task.model, run.init_params(), images, patch_size=14)[0]
  np.testing.assert_allclose(began, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.processes
def test_before_the_first_step_the_model_is_its_teacher(run):
  report = json.loads((run / "report.json").read_bytes())
  rows = {(r["patch_size"], r["num_tokens"]): r for r in report["settings"]}
  assert set(rows) == {(14, 2), (14, "all"), (7, 2), (7, "all")}
  assert rows[14, "all"]["before_training"] == pytest.approx(1, abs=1e-3)
  assert rows[7, "all"]["before_training"] < 0.999
  assert "patch_cosine" in rows[7, "all"] and "patch_cosine" not in rows[7, 2]


@pytest.mark.processes
def test_the_run_is_in_use_as_any_other(run, photos, weights, tmp_path):
  """Its export answers alike, with a budget; a row holds the numbers.

  Nobody else has the teacher, so the export does not say where it is.
  """
  predictor = Predictor.load(run)
  photo = next(photos.rglob("*.jpg"))
  for settings in ({"patch_size": 7}, {"num_tokens": 2}):
    (one,) = predictor.predict(photo, **settings)
    assert one.answer.shape == (32,)
  export.write(predictor.trained, tmp_path / "out")
  for path in (tmp_path / "out").iterdir():
    assert str(weights).encode() not in path.read_bytes()
  exported = Predictor.load(tmp_path / "out")
  (again,) = exported.predict(photo, num_tokens=2)
  np.testing.assert_allclose(again.answer, one.answer, rtol=1e-3, atol=1e-4)
  (within,) = predictor.predict(photo, budget_ms=1e4)
  assert within.answer.shape == (32,)


@pytest.mark.processes
def test_the_run_loads_into_another_model_at_another_size(run):
  """With the preprocessing absorbed: images are in [-1, 1]."""
  described = interop.describe(run)
  model = models.create(**described.model)
  params = interop.load_params(run, model)
  images = jnp.zeros((1, 56, 56, 3))
  representation, _ = jax.jit(model.apply, static_argnames="patch_size")(
    {"params": params}, images, patch_size=8
  )
  assert representation.shape == (1, 32)
