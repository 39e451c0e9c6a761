"""Schedules and optimizers against values worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import models
from tokenlearner_flexivit.train import optimizer as optimizer_lib

PARAMS = {"a": {"kernel": jnp.ones((2,)), "bias": jnp.ones((2,))}}
GRADS = {"a": {"kernel": jnp.full((2,), 3.0), "bias": jnp.full((2,), 4.0)}}


def schedule(total_steps=100, **section):
  return optimizer_lib.create_schedule(
    section, total_steps, batch_size=10, num_examples=100
  )


def create(total_steps=100, **section):
  return optimizer_lib.create(
    section, PARAMS, total_steps, batch_size=10, num_examples=100
  )


def step(optimizer):
  updates, _ = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
  return updates["a"]


@pytest.mark.parametrize(
  "section, at, expected",
  [
    (dict(name="cosine"), 50, 0.5),
    (dict(name="cosine"), 25, 0.5 + 0.5**1.5),
    (dict(name="cosine", end=0.2), 100, 0.2),
    (dict(name="linear"), 25, 0.75),
    (dict(name="linear", end=0.5), 100, 0.5),
    (dict(name="polynomial"), 50, 0.5**0.9),
    (dict(name="polynomial", power=2, end=0.2), 50, 0.2 + 0.8 / 4),
    (dict(name="constant"), 77, 1.0),
    (dict(name="constant", end=None), 77, 1.0),
    (dict(name=None), 25, 0.5 + 0.5**1.5),
    (dict(name="linear", warmup_steps=20), 5, 0.25),
    (dict(name="linear", warmup_steps=20), 20, 1.0),
    (dict(name="linear", warmup_steps=20), 60, 0.5),
    (dict(name="linear", warmup_epochs=2), 5, 0.25),  # 2 epochs: 20 steps.
    (dict(name="linear", warmup_examples=200), 5, 0.25),
    (dict(name="linear", warmup_percent=20), 5, 0.25),  # Of 100 steps: 20.
    (dict(name="linear", warmup_percent=12.5), 6, 0.5),  # 12.5 steps: 12.
    (dict(name="rsqrt", timescale=30, cooldown_percent=10), 95, 0.25),
    (dict(name="rsqrt", timescale=10), 30, 0.5),
    (dict(name="rsqrt", timescale=30, cooldown_steps=10), 90, 0.5),
    (dict(name="rsqrt", timescale=30, cooldown_steps=10), 95, 0.25),
    (dict(name="rsqrt", timescale=30, cooldown_steps=10), 100, 0.0),
  ],
)
def test_schedules(section, at, expected):
  np.testing.assert_allclose(schedule(**section)(at), expected, atol=1e-6)


@pytest.mark.parametrize(
  "section, message",
  [
    (dict(name="cos"), "Known: constant, cosine, linear, polynomial, rsqrt"),
    (dict(warmup_step=3), "'warmup_step'. Did you mean 'warmup_steps'"),
    (dict(name="cosine", cooldown_steps=3), "no key 'cooldown_steps'"),
    (dict(warmup_steps=100), "does not end before.*warmup_percent=10"),
    (dict(warmup_percent=0.1), r"warmup_percent=0.1 must be 0 or in \[1, 100"),
    (dict(warmup_percent=100), "must be 0 or in"),
    (dict(warmup_percent=10, warmup_steps=3), "more than once"),
    (dict(warmup_percent="10"), "must be a non-negative number"),
    (dict(cooldown_percent=10), "no key 'cooldown_percent'"),
    (dict(name="polynomial", power=0), r"power=0 must be .*\(0, inf"),
    (dict(name="rsqrt", timescale=0), r"timescale=0 must be .*\[1, inf"),
    (dict(end=-1), "end=-1 must be a number"),
    (dict(name="rsqrt", cooldown_steps=101), "longer than"),
    (dict(name="rsqrt", end=0.1), r"end=0\.1 has no part .* without a cool"),
    (dict(name="constant", end=0.1), r"end=0\.1 has no part in 'constant'"),
  ],
)
def test_bad_schedules(section, message):
  with pytest.raises(ValueError, match=message):
    schedule(**section)


def test_sgd_first_step_and_mask():
  constant = dict(name="constant")
  optimizer, lr = create(
    name="sgd", lr=0.1, weight_decay=0.5, schedule=constant
  )
  assert lr(0) == pytest.approx(0.1)
  # Only kernels decay: 0.1 * 3 + 0.5 * 1, and 0.1 * 4.
  chex.assert_trees_all_close(
    step(optimizer),
    {"kernel": jnp.full((2,), -0.8), "bias": jnp.full((2,), -0.4)},
  )


def test_all_matrices_of_a_segmenter_decay():
  model = models.create(
    name="segmenter",
    decoder="mask",
    num_classes=3,
    **dict(width=16, depth=1, mlp_dim=16, num_heads=1, patch_size=4),
  )
  images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  decoder = optimizer_lib.decay_mask(params)["mask_decoder"]
  decays = {k: v.all() for k, v in decoder.items() if not isinstance(v, dict)}
  assert decays == {"cls_emb": 0, "proj_classes": 1, "proj_patch": 1}
  assert decoder["proj_dec"] == {"bias": 0, "kernel": 1}


def test_no_pattern_is_no_decay():
  section = dict(name="sgd", lr=0.1, schedule=dict(name="constant"), decay=())
  updates = step(create(weight_decay=0.5, **section)[0])
  np.testing.assert_allclose(updates["kernel"], -0.3, rtol=1e-6)


def test_clipping_scales_to_the_norm():
  section = dict(name="sgd", lr=1.0, schedule=dict(name="constant"))
  clipped = step(create(grad_clip_norm=1.0, **section)[0])
  norm = np.sqrt(2 * 3**2 + 2 * 4**2)
  np.testing.assert_allclose(clipped["bias"], -4 / norm, rtol=1e-6)


@pytest.mark.parametrize(
  "name, decay", [("adamw", 0.1 * 0.5), ("scale_by_adam", 0.5)]
)
def test_adam_and_its_two_kinds_of_decay(name, decay):
  section = dict(lr=0.1, weight_decay=0.5, schedule=dict(name="constant"))
  updates = step(create(name=name, mu_dtype="float32", **section)[0])
  # The first step of Adam has length lr, whatever the gradient.
  np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-5)
  np.testing.assert_allclose(updates["kernel"], -0.1 - decay, rtol=1e-5)


def test_momentum_is_bfloat16_by_default_as_in_the_recipes():
  optimizer, _ = create(name="scale_by_adam", lr=0.1)
  momentum = optimizer.init(PARAMS)[0].mu["a"]
  dtypes = {str(x.dtype) for x in momentum.values()}
  assert dtypes == {"bfloat16"}


@pytest.mark.parametrize(
  "section, message",
  [
    (dict(name="lionn", lr=1), "'lionn' is unknown. Did you mean 'lion'.*lamb"),
    (dict(name="chain", lr=1), "'chain' is unknown"),
    (dict(name="sgd"), "needs lr"),
    (dict(name="sgd", lr=1, b1=0.9), "no key 'b1'"),
    (dict(name="sgd", lr=1, decay=("x",)), "the whole of no parameter"),
    (dict(name="sgd", lr="abc"), "config.optimizer.lr='abc' must be a number"),
    (dict(name="sgd", lr=-1), "config.optimizer.lr=-1 must be a number"),
    (dict(lr=1, b2=1.0), r"b2=1.0 must be a number in \[0, 1\)"),
    (dict(lr=1, mu_dtype="float16"), "mu_dtype='float16' must be 'float32'"),
    (dict(lr=1, mu_dtype="bf16"), "mu_dtype='bf16' must be 'float32'"),
    (dict(name="sgd", lr=1, nesterov=1), "nesterov=1 must be true or false"),
    (dict(lr=1, schedule=3), "must be a section"),
    (dict(name="sgd", lr=1, grad_clip_norm=0), r"grad_clip_norm=0 .*\(0, inf"),
  ],
)
def test_bad_optimizers(section, message):
  with pytest.raises(ValueError, match=message):
    create(**section)


@pytest.mark.parametrize(
  "section, expected",
  [
    # Sign of the gradient and decay of kernels, both times lr.
    (dict(name="lion", weight_decay=0.5), (-0.15, -0.1)),
    (dict(name="sign_sgd"), (-0.1, -0.1)),
    (dict(name="signum", beta=0.5), (-0.1, -0.1)),
    # Adam's direction of 1, and for kernels 0.5, as long as the parameters.
    (dict(name="lamb", weight_decay=0.5), (-0.1, -0.1)),
    (dict(name="adam", eps=0), (-0.1, -0.1)),
    (dict(name="adagrad", initial_accumulator_value=0.0), (-0.1, -0.1)),
    (dict(name="adafactor", clipping_threshold=None), (-0.1, -0.1)),
    # Its own decay: the mean of the squares is a quarter of the gradient's.
    (dict(name="rmsprop", decay=0.75, eps=0), (-0.2, -0.2)),
    (dict(name="prodigy", betas=(0.9, 0.99), estim_lr0=1.0), (-0.1, -0.1)),
  ],
)
def test_optimizers_of_optax_by_name(section, expected):
  section = dict(schedule=dict(name="constant")) | section
  optimizer, lr = create(lr=0.1, **section)
  assert lr(0) == pytest.approx(0.1)
  updates = step(optimizer)
  for key, value in zip(("kernel", "bias"), expected, strict=True):
    np.testing.assert_allclose(updates[key], value, rtol=1e-5)


@pytest.mark.parametrize("name", [None, "sgd", "lion", "adafactor"])
def test_none_is_the_default(name):
  keys = {
    None: ("weight_decay", "b1", "eps"),
    "sgd": ("momentum", "nesterov"),
    "lion": ("b1", "weight_decay"),
    "adafactor": ("decay_rate", "multiply_by_parameter_scale"),
  }[name]
  given = create(lr=0.1, name=name, **dict.fromkeys(keys))[0]
  default = create(lr=0.1, name=name or "adamw")[0]
  chex.assert_trees_all_equal(step(given), step(default))


def test_optimizers_of_optax_follow_the_schedule_and_clip():
  section = dict(name="optimistic_gradient_descent", lr=1.0, alpha=1.0, beta=0)
  rising = dict(name="linear", warmup_steps=2)
  optimizer, _ = create(**section, schedule=rising, grad_clip_norm=1.0)
  state = optimizer.init(PARAMS)
  norm = np.sqrt(2 * 3**2 + 2 * 4**2)
  for factor in (0.0, 0.5, 1.0):
    updates, state = optimizer.update(GRADS, state, PARAMS)
    expected = -factor * 4 / norm
    np.testing.assert_allclose(updates["a"]["bias"], expected, rtol=1e-6)


def test_muon_takes_kernels_alone_for_matrices():
  """Those of attention too; biases have Adam's rate, which is scheduled."""
  shapes = {"query": (4, 2, 2), "out": (2, 2, 4), "Dense_0": (4, 4)}
  params = {
    module: {
      "kernel": jax.random.normal(jax.random.key(0), shape),
      "bias": jnp.ones((2, 2) if module == "query" else (4,)),
    }
    for module, shape in shapes.items()
  }
  section = dict(name="muon", lr=0.1, adam_learning_rate=0.6, nesterov=False)
  section["schedule"] = dict(name="linear", warmup_steps=2)
  optimizer, _ = optimizer_lib.create(
    section, params, 4, batch_size=1, num_examples=1
  )
  state = optimizer.init(params)
  for _ in range(2):
    updates, state = jax.jit(optimizer.update)(params, state, params)
  for update in updates.values():
    np.testing.assert_allclose(update["bias"], -0.3, rtol=1e-4)
    matrix = np.reshape(update["kernel"], (4, 4))
    lengths = np.linalg.svd(matrix, compute_uv=False)
    assert 0.03 < lengths.min() < lengths.max() < 0.07


