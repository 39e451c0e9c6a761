"""Features, their distance, and what a backbone learns of a frozen one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests import tiny
from tokenlearner_flexivit import dials, models, tasks
from tokenlearner_flexivit.tasks import feature_distillation

KEY = jax.random.key(0)
MODEL = dict(variant="mu", depth=1, patch_size=4, posemb_grid=3)
TEACHER = dict(model=MODEL | {"num_classes": 5}, dtype="float32")
LEARNER = dict(layer=0, num_tokens=2)
IMAGES = jnp.asarray(
  np.random.default_rng(0).standard_normal((2, 12, 12, 3), np.float32)
)


def make_task(teachers=None, model=None, **section):
  teachers = {"self": TEACHER} if teachers is None else teachers
  section = {"name": "feature_distillation", "teachers": teachers, **section}
  return tasks.create(section, model=models.create(**(MODEL | (model or {}))))


@functools.cache
def evaluated(patch_size, weight=1.0, learner=False, num_tokens=None):
  """Returns loss, metrics, cosines and the gradient of a copy of the teacher.

  The student of learned tokens has parameters that the teacher lacks.
  """
  model = {"token_learner": LEARNER} if learner else {}
  task = make_task(model=model, patch_weight=weight)
  setting = dials.Setting((patch_size, patch_size), num_tokens)
  (teacher,) = task.teachers
  weights = tiny.init(teacher.model, IMAGES[:1])
  flat = traverse_util.flatten_dict
  params = traverse_util.unflatten_dict(
    flat(tiny.init(task.model, IMAGES[:1])) | flat(weights)
  )

  @jax.jit
  def program(params):
    batch = task.prepare({"image": IMAGES}, KEY, (weights,))
    loss = functools.partial(task.loss, setting=setting)
    (value, (metrics, _)), grads = jax.value_and_grad(loss, has_aux=True)(
      params, batch, KEY
    )
    return value, metrics, task.similarities(params, batch, setting), grads

  return jax.device_get(program(params))


def test_distance_by_hand():
  student, teacher = jnp.asarray([[3.0, 4.0]]), jnp.asarray([[0.0, 3.5]])
  # Smooth L1: |3| - 1/2 and 0.5^2 / 2; the cosine is 4/5.
  expected = [0.9 * 0.2 + 0.1 * (2.5 + 0.125) / 2]
  distance = feature_distillation.distance(student, teacher, 0.1)
  np.testing.assert_allclose(distance, expected, rtol=1e-6)


def test_a_vector_of_zeros_has_a_finite_gradient():
  zeros, ones = jnp.zeros((1, 3)), jnp.ones((1, 3))
  grad = jax.grad(lambda x: feature_distillation.distance(x, ones, 0.1).sum())(
    zeros
  )
  chex.assert_tree_all_finite(grad)


def test_maps_on_another_grid_keep_linear_functions_inside():
  """On a finer grid between the centres; a coarser one sees the middle."""
  x = jnp.linspace(0.0, 7.0, 8)
  maps = jnp.broadcast_to(x[None, None, :, None], (1, 8, 8, 1))
  on_grid = feature_distillation.on_grid
  finer = np.asarray(on_grid(maps, (8, 16)))[0, 0, 1:-1, 0]
  np.testing.assert_allclose(finer, np.arange(14) / 2 + 0.25, atol=1e-5)
  coarser = np.asarray(on_grid(maps, (8, 4)))[0, 0, 1:-1, 0]
  np.testing.assert_allclose(coarser, [2.5, 4.5], atol=1e-5)
  np.testing.assert_array_equal(on_grid(maps, (8, 8)), maps)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
  """At the teacher's patch size; the head of its weights plays no part."""
  value, metrics, cosines, grads = evaluated(4)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(metrics["cosine"], 1, rtol=1e-6)
  np.testing.assert_allclose(cosines["cosine"], 1, rtol=1e-6)
  np.testing.assert_allclose(cosines["patch_cosine"], 1, rtol=1e-6)
  assert max(np.abs(g).max() for g in jax.tree.leaves(grads)) < 1e-4


def test_at_another_patch_size_image_and_patches_are_learned():
  whole, metrics, cosines, _ = evaluated(6)
  image, *_ = evaluated(6, weight=0.0)
  assert cosines["patch_cosine"].shape == cosines["cosine"].shape == (2,)
  np.testing.assert_allclose(
    metrics["cosine"], cosines["cosine"].mean(), rtol=1e-6
  )
  np.testing.assert_allclose(image, metrics["distance"], rtol=1e-6)
  assert whole > 1.5 * image > 0


def test_learned_tokens_leave_the_image_alone_to_be_learned():
  whole, metrics, cosines, _ = evaluated(4, learner=True)
  np.testing.assert_allclose(whole, metrics["distance"], rtol=1e-6)
  assert set(cosines) == {"cosine"} and whole > 0
  # All patches to the end are what the teacher does.
  value, *_ = evaluated(4, learner=True, num_tokens="all")
  np.testing.assert_allclose(value, 0, atol=1e-6)


def test_the_targets_are_the_teachers_features_in_its_own_setting():
  task = make_task({"self": TEACHER | {"patch_size": 6, "image": "large"}})
  (teacher,) = task.teachers
  assert task.batch_keys == ("image", "large")
  weights = tiny.init(teacher.model, IMAGES[:1])
  batch = {"image": IMAGES[:, :6, :6], "large": IMAGES}
  target = task.prepare(batch, KEY, (weights,))["target"]
  representation, out = tiny.apply(
    teacher.model, weights, IMAGES, patch_size=(6, 6)
  )
  chex.assert_trees_all_close(
    target, {"image": representation, "patches": out["tokens_2d"]}, rtol=1e-5
  )


def test_the_largest_setting_can_be_the_teacher():
  task = make_task()
  answer = {"image": jnp.ones((2, 8))}
  batch = task.imitate({"image": IMAGES, "target": {}}, answer)
  assert batch["target"] is answer


def test_a_representation_is_a_row_of_a_table():
  (row,) = make_task().rows(np.asarray([0.5, -2.0], np.float32))
  assert row == {"feature_0": 0.5, "feature_1": -2.0}


@pytest.mark.parametrize(
  "change, message",
  [
    (
      {"teachers": {"a": TEACHER, "b": TEACHER}},
      r"config\.task\.teachers are a, b, .*Keep one",
    ),
    ({"teachers": {}}, r"config\.task\.teachers is empty"),
    ({"model": {"num_classes": 3}}, r"num_classes=3, .*Leave it out"),
    ({"l1_weight": 1.5}, r"config\.task\.l1_weight=1\.5 .*\[0, 1\]"),
    ({"patch_weight": -1}, r"config\.task\.patch_weight=-1"),
  ],
)
def test_mistakes(change, message):
  with pytest.raises(ValueError, match=message):
    make_task(**change).teachers  # noqa: B018


@pytest.mark.parametrize("other", [{"width": 48}, {"pool": "tok_gap"}])
def test_representations_of_other_sizes_are_refused(other):
  task = make_task({"wide": dict(model=MODEL | other)})
  example = {"image": np.asarray(IMAGES[0])}
  with pytest.raises(ValueError, match=r"by 32 numbers, .*wide by (48|64)"):
    task.check(example, "config.data.pp")
