"""The losses of image-text training, on one device and on many."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.vectors import Vectors, checks
from tokenlearner_flexivit import parallel
from tokenlearner_flexivit.tasks import contrastive

LOSSES = {
  "softmax": contrastive.softmax_loss,
  "sigmoid": contrastive.sigmoid_loss,
}


def on(num_devices, name, towers):
  """Returns loss and gradients of embeddings shared among devices."""
  devices = parallel.create(devices=jax.devices()[:num_devices])

  def loss(towers, batch):
    rows = batch["rows"]
    scalars = [towers[key] for key in ("t", "b") if key in towers]
    return LOSSES[name](
      towers["zimg"][rows], towers["ztxt"][rows], *scalars, devices
    )

  def mean(towers, batch):
    return devices.mean(jax.value_and_grad(loss)(towers, batch))

  rows = np.arange(len(towers["zimg"])).reshape(num_devices, -1)
  run = devices.run(mean)
  return run(devices.place(towers), {"rows": jnp.asarray(rows)})


@pytest.mark.parametrize("num_devices", [1, 4, 8])
@pytest.mark.parametrize("loss", LOSSES)
@checks("dense_bv_contrastive")
def test_losses_are_the_published_ones(name, loss, num_devices):
  """Value and gradients, however many devices share the batch."""
  vectors = Vectors(name)
  names = ["zimg", "ztxt", "t", *(["b"] if loss == "sigmoid" else [])]
  towers = {key: jnp.asarray(vectors[f"in/{key}"]) for key in names}
  for key in names[2:]:
    towers[key] = towers[key][0]
  value, grads = on(num_devices, loss, towers)
  np.testing.assert_allclose(
    value, vectors[f"out/oracle64/{loss}/loss"], rtol=1e-5
  )
  expected = vectors.flat(f"grad/{loss}/")
  expected = {k: v[0] if k in "tb" else v for k, v in expected.items()}
  chex.assert_trees_all_close(grads, expected, rtol=1e-5, atol=1e-6)


def test_equal_embeddings_cannot_be_told_apart():
  z = jnp.full((6, 4), 0.5)
  np.testing.assert_allclose(
    contrastive.softmax_loss(z, z, jnp.float32(10)), np.log(6), rtol=1e-6
  )
  # Each image has one right pair and five wrong ones, all of the logit t + b.
  loss = contrastive.sigmoid_loss(z, z, jnp.float32(10), jnp.float32(-12))
  right, wrong = np.log1p(np.exp(2.0)), np.log1p(np.exp(-2.0))
  np.testing.assert_allclose(loss, right + 5 * wrong, rtol=1e-5)
