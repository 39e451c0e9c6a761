"""Interleaved timing, so that ratios hold although a machine's speed drifts."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def by_turns(
  programs: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
  """Times programs, each once per round.

  Args:
    programs: functions without arguments, by name; their results are waited
      for. Each runs once before the timing, to be compiled.
    rounds: number of rounds.

  Returns:
    The seconds of every round, by name.
  """
  seconds = {name: [] for name in programs}
  for program in programs.values():
    jax.block_until_ready(program())
  for _ in range(rounds):
    for name, program in programs.items():
      start = time.perf_counter()
      jax.block_until_ready(program())
      seconds[name].append(time.perf_counter() - start)
  return seconds


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
  """Returns the median over rounds of one program's time over another's."""
  return statistics.median(a / b for a, b in zip(over, under, strict=True))
