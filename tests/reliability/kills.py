"""A run that is killed at random moments and started again until it is done."""

import contextlib
import dataclasses
import pathlib
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tests.reliability import compare, program
from tests.reliability.program import Program
from tokenlearner_flexivit.train import preemption

# A host that dies must not leave the others waiting for longer, in seconds:
# while they train, and before, when they may wait for it to join them (JAX does
# so for 300 s).
OTHERS_STOP_WITHIN = 90
OTHERS_GIVE_UP_WITHIN = 330
# Any moment of the run, one while it trains, one while a checkpoint is written.
MOMENTS = ("anywhere", "training", "saving")
_KILLS_PER_RUN = (0.75, 0.2, 0.05)  # Chances of one, two and three.
_KILL, _TERM = signal.SIGKILL, signal.SIGTERM
_LATEST = 0.97  # Later, an undisturbed run may have ended before the kill.


class RunError(RuntimeError):
  """A start of the program did not end as it should have."""


@dataclasses.dataclass(frozen=True)
class World:
  """What all runs with as many processes share.

  Attributes:
    folder: gets a folder for each run.
    cache: compiled programs, there since the undisturbed run.
    processes: that work on one run.
    reference: what the undisturbed run ended with.
    timeline: what took how long in it, in seconds: "start" until the loop,
      "training", "saving" of one checkpoint, and "all".
    cold_seconds: with nothing compiled, no data set prepared.
  """

  folder: pathlib.Path
  cache: pathlib.Path
  processes: int
  reference: compare.Result
  timeline: dict[str, float]
  cold_seconds: float

  @property
  def limit(self) -> float:
    """Seconds that no start may take."""
    return 60 + 5 * self.cold_seconds


def undisturbed(
  workdir: pathlib.Path, cache: pathlib.Path, processes: int, **options: Any
) -> tuple[compare.Result, dict[str, float]]:
  """Runs without a fault.

  Args:
    workdir: of the run; what it holds is deleted.
    cache: see `World`.
    processes: that work on the run.
    **options: of `Program`.

  Returns:
    The result, and the timeline as in `World`.

  Raises:
    RuntimeError: it failed.
  """
  shutil.rmtree(workdir, ignore_errors=True)
  with Program(
    [workdir] * processes, logs_of(workdir), cache, **options
  ) as run:
    if not run.until(lambda: run.training, limit=600):
      raise RuntimeError(f"The undisturbed run failed:\n{run.all_output()}")
    start = run.seconds
    seen = {}  # First and last sight of each unfinished checkpoint.

    def trained() -> bool:
      for step in program.unfinished_saves(workdir):
        seen.setdefault(step, [run.seconds, 0])[1] = run.seconds
      return run.step == program.TOTAL_STEPS

    run.until(trained, limit=600)
    training = run.seconds - start
    codes = run.wait(limit=600)
    seconds = run.seconds
    if any(codes):
      raise RuntimeError(f"The undisturbed run failed:\n{run.all_output()}")
  saving = [last - first for first, last in seen.values()]
  return compare.result(workdir), {
    "start": start,
    "training": training,
    "saving": float(np.median(saving)) if saving else 0.0,
    "all": seconds,
  }


def make_world(folder: pathlib.Path, processes: int) -> World:
  """Runs without faults: once on a new machine, then again.

  Args:
    folder: gets the runs.
    processes: that work on a run.

  Raises:
    RuntimeError: the two fail or differ.
  """
  cache = folder / "compiled"
  reference, cold = undisturbed(
    folder / "undisturbed",
    cache,
    processes,
    environment={"TFDS_DATA_DIR": str(folder / "data")},
  )
  other, timeline = undisturbed(folder / "undisturbed_again", cache, processes)
  if differs := compare.differences(reference, other):
    raise RuntimeError(
      f"Undisturbed runs differ from one another: {differs}. Nothing can be "
      "said of disturbed ones."
    )
  return World(folder, cache, processes, reference, timeline, cold["all"])


def logs_of(workdir: pathlib.Path) -> pathlib.Path:
  """Where the output of a run's processes lies."""
  return workdir.with_name(f"{workdir.name}_logs")


@dataclasses.dataclass(frozen=True)
class Plan:
  """What kills one start of a run.

  Attributes:
    signal: SIGKILL or SIGTERM.
    moment: one of `MOMENTS`.
    instant: where in it, in [0, 1).
    delay: for "saving": after what share of the time that a save takes.
    victim: the process.
  """

  signal: signal.Signals
  moment: str
  instant: float
  delay: float
  victim: int


