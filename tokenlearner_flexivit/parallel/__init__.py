"""Parallelism over devices: how states are placed, and programs run.

To add a kind, write a class with the members of `Parallel` in a file here, and
name it in `KINDS`.
"""

from collections.abc import Sequence

import jax

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.parallel.accelerator import unused_accelerator
from tokenlearner_flexivit.parallel.base import Parallel
from tokenlearner_flexivit.parallel.pmap import Pmap

KINDS = {"pmap": Pmap}
DEFAULT = "pmap"

__all__ = [
  "DEFAULT",
  "KINDS",
  "Parallel",
  "Pmap",
  "create",
  "unused_accelerator",
]


def create(
  kind: str = DEFAULT, devices: Sequence[jax.Device] | None = None
) -> Parallel:
  """Returns the parallelism that `config.parallel` names.

  Args:
    kind: one of `KINDS`.
    devices: of all hosts; None for those that there are.

  Raises:
    ValueError: no kind has this name.
  """
  if kind == "shard_map":
    raise ValueError(
      "config.parallel='shard_map' was another form of 'pmap' in version 0.1. "
      "Use 'pmap': the results are equal."
    )
  return configuration.choose(kind, KINDS, "config.parallel")(devices)
