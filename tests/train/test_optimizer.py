"""Schedules and optimizers against values worked out by hand."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

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
    (dict(name="constant"), 77, 1.0),
    (dict(name="constant", end=None), 77, 1.0),
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
    (dict(name="cos"), "Known: constant, cosine, linear, rsqrt"),
    (dict(warmup_step=3), "no key 'warmup_step'"),
    (dict(name="cosine", cooldown_steps=3), "no key 'cooldown_steps'"),
    (dict(warmup_steps=100), "does not end before.*warmup_percent=10"),
    (dict(warmup_percent=0.1), r"warmup_percent=0.1 must be 0 or in \[1, 100"),
    (dict(warmup_percent=100), "must be 0 or in"),
    (dict(warmup_percent=10, warmup_steps=3), "more than once"),
    (dict(warmup_percent="10"), "must be a non-negative number"),
    (dict(cooldown_percent=10), "no key 'cooldown_percent'"),
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
    (dict(name="lion", lr=1), "Known: adamw, scale_by_adam, sgd"),
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


@pytest.mark.parametrize("total_steps", [1, 2, 7, 10, 85])
def test_a_warmup_in_percent_ends_before_any_training(total_steps):
  rate = schedule(total_steps, warmup_percent=99)
  assert rate(total_steps - 1) > 0
