"""Placement of batches and states on the devices."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import parallel


def mean(scale, batch):
  return jax.lax.pmean(scale * batch["x"].mean(), parallel.AXIS)


@pytest.mark.parametrize("kind", parallel.KINDS)
def test_a_mean_over_all_devices(kind):
  batch = parallel.put_batch({"x": np.arange(16.0, dtype=np.float32)}, kind)
  result = parallel.parallelize(mean, kind)(
    parallel.replicate(jnp.float32(2), kind), batch
  )
  assert result.shape == ()
  np.testing.assert_allclose(result, 15.0)


@pytest.mark.parametrize("kind", parallel.KINDS)
def test_gradients_of_replicated_arguments_are_not_summed_over_devices(kind):
  def gradient(scale, batch):
    grad = jax.grad(lambda s: (s * batch["x"]).mean())(scale)
    return jax.lax.pmean(grad, parallel.AXIS)

  batch = parallel.put_batch({"x": np.ones(16, np.float32)}, kind)
  step = parallel.parallelize(gradient, kind)
  np.testing.assert_allclose(
    step(parallel.replicate(jnp.float32(2), kind), batch), 1.0
  )


def test_prefetch_keeps_order_and_number():
  batches = [{"x": np.full(8, i)} for i in range(5)]
  seen = [int(b["x"][0, 0]) for b in parallel.prefetch(batches, depth=2)]
  assert seen == list(range(5))


def test_prefetch_is_ahead_but_not_by_more_than_its_depth():
  read = []

  def batches():
    for i in range(9):
      read.append(i)
      yield {"x": np.zeros(8)}

  next(parallel.prefetch(batches(), depth=2))
  assert len(read) == 3


def test_unknown_kind():
  with pytest.raises(ValueError, match="Known: pmap, shard_map"):
    parallel.parallelize(mean, "pjit")


@pytest.mark.parametrize("batch_size", [0, 12, -8])
def test_batch_size_that_the_devices_do_not_divide(batch_size):
  with pytest.raises(ValueError, match=r"over 8 devices.*multiple of 8"):
    parallel.check_batch_size(batch_size, "config.batch_size")


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
