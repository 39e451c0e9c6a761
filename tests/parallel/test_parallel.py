"""Placement of batches and states on the devices."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import parallel


@pytest.fixture
def devices():
  return parallel.create()


def test_a_mean_over_all_devices(devices):
  def mean(scale, batch):
    return devices.mean(scale * batch["x"].mean())

  batch = devices.place_batch({"x": np.arange(16.0, dtype=np.float32)})
  result = devices.run(mean)(devices.place(jnp.float32(2)), batch)
  assert result.shape == ()
  np.testing.assert_allclose(result, 15.0)


def test_what_a_program_can_ask_of_the_other_devices(devices):
  count = jax.device_count()

  def ask(_, batch):
    return {
      "sum": devices.sum(batch["x"][0]),
      "gathered": devices.gather(batch["x"]),
      "before": devices.gather(devices.shift(batch["x"])),
      "index": devices.gather(devices.index()[None]),
    }

  x = np.arange(2 * count, dtype=np.int32)
  batch = devices.place_batch({"x": x})
  answers = devices.run(ask)(devices.place(jnp.int32(0)), batch)
  np.testing.assert_array_equal(answers["sum"], x[::2].sum())
  np.testing.assert_array_equal(answers["gathered"], x)
  np.testing.assert_array_equal(answers["before"], np.roll(x, 2))
  np.testing.assert_array_equal(answers["index"], np.arange(count))


def test_a_compiled_program_takes_over_the_state(devices):
  def step(state, batch, constant):
    return state + constant, devices.mean(batch["x"].mean())

  state, constant = devices.place((jnp.float32(1), jnp.float32(3)))
  batch = devices.place_batch({"x": np.ones(16, np.float32)})
  program = devices.compile(step, state, batch, constant, donate=True)
  after, _ = program(state, batch, constant)
  assert after == 4 and state.is_deleted() and not constant.is_deleted()


def test_gradients_of_replicated_arguments_are_not_summed_over_devices(devices):
  def gradient(scale, batch):
    grad = jax.grad(lambda s: (s * batch["x"]).mean())(scale)
    return devices.mean(grad)

  batch = devices.place_batch({"x": np.ones(16, np.float32)})
  result = devices.run(gradient)(devices.place(jnp.float32(2)), batch)
  np.testing.assert_allclose(result, 1.0)


def test_prefetch_keeps_order_and_number():
  batches = [{"x": np.full(8, i)} for i in range(5)]
  seen = [
    int(b["x"][0, 0]) for b in parallel.create().prefetch(batches, depth=2)
  ]
  assert seen == list(range(5))


def test_prefetch_is_ahead_but_not_by_more_than_its_depth():
  read = []

  def batches():
    for i in range(9):
      read.append(i)
      yield {"x": np.zeros(8)}

  next(parallel.create().prefetch(batches(), depth=2))
  assert len(read) == 3


def test_unknown_kind():
  with pytest.raises(ValueError, match="Known: pmap"):
    parallel.create("pjit")


@pytest.mark.parametrize("batch_size", [0, 12, -8])
def test_batch_size_that_the_devices_do_not_divide(batch_size):
  with pytest.raises(ValueError, match=r"over 8 devices.*multiple of 8"):
    parallel.create().check_batch_size(batch_size, "config.batch_size")


def test_accelerator_warning(monkeypatch):
  monkeypatch.setattr(os.path, "exists", lambda p: p == "/dev/kfd")
  assert parallel.unused_accelerator() is None  # The tests asked for CPUs.
  platforms = jax.config.jax_platforms
  monkeypatch.setattr(type(jax.config), "jax_platforms", None, raising=False)
  try:
    assert "AMD" in parallel.unused_accelerator()
  finally:
    monkeypatch.undo()
  assert jax.config.jax_platforms == platforms
