"""Losses, label smoothing and mixup against values worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import data, dials, models, parallel, tasks
from tokenlearner_flexivit.data.sources import fake
from tokenlearner_flexivit.tasks import classification, mixup
from tokenlearner_flexivit.train import loop, setup


def make_task(**section):
  model = models.create(
    variant="mu", num_classes=3, patch_size=(4, 4), head_zeroinit=False
  )
  return tasks.create(section, model=model, num_classes=3)


def test_softmax_xent():
  logits = jnp.log(jnp.asarray([[1.0, 2.0, 5.0]]))
  labels = jnp.asarray([[0.0, 0.25, 0.75]])
  expected = -0.25 * np.log(2 / 8) - 0.75 * np.log(5 / 8)
  loss = classification.softmax_xent(logits, labels)
  np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_sigmoid_xent_sums_over_classes():
  logits = jnp.asarray([[0.0, np.log(3.0)]])
  labels = jnp.asarray([[1.0, 0.0]])
  # -log sigmoid(0) - log(1 - sigmoid(log 3)) = log 2 + log 4.
  loss = classification.sigmoid_xent(logits, labels)
  np.testing.assert_allclose(loss, [np.log(8)], rtol=1e-6)


@pytest.mark.parametrize("loss", list(classification.LOSSES))
def test_the_loss_of_a_task_is_the_mean_over_its_examples(loss):
  task = make_task(loss=loss)
  params = task.init(jax.random.key(0), (8, 8, 3))
  images = np.random.default_rng(0).standard_normal((4, 8, 8, 3))
  labels = jnp.asarray([0, 1, 2, 1])
  batch = {"image": jnp.asarray(images, jnp.float32), "label": labels}
  setting = dials.Setting((4, 4))
  key = jax.random.key(1)
  value, (metrics, answer) = jax.jit(task.loss, static_argnums=3)(
    params, task.prepare(batch, key), key, setting
  )
  logits = jax.jit(task.predict, static_argnums=2)(params, batch, setting)
  one_hot = jax.nn.one_hot(labels, 3)
  expected = classification.LOSSES[loss](logits, one_hot).mean()
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert metrics == {}
  np.testing.assert_allclose(answer, logits, rtol=1e-6)


def test_label_smoothing():
  batch = {"image": jnp.zeros((2, 4, 4, 3)), "label": jnp.asarray([0, 2])}
  smooth = make_task(label_smoothing=0.3).prepare(batch, jax.random.key(0))
  np.testing.assert_allclose(
    smooth["label"], [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], rtol=1e-6
  )


def test_soft_labels_pass_unchanged():
  labels = jnp.asarray([[0.5, 0.5, 0.0]])
  batch = {"image": jnp.zeros((1, 4, 4, 3)), "label": labels}
  prepared = make_task().prepare(batch, jax.random.key(0))
  np.testing.assert_array_equal(prepared["label"], labels)


def test_mixup_mixes_images_and_labels_alike():
  images = jnp.arange(4.0)[:, None]
  batch = {"image": images, "label": jax.nn.one_hot(jnp.arange(4), 4)}
  mixed = mixup.mixup(batch, jax.random.key(0), 1.0, ("image", "label"))
  weight = float(mixed["label"][0, 0])
  assert 0.5 <= weight < 1
  rolled = jnp.roll(images, 1, axis=0)
  np.testing.assert_allclose(
    mixed["image"], weight * images + (1 - weight) * rolled, rtol=1e-6
  )
  np.testing.assert_allclose(mixed["label"].sum(axis=1), 1.0, rtol=1e-6)
  np.testing.assert_allclose(mixed["label"][1, 0], 1 - weight, rtol=1e-5)


def test_whole_numbers_are_mixed_too():
  """In uint8 every weight would be 0, and so would be every image."""
  images = np.arange(4, dtype=np.uint8)[:, None] * 60
  mixed, same = (
    mixup.mixup({"image": jnp.asarray(x)}, jax.random.key(0), 1.0, ("image",))
    for x in (images, images.astype(np.float32))
  )
  np.testing.assert_array_equal(mixed["image"], same["image"])
  assert mixed["image"].max() > 100


def test_mixup_leaves_other_entries_alone():
  batch = {"image": jnp.ones((2, 1)), "id": jnp.arange(2)}
  mixed = mixup.mixup(batch, jax.random.key(0), 1.0, ("image",))
  np.testing.assert_array_equal(mixed["id"], [0, 1])


def test_roll_is_global_over_devices():
  devices = parallel.create()
  roll = devices.run(
    lambda _, batch: devices.gather(mixup.roll(batch["x"], devices))
  )
  batch = devices.place_batch({"x": np.arange(16.0, dtype=np.float32)})
  rolled = roll(devices.place(jnp.int32(0)), batch)
  np.testing.assert_array_equal(rolled, np.roll(np.arange(16.0), 1))


def test_mixup_weight_depends_on_the_key_only():
  batch = {"image": jnp.eye(4)}
  first, again, other = (
    mixup.mixup(batch, jax.random.key(k), 1.0, ("image",)) for k in (0, 0, 1)
  )
  chex.assert_trees_all_equal(first, again)
  assert not np.allclose(first["image"], other["image"])


@pytest.mark.parametrize(
  "labels, expected",
  [
    (np.array([2, 0], np.uint8), [[0, 0, 1], [1, 0, 0]]),
    (np.array([False, True]), [[1, 0, 0], [0, 1, 0]]),
    (np.array([[0, 1, 1], [1, 0, 0]]), [[0, 1, 1], [1, 0, 0]]),
    (np.array([[True, False, True]]), [[1, 0, 1]]),
    (np.array([-1]), [[0, 0, 0]]),
  ],
)
def test_labels_of_all_types(labels, expected):
  weights = make_task().one_hot(jnp.asarray(labels))
  np.testing.assert_array_equal(weights, expected)
  assert weights.dtype == jnp.float32


@pytest.mark.parametrize(
  "label, message",
  [
    (np.int32([0, -1, 2]), "label -1, .*0 to 2.*nothing can be learned"),
    (np.int64([0, 3, -1]), "label 3, but the classes of the model are 0 to 2"),
    (np.uint8([0, 255, 1]), "label 255"),
    (np.float32([0, 1, 2]), "shape .* type float32.*vector of 3 weights"),
    (np.int32([[0], [1], [2]]), r"shape \[1\]"),
    (np.zeros((2, 4)), r"shape \[4\] .*vector of 3 weights"),
    (np.float32([[0, 1, 0], [0, 0, 0]]), "no class has any weight"),
    (np.float32([[0, 1.5, 0]]), r"the weight 1\.5\. .*in \[0, 1\]"),
    (np.float32([[0, 1, -0.5]]), r"the weight -0\.5"),
    (np.float32([[0, np.nan, 1]]), "the weight nan"),
    (np.int32([[2, 1, 0]]), r"the weight 2\.0"),
  ],
)
def test_labels_that_teach_nothing(label, message):
  task = make_task()
  with pytest.raises(ValueError, match=rf"config\.data gives .*{message}"):
    task.check_batch({"image": None, "label": label})


def test_a_training_stops_at_labels_that_teach_nothing(config, monkeypatch):
  """Their examples would be computed, and change no parameter."""
  config.evals = {}
  made = fake.FakeSource.__getitem__

  def unlabelled(source, index):
    label = np.int32(-1) if index == 7 else np.int32(0)
    return {**made(source, index), "label": label}

  monkeypatch.setattr(fake.FakeSource, "__getitem__", unlabelled)
  parts = setup.Experiment(config)
  with pytest.raises(ValueError, match="data gives the label -1"):
    for _, _ in zip(range(4), loop._device_batches(parts, 0), strict=False):
      pass


@pytest.mark.parametrize(
  "label, is_refused",
  [
    ([1, 0, 1, 0], True),
    ([0.9, 0.1, 0.9, 0.1], True),
    ([1, 1, 1, 1], True),
    ([0.5, 0, 0.5, 0], False),  # One of both, which is not known.
    ([0.85, 0.05, 0.05, 0.05], False),
    ([0.25] * 4, False),
  ],
)
def test_several_classes_at_once_need_a_sigmoid(label, is_refused):
  """As the op `multihot` makes them, also of a dataset of single labels."""
  source = data.open_source({"name": "fake:8x8x3:4:8", "split": "train"})
  example = {"label": np.array(label, np.float32)}
  model = models.ViT.from_variant("mu/4", num_classes=4)
  for loss in classification.LOSSES:
    task = classification.Classification(model, 4, loss)
    if is_refused and loss == "softmax_xent":
      with pytest.raises(ValueError, match=r"several classes, but .*softmax"):
        task.check_source(source, example)
    else:
      task.check_source(source, example)


def test_labels_that_a_loss_can_learn_from():
  for labels in (np.int32([0, 2]), np.eye(3, dtype=bool), np.full((2, 3), 0.3)):
    make_task().check_batch({"label": labels})
  # Of a host that has nothing but filling.
  make_task().check_labels(np.zeros((0, 3), np.float32), "config.evals")
  make_task().check_labels(np.zeros(0, np.int32), "config.evals")
  # Of classes that may all be absent.
  make_task(loss="sigmoid_xent").check_batch({"label": np.zeros((2, 3))})


@pytest.mark.parametrize(
  "section, message",
  [
    (dict(name="clustering"), "Known: classification"),
    (dict(loss="hinge"), "Known: sigmoid_xent, softmax_xent"),
    (dict(label_smoothing=1.0), r"label_smoothing=1\.0 .*\[0, 1\)"),
    (dict(label_smoothing="0.1"), "label_smoothing='0.1' must be a number"),
    (dict(mixup_alpha=-1), r"mixup_alpha=-1 .*\[0, inf\)"),
    (dict(mixup_alpha="0.2"), "mixup_alpha='0.2' must be a number"),
    (dict(mixup_alpha=float("nan")), "mixup_alpha=nan"),
    (dict(label_smooth=0.1), "Did you mean 'label_smoothing'"),
  ],
)
def test_bad_sections(section, message):
  with pytest.raises(ValueError, match=message):
    make_task(**section)
