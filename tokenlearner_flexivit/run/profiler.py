"""Traces of training steps on the devices, by JAX's profiler."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import terminal

FOLDER = "profile"


def check(steps: Any, total_steps: int) -> None:
  """Raises ValueError unless `config.profile_steps` names steps of a run.

  Args:
    steps: as `Profiler.__init__` takes them.
    total_steps: of the run.
  """
  where = "config.profile_steps"
  if steps is None:
    return
  if isinstance(steps, list | tuple):
    is_pair = [type(step) for step in steps] == [int, int]
    if not is_pair or not 1 <= steps[0] <= steps[1]:
      raise ValueError(
        f"{where}={steps!r} must be the first and the last step to profile, "
        "such as (10, 20), or their number."
      )
  else:
    configuration.check_number(steps, where, "[1, inf)", whole=True)
  last = 1 + steps if isinstance(steps, int) else steps[1]
  if last > total_steps:
    raise ValueError(
      f"{where}={steps!r} ends with step {last}, but the training has "
      f"{terminal.counted(total_steps, 'step')}."
    )


class Profiler:
  """Traces some steps of a run, on its first host."""

  def __init__(
    self,
    steps: int | Sequence[int] | None,
    workdir: pathlib.Path,
    first_step: int,
    total_steps: int,
  ):
    """Chooses the steps.

    Args:
      steps: (10, 20) for both and those in between, of which a run that
        continues may have done some; a number for as many after the first of
        this start, which may compile; None for none.
      workdir: gets a folder "profile".
      first_step: steps done before this start.
      total_steps: of the run.
    """
    if isinstance(steps, int):
      steps = first_step + 2, first_step + 1 + steps
    first, last = steps or (1, 0)
    self._steps = range(max(first, first_step + 1), min(last, total_steps) + 1)
    if jax.process_index() > 0:
      self._steps = range(0)
    self._folder = workdir / FOLDER
    self._is_on = False

  def run(self, step: int, run_step: Callable[..., Any], *args: Any) -> Any:
    """Runs a step, traces it if it was chosen, and returns its result.

    Args:
      step: its number, 1 for the first.
      run_step: is called with `args`.
      *args: state and batch.
    """
    if step not in self._steps:
      return run_step(*args)
    if step == self._steps[0]:
      self._is_on = True
      jax.profiler.start_trace(self._folder)
    with jax.profiler.StepTraceAnnotation("train", step_num=step):
      result = run_step(*args)
    if step == self._steps[-1]:
      jax.block_until_ready(result)  # Devices lag behind the host.
      self.close()
    return result

  def close(self) -> None:
    """Writes the trace, if there is one, and says where it is."""
    if not self._is_on:
      return
    self._is_on = False
    jax.profiler.stop_trace()
    file = max(
      self._folder.rglob("*.trace.json.gz"),
      key=lambda path: path.stat().st_mtime,
      default=self._folder,
    )
    terminal.say(
      f"Profile of steps {self._steps[0]} to {self._steps[-1]}: {file}. Open "
      "it at https://ui.perfetto.dev, or all of it by `pip install xprof; "
      f"xprof --logdir={self._folder}`."
    )
