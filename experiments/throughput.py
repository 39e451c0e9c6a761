"""How many images per second the models of a study take."""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.models import timing

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
    name: functools.partial(_forward(*each), params[id(each[0])], images)
    for name, each in models.items()
  }
  seconds = timing.by_turns(programs, rounds)
  return {
    name: [_BATCH_SIZE / s for s in times] for name, times in seconds.items()
  }


def _forward(model: nn.Module, setting: dials.Setting) -> Callable[..., Any]:
  return jax.jit(
    lambda params, images: model.apply({"params": params}, images, **setting)[0]
  )