@pytest.mark.parametrize(
  "section, message",
  [
    (dict(name="lion"), "needs lr"),
    (dict(name="lion", lr=1, momentum=0.9), "no key 'momentum'.*b1, b2, decay"),
    (dict(name="lion", lr=1, learning_rate=1), "no key 'learning_rate'"),
    (dict(name="lion", lr=1, mask=True), "no key 'mask'"),
    (dict(name="lion", lr=-1), "lr=-1 must be"),
    (dict(name="lion", lr=1, b1=1.5), r"b1=1.5 must be a number in \[0, 1\)"),
    (dict(name="lion", lr=1, mu_dtype="float16"), "must be 'float32'"),
    (dict(name="adam", lr=1, decay=(".*kernel",)), "no key 'decay'"),
    (dict(name="rmsprop", lr=1, decay=(".*kernel",)), "must be a number"),
    (dict(name="adan", lr=1, b3="0.9"), "b3='0.9' must be a number"),
    (dict(name="adam", lr=1, nesterov=1), "nesterov=1 must be true or false"),
    (dict(name="adam", lr=1, weight_decay=1), "no key 'weight_decay'"),
    (dict(name="prodigy", lr=1, betas=3), "optax's prodigy does not work"),
    (dict(name="lbfgs", lr=1), "needs more than gradients"),
    (dict(name="sophia", lr=1), "needs more than gradients"),
    (dict(name="sm3", lr=1), "a learning rate that changes"),
    (dict(name="dpsgd", lr=1), "gradients of single examples"),
    (dict(name="schedule_free_sgd", lr=1), "evaluates other parameters"),
  ],
)
def test_what_optax_cannot_do_so(section, message):
  with pytest.raises(ValueError, match=message):
    create(**section)


@pytest.mark.parametrize("total_steps", [1, 2, 7, 10, 85])
def test_a_warmup_in_percent_ends_before_any_training(total_steps):
  rate = schedule(total_steps, warmup_percent=99)
  assert rate(total_steps - 1) > 0
