"""Chooses what the backward pass computes again by the memory that it needs."""

import copy
from collections.abc import Callable
from typing import Any

import jax

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.models import encoder
from tokenlearner_flexivit.parallel import compiled, hosts, topologies


def choose(
  task: Any,
  lower: Callable[[Any], jax.stages.Lowered],
  say: Callable[[str], None],
) -> Any:
  """Returns the task with a policy in place of its model's remat="auto".

  It is the first of `encoder.REMATS` whose program fits the memory of the
  devices, or the last. All hosts choose the same. A task of another model is
  returned as it is.

  Args:
    task: to be trained.
    lower: returns the training program of a task that needs most memory.
    say: called with a message about the choice.
  """
  if getattr(task.model, "remat", None) != encoder.AUTO:
    return task
  topology = topologies.create(topologies.HERE)
  for policy in encoder.REMATS:
    trial = copy.copy(task)
    trial.model = task.model.clone(remat=policy)
    program = compiled.compile_for(topology, lower(trial))
    if fits := not hosts.where(not program.fits):
      break
  say(
    f"model.remat={encoder.AUTO!r} is {policy!r} here: a step needs "
    f"{terminal.gib(program.memory)} of {terminal.gib(topology.chip.memory)} "
    f"GiB per device"
    + ("" if fits else ", which may not be enough; try a smaller batch")
  )
  return trial
