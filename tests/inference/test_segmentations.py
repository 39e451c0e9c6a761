"""A trained segmentation: label maps, budgets, exports, the command line."""

import csv
import dataclasses
import io
import json
import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import safetensors.numpy
from jax import export as jax_export
from PIL import Image

from tests.conftest import write_untrained
from tokenlearner_flexivit import interop, models, predict
from tokenlearner_flexivit.analysis import agreement
from tokenlearner_flexivit.data.ops import decode
from tokenlearner_flexivit.evaluators import windows
from tokenlearner_flexivit.inference import Predictor, export, model_card, runs
from tokenlearner_flexivit.inference import about as about_lib
from tokenlearner_flexivit.inference import images as images_lib
from tokenlearner_flexivit.train import setup

NAMES = ["sky", "sand", "sea"]
PP = (
  "decode(masks='semantic')|resize_keep(12,masks='semantic')"
  "|pad_to(12,masks='semantic')|value_range|keep('image','semantic','valid')"
)
VALUES = {6: 0.3, 4: 0.5}  # The mIoU of each patch size.
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The workdir of a run that has ended, but for the training itself."""
  c = ml_collections.ConfigDict()
  c.batch_size, c.total_steps = 8, 1
  c.data = dict(
    name="fake:12x12x3:3:8:dense", split="train", pp=PP, num_threads=1
  )
  c.model = dict(width=8, depth=1, mlp_dim=8, num_heads=1, patch_size=(4, 4))
  c.model.posemb_grid = (3, 3)
  c.flexi = dict(patch_size=dict(values=tuple(VALUES)))
  c.task = dict(name="segmentation")
  c.optimizer = dict(name="adamw", lr=1e-2)
  data = dict(name="fake:12x12x3:3:8:dense", split="test", pp=PP)
  c.evals = dict(test=dict(type="segmentation", data=data))
  parts = setup.Experiment(c)
  path = write_untrained(
    parts, tmp_path_factory.mktemp("run"), class_names=NAMES
  )
  rows = [
    dict(patch_size=p, num_tokens=None, mIoU=v, gmacs=1 / p, images_per_s=9.0)
    for p, v in VALUES.items()
  ]
  report = dict(settings=rows, evaluation="test", headline="mIoU")
  report["metrics"] = {"mIoU": {"title": "mIoU", "unit": "%"}}
  (path / "report.json").write_text(json.dumps(report))
  return path


@pytest.fixture(scope="module")
def predictor(run):
  return Predictor.load(run, max_batch=2)


def noise(*shape):
  return RNG.integers(0, 256, (*shape, 3), np.uint8)


def test_answers_have_the_sizes_of_the_images(predictor):
  large, narrow, small = noise(30, 20), noise(9, 50), noise(5, 5)
  first, bad, second, third = predictor.predict(
    [large, b"no image", narrow, small], patch_size=4
  )
  assert "no image of the formats" in bad.error and bad.answer is None
  task = predictor.trained.task
  for image, prediction in ((large, first), (narrow, second), (small, third)):
    assert prediction.error is None
    assert prediction.answer.shape == image.shape[:2]
    assert prediction.answer.max() < 3  # Padding is no part of it.
    # By hand, of this image alone.
    prepared, place = predictor.trained.preparation().with_place(image)
    logits = predictor.forward(prepared[None], prediction.setting)[0]
    expected = task.restore(logits, place)
    np.testing.assert_array_equal(prediction.answer, expected)


def test_windows_slide_where_the_evaluation_slides_them(
  run, predictor, tmp_path
):
  trained = dataclasses.replace(
    predictor.trained,
    pp="decode|value_range",
    image_shape=(8, 8, 3),
    stride=(6, 5),
  )
  sliding = Predictor(trained, max_batch=2)
  setting = sliding.setting(patch_size=4)
  image = noise(15, 9)
  shown = jnp.asarray(image[None] / np.float32(127.5) - 1)
  logits = jax.jit(
    lambda x: windows.slide(
      lambda parts: trained.task.predict(
        trained.params, {"image": parts}, setting
      ),
      x,
      jnp.array([[15, 9]]),
      (8, 8),
      (6, 5),
    )
  )(shown)
  predictions = sliding.answer([image, noise(8, 8), noise(3, 20)], setting)
  np.testing.assert_array_equal(
    predictions[0].answer, np.asarray(logits[0]).argmax(-1)
  )
  assert [p.answer.shape for p in predictions[1:]] == [(8, 8), (3, 20)]
  parts, errors = sliding.preprocess([image, b""])
  assert parts.shape == (6, 8, 8, 3) and list(errors) == [1]
  with pytest.raises(ValueError, match="slides windows over images"):
    sliding.embed(image)
  shape = about_lib.about_input_and_output(trained)["input"]["shape"]
  assert shape == ["batch", 8, 8, 3]
  assert "windows of 8 x 8 pixels, 6 down" in about_lib.input_in_words(trained)
  card = model_card.write(trained, tmp_path / "hub").read_text("utf-8")
  assert "Multiply-adds are those of one window." in card


def test_a_run_with_windows_is_opened_as_such(run, tmp_path):
  path = tmp_path / "copy"
  shutil.copytree(run, path)
  config = json.loads((path / "config.json").read_text())
  config["evals"]["test"] |= {"window": 8, "stride": [4, 8]}
  (path / "config.json").write_text(json.dumps(config))
  trained = Predictor.load(path).trained
  assert (trained.image_shape, trained.stride) == ((8, 8, 3), (4, 8))
  trained.save(path / "model.safetensors")
  assert Predictor.load(path / "model.safetensors").trained.stride == (4, 8)


def test_fewer_images_run_at_once_where_answers_are_large(predictor):
  large = dataclasses.replace(predictor.trained, image_shape=(1024, 2048, 3))
  # 3 classes take 24 MiB for an image.
  assert Predictor(large)._programs.max_batch == 8


def test_budgets_go_by_the_headline(predictor):
  for patch_size, value in VALUES.items():
    setting = predictor.choose(min_accuracy=value, gmacs=1)
    assert setting.patch_size == (4, 4)  # The best within the budget.
    assert predictor.trained.metric(predictor.setting(patch_size)) == value
  rows = predictor.profile(repeats=1)
  assert [row["mIoU"] for row in rows] == [0.3, 0.5]
  slow = max(row["latency_ms_p90"] for row in rows)
  assert predictor.choose(budget_ms=2 * slow).patch_size == (4, 4)
  with pytest.raises(ValueError, match="mIoU"):
    predictor.choose(min_accuracy=0.9)


def test_the_command_line(run, predictor, tmp_path, capsys, monkeypatch):
  photo = tmp_path / "photo.png"
  pixels = noise(18, 24)
  Image.fromarray(pixels).save(photo)
  (expected,) = predictor.predict(pixels, patch_size=4)
  rows = predictor.trained.task.rows(expected.answer)

  def called(*arguments):
    with pytest.raises(SystemExit) as stopped:
      predict.main([str(photo), f"--workdir={run}", *arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out

  words = f"{rows[0]['class']} {100 * rows[0]['share']:.1f} %"
  assert f"{photo}: {words}" in called("--top_k=1")
  table = list(csv.DictReader(io.StringIO(called("--csv"))))
  assert [(row["class"], float(row["share"])) for row in table] == [
    (row["class"], row["share"]) for row in rows
  ]
  (answer,) = json.loads(called("--json"))["predictions"]
  assert answer["answer"] == {"size": [18, 24], "classes": rows}
  # Nothing is drawn into the image, so it is decoded once.
  monkeypatch.setattr(images_lib.Preparation, "original", None)
  called(f"--output={tmp_path / 'masks'}")
  content = (tmp_path / "masks" / "photo.png").read_bytes()
  mask = decode.decode_ids({"mask": content}, key="mask")["mask"]
  np.testing.assert_array_equal(mask, expected.answer)


def test_exports_and_cards(predictor, tmp_path):
  trained = predictor.trained
  setting = predictor.setting(patch_size=6)
  manifest = export.write(trained, tmp_path / "programs", [setting])
  about = json.loads(manifest.read_text())
  assert "logits of the classes at each pixel" in about["output"]["values"]
  assert about["labels"] == NAMES and about["metric"] == "mIoU"
  (row,) = about["settings"]
  shape = ["batch", 12, 12, 3]
  assert row["answer"]["answer"] == {"shape": shape, "dtype": "float32"}
  folder = manifest.parent
  weights = safetensors.numpy.load_file(folder / about["weights"])
  program = jax_export.deserialize((folder / row["file"]).read_bytes())
  images = RNG.normal(size=(3, 12, 12, 3)).astype(np.float32)
  np.testing.assert_allclose(
    program.call(weights, images)["answer"],
    predictor.forward(images, setting),
    atol=1e-5,
  )
  assert "logits of the classes" in (folder / "README.md").read_text()

  card = model_card.write(trained, tmp_path / "card").read_text()
  assert 'pipeline_tag: "image-segmentation"' in card
  assert 'metrics: ["mIoU"]' in card and "Classes: sky, sand, sea." in card
  assert "50.00" in card and "## mIoU and cost" in card


def test_exports_are_sources_of_weights(run, predictor, tmp_path):
  """The run's config names neither its model nor its number of classes."""
  trained = predictor.trained
  export.write(
    trained, tmp_path / "programs", [predictor.setting(patch_size=6)]
  )
  model_card.write(trained, tmp_path / "card")
  whole = interop.describe(run)
  assert whole.model["name"] == "segmenter" and whole.model["num_classes"] == 3
  for folder in ("programs", "card"):
    described = interop.describe(tmp_path / folder)
    assert described.model == whole.model
    params = interop.load_params(
      tmp_path / folder, models.create(**described.model)
    )
    jax.tree.map(np.testing.assert_array_equal, params, trained.params)
    opened = runs.open_weights(str(tmp_path / folder))
    with pytest.raises(ValueError, match="task is 'segmentation'"):
      agreement.read_link(opened.config)
