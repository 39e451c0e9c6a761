"""How many images per second the models of a study take."""

import time
from collections.abc import Hashable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokenlearner_flexivit import dials

_BATCH_SIZE = 64
Name = TypeVar("Name", bound=Hashable)


def measure(
  models: Mapping[Name, tuple[nn.Module, dials.Setting]],
  side: int,
  rounds: int = 15,
) -> dict[Name, list[float]]:
  """Measures forward passes in batches of 64.

  By turns, so that ratios hold although a machine's speed drifts.

  Args:
    models: by name, each with the setting that it runs at.
    side: of the images in pixels.
    rounds: how often each is measured, after a first time to compile it.

  Returns:
    Images per second in each round, by name.
  """
  images = jnp.zeros((_BATCH_SIZE, side, side, 3))
  params = {
    id(model): model.init(jax.random.key(0), images[:1])["params"]
    for model, _ in models.values()
  }
  programs = {
    name: jax.jit(
      lambda p, x, model=model, setting=setting: model.apply(
        {"params": p}, x, **setting._asdict()
      )[0]
    )
    for name, (model, setting) in models.items()
  }
  speeds = {name: [] for name in models}
  for _ in range(rounds + 1):
    for name, (model, _) in models.items():
      start = time.perf_counter()
      jax.block_until_ready(programs[name](params[id(model)], images))
      speeds[name].append(_BATCH_SIZE / (time.perf_counter() - start))
  return {name: values[1:] for name, values in speeds.items()}
