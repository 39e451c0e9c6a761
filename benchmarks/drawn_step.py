"""The real training step at drawn settings, for suites that time it."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from tokenlearner_flexivit import dials, parallel
from tokenlearner_flexivit.train import step as train_step

if TYPE_CHECKING:  # The tasks bring the input pipeline, which no step needs.
  from tokenlearner_flexivit import tasks

OPTIMIZER = optax.adamw(1e-4)


def make(
  task: "tasks.Task",
  params: Any,
  batch: dict[str, jax.Array],
  drawn_from: dials.Dials,
  repeats: int = 1,
  dispatch: str = "switch",
) -> tuple[Callable[[], Any], float]:
  """Compiles the training step of drawn settings.

  Args:
    task: what is optimised.
    params: of its model.
    batch: of all devices.
    drawn_from: the dials.
    repeats: steps in a call.
    dispatch: "switch" draws inside of the program, "host" outside.

  Returns:
    A function that does the steps and returns the metrics of the last, and the
    seconds that the compilation took.
  """
  state = train_step.create_state(params, OPTIMIZER, ema=False)
  devices = parallel.create()
  states = [devices.place(jax.tree.map(jnp.copy, state))]
  batch = devices.place_batch(jax.device_get(batch))
  start = time.perf_counter()
  step = train_step.compile_steps(
    task,
    OPTIMIZER,
    drawn_from,
    devices,
    states[0],
    batch,
    task.constants(devices),
    first_step=0,
    seed=0,
    dispatch=dispatch,
  )
  seconds = time.perf_counter() - start

  def call():
    for _ in range(repeats):
      states[0], metrics = step(states[0], batch)
    return metrics

  return call, seconds
