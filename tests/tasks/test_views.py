"""Several views of an example: what is averaged, and what training refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import dials, models, parallel
from tokenlearner_flexivit.tasks import classification, distillation, views
from tokenlearner_flexivit.tasks import teachers as teachers_lib

VIDEOS = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 8, 8, 3))
VIDEOS = jnp.asarray(VIDEOS, jnp.float32)  # Three views of two videos.
SETTING = dials.Setting((4, 4), 1)
MODEL = dict(width=16, depth=1, mlp_dim=16, num_heads=1, num_classes=3)


@pytest.fixture(scope="module")
def task():
  model = models.ViViT(
    **MODEL,
    patch_size=(2, 4, 4),
    posemb_grid=(2, 2, 2),
    head_zeroinit=False,
    token_learner=dict(layer=0, num_tokens=2),
  )
  return classification.Classification(model, 3)


@pytest.fixture(scope="module")
def params(task):
  shapes = jax.eval_shape(
    lambda: task.init(jax.random.key(0), VIDEOS.shape[2:])
  )
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape)), shapes)


def test_logits_are_the_mean_of_those_of_the_views(task, params):
  predict = jax.jit(task.predict, static_argnums=2)
  found = predict(params, {"video": VIDEOS}, SETTING)
  single = [
    predict(params, {"video": VIDEOS[:, i]}, SETTING)
    for i in range(VIDEOS.shape[1])
  ]
  np.testing.assert_allclose(found, sum(single) / 3, rtol=1e-5, atol=1e-6)
  assert abs(single[0] - single[1]).max() > 1e-3


def test_views_are_seen_one_after_the_other(task, params):
  """A single program sees a batch of B, however many views there are."""
  traced = jax.make_jaxpr(task.predict, static_argnums=2)(
    params, {"video": VIDEOS}, SETTING
  )
  loops = [e for e in traced.eqns if e.primitive.name == "scan"]
  assert [e.params["length"] for e in loops] == [3]


@pytest.mark.slow
def test_teachers_and_representations_are_averaged_too(task, params):
  predict = jax.jit(task.predict, static_argnums=2)
  teacher = teachers_lib.Teacher(None, task.model, SETTING, "video", "teacher")
  np.testing.assert_allclose(
    jax.jit(teacher.logits)(params, VIDEOS),
    predict(params, {"video": VIDEOS}, SETTING),
    rtol=1e-5,
    atol=1e-6,
  )
  represent = jax.jit(task.representation, static_argnums=(2, 3))
  found, first = (
    represent(params, {"video": videos}, SETTING, "pre_logits")
    for videos in (VIDEOS[:, :1].repeat(3, axis=1), VIDEOS[:, 0])
  )
  np.testing.assert_allclose(found, first, rtol=1e-5, atol=1e-6)


def test_training_sees_one_view(task):
  example = {"video": np.zeros((4, 8, 8, 3)), "label": np.int32(0)}
  task.check(example, "config.data.pp")
  with pytest.raises(
    ValueError, match=r"\[3, 4, 8, 8, 3\], but training needs"
  ):
    task.check({**example, "video": VIDEOS[0]}, "config.data.pp")
  with pytest.raises(ValueError, match="gives no 'video', only image"):
    task.check({"image": np.zeros((8, 8, 3))}, "config.data.pp")
  assert task.batch_keys == ("video", "label")
  assert views.shape_of_one(VIDEOS.shape, task.model) == (4, 8, 8, 3)


@pytest.mark.slow
def test_a_student_of_videos_learns_from_a_teacher_of_videos(task, params):
  """By default the teacher looks at the student's clip."""
  arguments = dict(
    MODEL, name="vivit", patch_size=(4, 4), posemb_grid=(4, 2, 2)
  )
  teachers = {"clips": dict(model=arguments)}
  student = distillation.Distillation(task.model, 3, teachers)
  assert student.batch_keys == ("video",)
  student.check({"video": np.zeros((4, 8, 8, 3))}, "config.data.pp")
  with pytest.raises(ValueError, match=r"sees 'video' .* not divide"):
    student.check({"video": np.zeros((4, 8, 10, 3))}, "config.data.pp")
  prepared = jax.jit(student.prepare)(
    {"video": VIDEOS[:, 0]},
    jax.random.key(0),
    student.constants(parallel.create()),
  )
  loss, (metrics, _) = jax.jit(student.loss, static_argnums=3)(
    params, prepared, jax.random.key(0), SETTING
  )
  assert loss > 0 and metrics["distance"] == loss


def test_values_that_little_can_be_learned_from_are_told(capsys):
  model = models.create(**MODEL, patch_size=(4, 4), posemb_grid=(2, 2))
  image = np.full((8, 8, 3), 255, np.float32)
  twice = np.linspace(-1.008, -0.992, image.size, dtype=np.float32)
  views.check_single({"image": twice.reshape(image.shape)}, model, "data.pp")
  assert "differ by no more than 0.016" in capsys.readouterr().out
  for values, is_large in ((image, True), (image / 127.5 - 1, False)):
    views.check_single({"image": values}, model, "data.pp")
    said = capsys.readouterr().out
    assert (
      "as large as 255" in said and "value_range(0,1)" in said
    ) == is_large
  with pytest.raises(ValueError, match="gives images of uint8"):
    views.check_single({"image": image.astype(np.uint8)}, model, "data.pp")
