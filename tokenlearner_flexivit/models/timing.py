"""Timing by turns, so that ratios hold although a machine's speed drifts."""

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
    programs: functions without arguments by name; what they return is waited
      for. Each runs once before, to be compiled.
    rounds: how often.

  Returns:
    Seconds of every round by name.
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
  """The median over the rounds of one program's time over another's."""
  return statistics.median(a / b for a, b in zip(over, under, strict=True))
