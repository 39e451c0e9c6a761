"""Losses of segmentations on any share of a batch; masks that do not fit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from tests.one_device import OneDevice
from tests.tiny import apply, init
from tokenlearner_flexivit import dials, models, parallel, tasks
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.models import bilinear
from tokenlearner_flexivit.train import step as train_step_lib

KEY = jax.random.key(0)
MODEL = dict(
  name="segmenter",
  width=8,
  depth=1,
  mlp_dim=8,
  num_heads=2,
  patch_size=4,
  posemb_grid=2,
  num_classes=3,
)
SETTING = dials.Setting((4, 4))
SGD = optax.sgd(1.0)


def make_task(name="segmentation", **section):
  about = dict(num_classes=3, class_names=["sky", "sea", "sand"])
  model = models.create(**MODEL)
  return tasks.create({"name": name, **section}, model=model, **about)


def make_batch(size=16):
  """Masks with few pixels of a class here and many there."""
  rng = np.random.default_rng(0)
  masks = rng.integers(0, 3, (size, 8, 8)).astype(np.uint8)
  shares = np.linspace(0, 1, size)[:, None, None]
  masks[rng.random(masks.shape) >= shares**3] = 255
  images = rng.standard_normal((size, 8, 8, 3), np.float32)
  return {"image": images, "semantic": masks}


def one_step(task, params, batch, devices=None, sizes=(4,), **options):
  """Returns the parameters after a step of gradient descent, and metrics."""
  drawn = dials.from_config(
    {"patch_size": {"values": sizes}, **options.pop("flexi", {})}, (4, 4)
  )[0]
  state = train_step_lib.create_state(params, SGD, ema=False)
  step = train_step_lib.make_train_step(
    task, SGD, drawn, devices or OneDevice(), seed=3, **options
  )
  if devices is None:
    state, metrics = jax.jit(step)(state, batch, ())
  else:
    run = devices.run(step, num_constants=1)
    state, metrics = run(devices.place(state), devices.place_batch(batch), ())
  return jax.device_get(state.params), jax.device_get(metrics)


def test_any_share_of_a_batch_gives_the_same_step():
  """Devices and micro-batches with unequal numbers of pixels of a class."""
  task, batch = make_task(), make_batch()
  params = init(task.model, batch["image"][:1])
  whole, metrics = one_step(task, params, batch)
  logits, _ = apply(task.model, params, batch["image"])
  mask = batch["semantic"].astype(int)
  rows = np.nonzero(mask != 255)
  log_softmax = np.asarray(jax.nn.log_softmax(logits), np.float64)
  expected = -log_softmax[(*rows, mask[rows])].mean()
  assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
  parts, accumulated = one_step(task, params, batch, accumulate=4)
  chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)
  shared, spread = one_step(task, params, batch, parallel.create())
  chex.assert_trees_all_close(shared, whole, rtol=1e-5, atol=1e-6)
  for other in (accumulated, spread):
    assert other["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_a_class_changes_nothing():
  task, batch = make_task(), make_batch()
  batch["semantic"][:] = 255
  params = init(task.model, batch["image"][:1])
  after, metrics = one_step(task, params, batch)
  assert metrics["loss"] == 0
  chex.assert_trees_all_equal(after, jax.device_get(params))


def test_the_sandwich_learns_from_its_own_masks():
  """The mean of three losses; ignored pixels count in none."""
  task, batch = make_task(ignore=7), make_batch(4)
  batch["semantic"][batch["semantic"] == 255] = 7
  params = init(task.model, batch["image"][:1])
  flexi = dict(sandwich=True, inplace_distillation=True)
  _, metrics = one_step(task, params, batch, sizes=(4, 2), flexi=flexi)
  answers = {}
  for p in (2, 4):
    answer, _ = apply(task.model, params, batch["image"], patch_size=p)
    answers[p] = np.asarray(answer, np.float64)
  mask = batch["semantic"].astype(int)
  rows = np.nonzero(mask != 7)

  def mean(targets, patch_size):
    logits = answers[patch_size]
    logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -(targets * logits).sum(axis=-1)[rows].mean()

  hard = np.eye(8)[mask][..., :3]
  soft = np.exp(answers[2]) / np.exp(answers[2]).sum(axis=-1, keepdims=True)
  drawn = (4, 2)[int(metrics["setting"])]
  expected = (mean(hard, 2) + mean(soft, drawn) + mean(soft, 4)) / 3
  assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


# Teachers

TEACHER = dict(model=MODEL | {"head_zeroinit": False}, dtype="float32")


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
  task = make_task(
    "segmentation_distillation", teachers={"prof": TEACHER}, temperature=2.0
  )
  assert task.batch_keys == ("image",)
  batch = {"image": jnp.asarray(make_batch(2)["image"])}
  constants = (init(task.teachers[0].model, batch["image"][:1]),)

  @jax.jit
  def grads(params):
    prepared = task.prepare(batch, KEY, constants)
    loss = lambda p: task.loss(p, prepared, KEY, SETTING)  # noqa: E731
    return jax.value_and_grad(loss, has_aux=True)(params)

  (value, (metrics, logits)), grads = grads(constants[0])
  assert value == pytest.approx(0, abs=1e-6) and metrics["agreement"] == 1
  assert logits.shape == (2, 8, 8, 3)
  assert max(np.abs(g).max() for g in jax.tree.leaves(grads)) < 1e-6


def test_a_classifier_teaches_no_masks():
  """It was an error while the step was traced."""
  vit = dict(variant="mu", patch_size=4, posemb_grid=2, num_classes=3)
  prof = dict(model=vit)
  task = make_task("segmentation_distillation", teachers={"prof": prof})
  with pytest.raises(ValueError, match=r"is a ViT, .* class of each pixel"):
    task.teachers  # noqa: B018


def test_a_teacher_of_larger_images_and_masks_beside_it():
  prof = {**TEACHER, "image": "large", "patch_size": 2}
  task = make_task(
    "segmentation_distillation", teachers={"prof": prof}, label_weight=0.5
  )
  batch = make_batch(2)
  large = np.random.default_rng(1).standard_normal((2, 12, 12, 3), np.float32)
  batch = {k: jnp.asarray(v) for k, v in (batch | {"large": large}).items()}
  assert task.batch_keys == ("image", "large", "semantic")
  (teacher,) = task.teachers
  constants = (init(teacher.model, large[:1]),)
  params = init(task.model, batch["image"][:1])

  @jax.jit
  def program(params, constants):
    answer, _ = teacher.model.apply(
      {"params": constants[0]}, large, patch_size=2
    )
    prepared = task.prepare(batch, KEY, constants)
    loss = task.loss(params, prepared, KEY, SETTING)
    own = task.imitate(prepared, loss[1][1])
    expected = jax.nn.softmax(bilinear.resize(answer, (8, 8)))
    itself = task.loss(params, own, KEY, SETTING)
    return expected, prepared["target"], loss, itself

  expected, target, loss, itself = program(params, constants)
  np.testing.assert_allclose(target, expected, atol=1e-6)
  value, (metrics, logits) = loss
  q = np.asarray(jax.nn.log_softmax(logits))
  kl = float((expected * (np.log(expected) - q)).sum(axis=-1).mean())
  assert metrics["distance"] == pytest.approx(kl, rel=1e-4)
  parts = kl + 0.5 * float(metrics["label_loss"])
  assert value == pytest.approx(parts, rel=1e-4)
  _, (metrics, _) = itself
  assert metrics["distance"] == pytest.approx(0, abs=1e-6)


# What does not fit


def test_masks_of_other_numbers_and_shapes():
  task, batch = make_task(), make_batch(2)
  example = {key: value[0] for key, value in batch.items()}
  task.check(example, "pp")
  task.check_batch(batch)
  batch["semantic"][1, 0, :2] = 3, 200
  with pytest.raises(
    ValueError, match=r"config\.data .*numbers 3, 200 \(at 2 of 128 pixels\)"
  ):
    task.check_batch(batch)
  for change, words in (
    (lambda mask: mask[..., None], r"shape \[8, 8, 1\].*no channels"),
    (lambda mask: mask[:4], r"shape \[4, 8\].*masks='semantic'"),
    (lambda mask: mask / 2, "type float64, but class numbers are whole"),
  ):
    with pytest.raises(ValueError, match=words):
      task.check({**example, "semantic": change(example["semantic"])}, "the pp")
  negative = {**example, "semantic": np.full((8, 8), -1)}
  with pytest.raises(ValueError, match=r"numbers -1 \(at 64 of 64"):
    task.check(negative, "the pp")


def test_an_ignored_class_and_a_model_without_masks():
  with pytest.raises(ValueError, match=r"ignore=2 is one of the 3 classes"):
    make_task(ignore=2)
  with pytest.raises(ValueError, match=r"ignore=1099511627776 must be a whole"):
    make_task(ignore=2**40)
  model = models.create(**{**MODEL, "name": "vit"})
  task = tasks.create(
    {"name": "segmentation"}, model=model, num_classes=3, class_names=None
  )
  batch = make_batch(1)
  with pytest.raises(ValueError, match=r"is a ViT.*needs logits \[8, 8, 3\]"):
    task.check({key: value[0] for key, value in batch.items()}, "the pp")


# Answers


def test_rows_and_files(tmp_path):
  task = make_task()
  logits = np.zeros((2, 4, 3), np.float32)
  logits[..., 2] = 1
  logits[0, 0, 0] = 2
  place = geometry.Place((2, 4), np.eye(2, 3), (2, 4))
  answer = task.restore(logits, place)
  expected = [[0, 2, 2, 2], [2, 2, 2, 2]]
  np.testing.assert_array_equal(answer, expected)
  rows = [
    {"index": 2, "class": "sand", "share": 0.875},
    {"index": 0, "class": "sky", "share": 0.125},
  ]
  assert task.rows(answer) == rows
  assert task.in_json(answer) == {"size": [2, 4], "classes": rows}
  assert task.in_words(answer, 1) == "sand 87.5 %"
  path = task.write(answer, tmp_path / "a.b")
  assert path.name == "a.b.png"
  np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)
