"""From a run on own images to a fine-tuned model in use, and to its pupil.

With the shipped configs, as the README has them, made small by "runlocal".
"""

import chex
import numpy as np
import pytest
from PIL import Image

from configs import folder as folder_config
from configs import transfer
from tokenlearner_flexivit import interop, models, train
from tokenlearner_flexivit.inference import Predictor, export, model_card

# Four runs, one after another: a job of its own.
pytestmark = pytest.mark.processes
CLASSES = ("daisy", "rose", "tulip")
SIZES = (30, 24, 15)  # Pixels of the evaluated patches; 30 is trained.
FUSED = dict(layer=0, num_tokens=8, version="1.0", pooling="mean", fuser=True)
# What the config's model is changed by.
MODELS = [
  {},
  pytest.param(dict(pool="map", token_learner=FUSED), marks=pytest.mark.slow),
  pytest.param(dict(pool="map", depth=2, scan=True), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """A folder of a few images in three classes, with a split to evaluate."""
  root = tmp_path_factory.mktemp("images") / "flowers"
  rng = np.random.default_rng(0)
  for number, split in enumerate(4 * ["train"] + 2 * ["val"]):
    for name in CLASSES:
      folder = root / split / name
      folder.mkdir(parents=True, exist_ok=True)
      pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
      Image.fromarray(pixels).save(folder / f"{number}.png")
  return root


@pytest.fixture(
  scope="module",
  params=MODELS,
  ids=["shipped", "map_and_fuser", "map_and_scan"],
)
def own_run(request, images, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("own") / "run"
  config = folder_config.get_config(f"path={images},runlocal")
  config.flexi.patch_size.values = (30, 15)  # Fewer programs.
  config.model.update({"depth": 1, **request.param})
  train.train_and_evaluate(config, workdir)
  return workdir


def _transfer(images, init):
  return transfer.get_config(
    f"init={init},data=folder:{images},size=120,patch_size=30,"
    f"eval_patch_sizes={'+'.join(map(str, SIZES))},runlocal"
  )


@pytest.fixture(scope="module")
def fine_tuned(images, own_run, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("tuned") / "run"
  train.train_and_evaluate(_transfer(images, own_run), workdir)
  return workdir


@pytest.fixture(scope="module")
def exported(fine_tuned, tmp_path_factory):
  path = tmp_path_factory.mktemp("exported") / "model"
  export.write(Predictor.load(fine_tuned).trained, path)
  return path


def test_all_evaluated_sizes_can_be_chosen(fine_tuned, images, recwarn):
  """Though one alone was trained."""
  predictor = Predictor.load(fine_tuned)
  trained = predictor.trained
  assert [s.patch_size for s in trained.settings] == [(30, 30)]
  known = {s.patch_size[0]: s for s in trained.known_settings}
  assert tuple(known) == SIZES
  assert trained.class_names == CLASSES
  # As if smaller patches were better, which two steps do not teach.
  for row, accuracy in zip(trained.recorded, (0.5, 0.6, 0.9), strict=True):
    row["accuracy"] = accuracy
  predictor = Predictor(trained)
  assert predictor.setting() == known[15]
  assert predictor.choose(gmacs=1e3) == known[15]
  assert predictor.setting(24) == known[24]
  assert export.best_settings(trained) == tuple(known[size] for size in SIZES)
  photo = next((images / "val" / "rose").iterdir())
  (answer,) = predictor.predict(photo, 15)
  assert sum(label.probability for label in answer.labels) == pytest.approx(1)
  assert not [w for w in recwarn.list if "poor" in str(w.message)]


def test_what_was_exported_is_the_model_again(
  fine_tuned, exported, images, tmp_path
):
  predictor = Predictor.load(fine_tuned)
  trained, photo = predictor.trained, next((images / "val" / "rose").iterdir())
  expected = predictor.predict(photo)
  hub = model_card.write(trained, tmp_path / "hub").parent
  for folder in (exported, hub):
    again = Predictor.load(folder).trained
    assert again.describe() == trained.describe()
    assert interop.class_names(folder) == list(CLASSES)
    described = interop.describe(folder)
    model = models.ViT(**described.model)
    params = interop.load_params(folder, model)
    chex.assert_trees_all_equal(params, trained.params)
    assert Predictor(again).predict(photo) == expected


def test_a_pupil_of_what_was_exported(images, exported, tmp_path):
  """The exported folder is where it starts from, and its teacher."""
  config = _transfer(images, exported)
  teacher = dict(init=str(exported), patch_size=15, dtype="float32")
  config.task = dict(name="distillation", teachers={"exported": teacher})
  config.evals.distance = dict(type="distance", data=config.evals.test.data)
  _, history = train.train_and_evaluate(config, tmp_path / "pupil")
  values = {key: value for record in history for key, value in record.items()}
  assert np.isfinite(values["distance/patch30/kl"])
  pupil = Predictor.load(tmp_path / "pupil").trained
  assert pupil.headline == "accuracy"
  assert pupil.metric(pupil.settings[0]) is not None
