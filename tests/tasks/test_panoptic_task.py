"""Panoptic tasks: predictions and losses as published, answers, errors."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from tests import tiny, vectors
from tests.vectors import assert_close
from tokenlearner_flexivit import dials, models, parallel, tasks
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.models import label_coder, label_patches
from tokenlearner_flexivit.tasks import panoptic_answers, panoptic_code
from tokenlearner_flexivit.train import step as train_step

CODER = dict(
  num_instances=4,
  width=8,
  encoder_depth=1,
  decoder_depth=1,
  mlp_dim=8,
  num_heads=1,
  patch_size=(2, 3),
  posemb_grid=(4, 2),
  code_grid=(2, 2),
)
NAMES = ["ball", "sky", "cat"]


def make_task(coder=None, **options):
  model = models.LabelCoder(**CODER | {"num_labels": 4} | (coder or {}))
  return tasks.create(
    dict(name="panoptic_code", **options),
    model=model,
    num_classes=3,
    class_names=NAMES,
    known_stuff=["sky"],
  )


@pytest.mark.parametrize(
  "name", ["dense_bv_uvim_vq_resize", "dense_bv_uvim_vq_matrix"]
)
def test_losses_and_predictions_are_the_published_ones(name):
  case = vectors.Vectors(name)
  cfg, labels = case.meta["cfg"], case["in/labels"]
  grid = [
    n // p for n, p in zip(cfg["input_size"], cfg["patch_size"], strict=True)
  ]
  coder = models.LabelCoder(
    **CODER | dict(num_labels=2, patch_size=cfg["patch_size"], posemb_grid=grid)
  )

  @jax.jit
  def run(logits, labels):
    losses = [
      panoptic_code.cross_entropy(logits[key], labels[..., i], coder)
      for i, key in enumerate(label_coder.MAPS)
    ]
    results = []
    for fraction in (0.0, 0.15):
      maps = panoptic_answers.predictions(logits, fraction)
      maps = [
        label_patches.to_maps(x, coder.posemb_grid, coder.patch_size)
        for x in maps
      ]
      results.append(jnp.stack(maps, axis=-1))
    return losses, results

  logits = {key: case[f"out/logits/{key}"] for key in label_coder.MAPS}
  losses, results = run(logits, labels)
  for loss, key in zip(losses, label_coder.MAPS, strict=True):
    assert_close(loss, case[f"out/loss_{key}"])
  np.testing.assert_array_equal(results[0], case["out/prediction"])
  np.testing.assert_array_equal(
    results[1], case["out/prediction_min_fraction_0.15"]
  )


@pytest.mark.parametrize(
  "quantizer, accumulate", [("fsq", 1), ("fsq", 2), ("vq", 1)]
)
def test_used_codes_are_counted_over_the_whole_batch(quantizer, accumulate):
  """Over all devices and micro-batches, each code once."""
  number = 27
  coder = dict(quantizer=quantizer, levels=(3, 3, 3), num_words=number)
  task = make_task(coder)
  rng = np.random.default_rng(0)
  size = 2 * accumulate * jax.device_count()
  batch = {
    "image": rng.normal(size=(size, 8, 6, 3)).astype(np.float32),
    "semantic": rng.integers(0, 3, (size, 8, 6), np.int32),
    "instances": rng.integers(0, 4, (size, 8, 6), np.int32),
  }
  params = tiny.init(task.model, batch["image"][:1])
  params["encoder_head"]["kernel"] *= 9  # So that codes differ.
  devices = parallel.create()
  step = train_step.make_train_step(
    task,
    optax.sgd(0.0),
    dials.from_config(None, None)[0],
    devices,
    seed=0,
    accumulate=accumulate,
  )
  state = train_step.create_state(params, optax.sgd(0.0), ema=False)
  _, metrics = devices.run(step, num_constants=1)(
    devices.place(state), devices.place_batch(batch), ()
  )
  _, out = task.model.apply(
    {"params": params}, batch["image"], task.labels(batch), method="encode"
  )
  used = len(np.unique(out["code"]))
  assert 1 < used < number
  assert metrics["codes_used"] == pytest.approx(used / number)


def logits_of(labels, instances):
  """Returns logits that are certain of these maps [8, 6]."""
  result = {}
  for key, maps, kinds in (
    ("semantics", labels, 4),
    ("instances", instances, 4),
  ):
    patches = label_patches.patches(np.asarray(maps)[None], (2, 3))
    result[key] = 9 * jax.nn.one_hot(patches, kinds, axis=2)
  return result


def test_stuff_of_a_class_is_one_segment_and_things_are_many():
  labels = np.repeat([[1, 1, 2, 2, 2, 0]], 8, 0)  # Balls, sky and void.
  labels[:2, 5], labels[4:, 0] = 2, 3
  instances = np.repeat([[1, 2, 3, 3, 0, 0]], 8, 0)
  instances[4:, 0] = 0
  # A void instance and a cat share the number 0, so the sum decides: sky.
  task = make_task()
  answer = jax.device_get(jax.jit(task.answer)(logits_of(labels, instances)))
  assert answer["classes"].shape == (1, 1 + 4 + 3)
  classes, segments = answer["classes"][0], answer["segments"][0]
  assert classes[0] == -1 and not (segments == 0).any()
  np.testing.assert_array_equal(segments[0], [2, 3, 6, 6, 6, 6])
  assert classes.tolist() == [-1, -1, 0, 0, -1, -1, 1, -1]
  half = np.array([[0.5, 0, 0], [0, 0.5, 0]])
  place = geometry.Place((16, 12), half, (8, 6))
  restored = task.restore({k: v[0] for k, v in answer.items()}, place)
  assert restored["segments"].shape == (16, 12)
  assert restored["segments"][0].tolist() == [1, 1, 2, 2] + [3] * 8
  assert restored["classes"].tolist() == [0, 0, 1]


def restored():
  segments = np.zeros((4, 6), np.int32)
  segments[:, 3:], segments[0, 0] = 1, 2
  return {"segments": segments, "classes": np.array([1, 2], np.int32)}


def test_segments_are_told_and_written(tmp_path):
  task = make_task()
  rows = task.rows(restored())
  assert [row["class"] for row in rows] == ["sky", "cat"]
  assert [row["kind"] for row in rows] == ["stuff", "thing"]
  assert rows[0]["share"] == 0.5 and rows[1]["xmax"] == rows[1]["ymax"] == 1
  assert task.in_words(restored(), 1) == "sky 50.0 %, and 1 more"
  path = task.write(restored(), tmp_path / "photo")
  content = json.loads(path.read_text())
  ids = np.asarray(Image.open(tmp_path / content["file_name"])).astype(int)
  np.testing.assert_array_equal(ids @ [1, 256, 256**2], restored()["segments"])
  first, second = content["segments_info"]
  assert (first["isthing"], first["area"]) == (0, 12)
  assert first["bbox"] == [3, 0, 3, 4] and second["category"] == "cat"
  picture = tmp_path / "photo.png"
  task.draw(restored(), np.zeros((4, 6, 3), np.uint8), picture)
  assert np.asarray(Image.open(picture)).shape[1] >= 600


def test_the_time_of_rows_does_not_grow_with_the_number_of_segments():
  side, cells = 600, 50
  many = np.arange(side) // (side // cells)
  many = (1 + many[:, None] * cells + many).astype(np.int32)
  task, seconds = make_task(), []
  for segments in (np.ones_like(many), many):
    classes = np.zeros(segments.max(), np.int32)
    start = time.perf_counter()
    rows = task.rows({"segments": segments, "classes": classes})
    seconds.append(time.perf_counter() - start)
  assert len(rows) == cells**2
  by_id = {row["id"]: row for row in rows}
  keys = ("xmin", "ymin", "xmax", "ymax")
  assert [by_id[cells + 3][key] for key in keys] == [24, 12, 36, 24]
  assert by_id[7]["share"] == 1 / cells**2
  assert seconds[1] < 0.2 + 20 * seconds[0]


def test_void_is_the_first_label_and_the_first_instance():
  task = make_task()
  batch = {
    "semantic": jnp.array([[[0, 255, 2]]], jnp.int32),
    "instances": jnp.array([[[2, 255, 1]]], jnp.int32),
  }
  labels = task.labels(batch)
  assert labels["semantics"].tolist() == [[[1, 0, 3]]]
  assert labels["instances"].tolist() == [[[2, 0, 1]]]


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(stuff=["bird"]), "config.task.stuff='bird' is unknown"),
    (dict(stuff="sky"), "config.task.stuff"),
    (dict(min_fraction=1), r"min_fraction=1 must be a number in \[0, 1\)"),
    (dict(momentum=1), r"momentum=1 must be a number in \[0, 1\)"),
    # A word without any vector would be 0 / 0, and nearest to all.
    (dict(min_count=0), r"min_count=0 must be a number in \(0, inf\)"),
    (dict(coder=dict(num_labels=5)), "num_labels=5, but the data have 3"),
  ],
)
def test_options_that_make_no_sense(options, words):
  with pytest.raises(ValueError, match=words):
    make_task(**options)


def test_stuff_may_be_named():
  assert make_task().stuff == {1}
  assert make_task(stuff=["cat", "ball"]).stuff == {0, 2}
  assert make_task(stuff=["cat", "sky"]).answer_text.endswith(": sky, cat")
  assert make_task(stuff=[]).stuff == frozenset()
  assert "stuff" not in make_task(stuff=[]).answer_text


def test_labels_that_are_none_are_refused():
  task = make_task()
  good = {
    "image": np.zeros((8, 6, 3), np.float32),
    "semantic": np.full((8, 6), 255),
    "instances": np.zeros((8, 6), int),
  }
  task.check(good, "pp")
  for key, value, words in (
    ("semantic", np.full((8, 6), 3), "'semantic' the number 3"),
    ("instances", np.full((8, 6), 4), "'instances' the number 4"),
    ("semantic", np.zeros((8, 6)), "the type float64"),
    ("instances", np.zeros((6, 6), int), r"the shape \[6, 6\]"),
    ("image", np.zeros((6, 6, 3), np.float32), "are coded at 8x6"),
  ):
    with pytest.raises(ValueError, match=words):
      task.check({**good, key: value}, "pp")


def test_what_is_drawn_for_an_image_depends_on_no_other():
  coder = CODER | dict(num_labels=4, head_zeroinit=False, levels=(5, 5))
  model = models.UViM(
    num_classes=None,
    width=8,
    depth=1,
    mlp_dim=8,
    num_heads=1,
    patch_size=(2, 3),
    posemb_grid=(4, 2),
    coder=coder,
  )
  task = tasks.create(
    dict(name="panoptic", temperature=1.0),
    model=model,
    num_classes=3,
    coder=dict(fields=coder),
  )
  rng = np.random.default_rng(0)
  images = rng.normal(size=(4, 8, 6, 3)).astype(np.float32)
  images[3] = images[0]
  params = tiny.init(model, images)
  params["code_decoder"]["LogitsDense"]["kernel"] *= 0  # Words are as likely.

  @jax.jit
  def predict(images):
    return task.predict(params, {"image": images}, {})["segments"]

  segments = np.asarray(predict(images))
  np.testing.assert_array_equal(predict(images[::-1]), segments[::-1])
  np.testing.assert_array_equal(segments[3], segments[0])
  assert (segments[0] != segments[1]).any()


def test_a_codebook_moves_once_per_step_and_not_per_micro_batch():
  assert make_task().is_mean
  task = make_task(dict(quantizer="vq"))
  assert not task.is_mean and task.frozen == ("codebook/.*",)