def plans(number: int, processes: int) -> Iterator[list[Plan]]:
  """Yields what is to kill a run; again, should it escape all of them.

  Args:
    number: of the run, from 0 on. The first kills of nine runs in a row have
      each combination of moment and chance of signal once.
    processes: that work on the run.
  """
  rng = np.random.default_rng([processes, number])
  while True:
    count = 1 + rng.choice(len(_KILLS_PER_RUN), p=_KILLS_PER_RUN)
    moments = rng.integers(len(MOMENTS), size=count)
    terms = rng.random(count) < 1 / 3
    moments[0] = number % 3
    terms[0] = (number + number // 3) % 3 == 1
    yield [
      Plan(
        signal=_TERM if term else _KILL,
        moment=MOMENTS[moment],
        instant=rng.uniform(0, _LATEST),
        delay=rng.uniform(),
        victim=int(rng.integers(processes)),
      )
      for moment, term in zip(moments, terms, strict=True)
    ]


def killed_run(world: World, number: int) -> dict[str, Any]:
  """Kills a run at least once, lets it end, and compares what it ended with.

  Args:
    world: what it shares with other runs.
    number: of the run; decides what is random in it.

  Returns:
    `kills` as they came; `error`, what went wrong on the way, or None;
    `differs`, the names of what is not as in the undisturbed run.
  """
  workdir = world.folder / f"run{number:03}"
  # One run in ten meets a new machine: nothing compiled, no data set prepared.
  cold = number % 10 == 9
  own = workdir.with_name(f"{workdir.name}_cold")
  seconds = world.cold_seconds if cold else world.timeline["all"]

  def start() -> Program:
    return Program(
      [workdir] * world.processes,
      logs_of(workdir),
      own / "compiled" if cold else world.cache,
      environment={"TFDS_DATA_DIR": str(own / "data")} if cold else {},
    )

  kills, error, differs = [], None, {}
  for planned in plans(number, world.processes):
    for folder in (workdir, logs_of(workdir), own):
      shutil.rmtree(folder, ignore_errors=True)
    try:
      _run_to_the_end(start, planned, kills, world, workdir, seconds)
    except (RunError, TimeoutError) as failure:
      error = f"start {len(kills) + 1}: {failure}"
    if kills or error:
      break
  if error is None:
    differs = compare.differences(world.reference, compare.result(workdir))
  if not (error or differs):  # Else a person will want to look.
    for folder in (workdir, logs_of(workdir), own):
      shutil.rmtree(folder, ignore_errors=True)
  return {"kills": kills, "error": error, "differs": differs}


def _run_to_the_end(
  start: Callable[[], Program],
  planned: Sequence[Plan],
  kills: list[dict[str, Any]],
  world: World,
  workdir: pathlib.Path,
  seconds: float,
) -> None:
  """Starts a run until it ends by itself; adds what killed it to `kills`."""
  for plan in [*planned, None]:
    with start() as run:
      struck = plan is not None and _wait_for(
        run, plan, world, workdir, seconds
      )
      if struck:
        kill = _strike(run, plan, world, workdir)
      else:
        run.wait(world.limit)
      if kills:
        kills[-1]["continued_from"] = run.continued_from
      if struck:
        kills.append(kill)
        if wrong := _wrong_codes(kill):
          raise RunError(wrong)
        continue
      if any(run.exit_codes()):
        raise RunError(f"ended with exit codes {run.exit_codes()}")
      return


def _wait_for(
  run: Program,
  plan: Plan,
  world: World,
  workdir: pathlib.Path,
  seconds: float,
) -> bool:
  """Waits for the planned instant; returns whether it came before the end."""
  if plan.moment == "anywhere":
    delay = plan.instant * seconds
  elif plan.moment == "training":
    if not run.until(lambda: run.training, world.limit):
      return False
    delay = plan.instant * world.timeline["training"]
  else:
    step = plan.instant * program.TOTAL_STEPS
    if not run.until(
      lambda: any(s >= step for s in program.unfinished_saves(workdir)),
      world.limit,
    ):
      return False
    delay = plan.delay * world.timeline["saving"]
  try:
    run.wait(delay)
  except TimeoutError:
    return True
  return False


def _strike(
  run: Program, plan: Plan, world: World, workdir: pathlib.Path
) -> dict[str, Any]:
  """Sends the signal, waits for the end and tells what was seen."""
  while_saving = bool(program.unfinished_saves(workdir))
  run.send(plan.signal, plan.victim)
  second = run.seconds
  training, step = run.training, run.step
  if run.continued_from == program.TOTAL_STEPS:
    step = program.TOTAL_STEPS  # It had none left, and so logged none.
  limit = OTHERS_STOP_WITHIN if training else OTHERS_GIVE_UP_WITHIN
  if world.processes == 1:
    limit = world.limit
  with contextlib.suppress(TimeoutError):
    run.wait(limit)
  return {
    "signal": plan.signal.name,
    "moment": plan.moment,
    "victim": plan.victim,
    "second": second,
    "step": step,  # The newest that was logged, or all that there are.
    "training": training,
    "while_saving": while_saving,
    "exit_codes": run.exit_codes(),  # None: still running.
    "seconds_to_end": run.seconds - second,
  }


def _wrong_codes(kill: dict[str, Any]) -> str | None:
  """Says what is wrong with the exit codes after a signal, if anything."""
  number = signal.Signals[kill["signal"]]
  codes = kill["exit_codes"]
  code = codes[kill["victim"]]
  others = [c for i, c in enumerate(codes) if i != kill["victim"]]
  seen = f"{number.name} to process {kill['victim']} gave exit codes {codes}"
  if None in codes:
    return f"{seen} within {kill['seconds_to_end']:.0f} s"
  if number == _TERM and code >= 0:
    # The signal may come after the last step, with nothing left to resume.
    if code not in (preemption.EXIT_CODE, 0) or any(c != code for c in others):
      return f"{seen}, not {preemption.EXIT_CODE} or, at the end, 0"
    return None
  if code != -number or (number == _TERM and in_loop(kill)):
    return f"{seen}, which nothing explains"
  if any(c in (preemption.EXIT_CODE, 0) for c in others):
    return f"{seen}: another process took that for a success"
  return None


def in_loop(kill: dict[str, Any]) -> bool:
  """Whether a kill came between the first step and the last."""
  return kill["training"] and kill["step"] != program.TOTAL_STEPS
