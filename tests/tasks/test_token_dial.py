"""Every kind of model and task trains with a drawn number of tokens.

The step gives it as a traced mask. Loss and gradient have to be those of a
model that is cut down to so many tokens.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import dials, models, tasks

KEY = jax.random.key(0)
SECTION = dict(
  width=16,
  depth=1,
  mlp_dim=16,
  num_heads=2,
  patch_size=4,
  posemb_grid=3,
  head_zeroinit=False,
  num_classes=5,
)
LEARNER = dict(layer=0, num_tokens=3)
MEAN = dict(version="1.0", pooling="mean")
TEACHER = dict(model=SECTION, dtype="float32")
TASKS = {
  "supervised": dict(name="classification"),
  "distilled": dict(name="distillation", teachers=dict(prof=TEACHER)),
}
CASES = [
  ("supervised", "tok", {}),
  ("distilled", "gap", MEAN),
  *(
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (
      ("supervised", "gap", dict(fuser=True)),
      ("supervised", "map", {}),
      ("supervised", "tok", MEAN),
      ("supervised", "gap", MEAN | dict(fuser=True)),
      ("distilled", "tok", {}),
      ("distilled", "map", MEAN),
      ("distilled", "gap", dict(fuser=True)),
    )
  ),
]


@pytest.mark.parametrize("kind, pool, learner", CASES)
def test_a_mask_trains_as_a_slice_does(kind, pool, learner):
  model = models.create(
    **SECTION, pool=pool, token_learner={**LEARNER, **learner}
  )
  task = tasks.create(TASKS[kind], model=model, num_classes=5)
  rng = np.random.default_rng(0)
  batch = {
    "image": jnp.asarray(rng.standard_normal((4, 12, 12, 3), np.float32)),
    "label": jnp.asarray([0, 1, 2, 4]),
  }
  # A fuser's and a head's zeros would hide what depends on what.
  params = tiny.init(model, batch["image"], scale=0.6)

  teachers = getattr(task, "teachers", ())
  constants = tuple(tiny.init(t.model, batch["image"]) for t in teachers)

  @jax.jit
  def losses(params, number):
    prepared = task.prepare(batch, KEY, constants)

    def loss(params, number):
      setting = dials.Setting((6, 6), number)
      return task.loss(params, prepared, KEY, setting=setting)[0]

    of = jax.value_and_grad(loss)
    return of(params, number), of(params, 2), loss(params, 3)

  masked, two, of_three = losses(params, jnp.int32(2))
  chex.assert_trees_all_close(masked, two, rtol=1e-4, atol=1e-5)
  # It matters how many there are.
  assert abs(float(two[0] - of_three)) > 1e-4
