"""One start of the training program, watched from outside."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence

ROOT = pathlib.Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-m", "tokenlearner_flexivit.main")
CONFIG = pathlib.Path(__file__).parent / "config.py"
TOTAL_STEPS = 120
MAX_PROCESSES = 2  # Of the experiment.
_POLL_SECONDS = 0.002


class Program:
  """The training program, in one process or in several that work together.

  Several have a device each. A context manager: no process outlives it.

  Attributes:
    processes: of `subprocess`, by process id of the run.
    started: `time.perf_counter()` of the start.
  """

  def __init__(
    self,
    workdirs: Sequence[pathlib.Path],
    logs: pathlib.Path,
    cache: pathlib.Path,
    *,
    config_file: pathlib.Path = CONFIG,
    config: str = "",
    flags: Sequence[str] = (),
    environment: Mapping[str, str] = types.MappingProxyType({}),
  ):
    """Starts it.

    Args:
      workdirs: one for each process; the same, unless that is the fault.
      logs: folder for what the processes print, in files `START.PROCESS.log`.
      cache: folder of compiled programs.
      config_file: where the config is.
      config: its argument.
      flags: more flags.
      environment: variables that it gets besides those there are.
    """
    logs.mkdir(parents=True, exist_ok=True)
    number = len(list(logs.glob("*.0.log")))
    count = len(workdirs)
    port = free_port()
    variables = {
      "JAX_PLATFORMS": "cpu",
      **os.environ,
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
      **environment,
    }
    if count > 1:
      variables["JAX_NUM_CPU_DEVICES"] = "1"
    self.started = time.perf_counter()
    self.processes = []
    self._logs, self._writers = [], []
    for index, workdir in enumerate(workdirs):
      argument = f":{config}" if config else ""
      command = [
        *COMMAND,
        f"--config={config_file}{argument}",
        f"--workdir={workdir}",
        *flags,
      ]
      if count > 1:
        command += [
          "--multihost",
          f"--coordinator_address=localhost:{port}",
          f"--num_processes={count}",
          f"--process_id={index}",
        ]
      self._logs.append(logs / f"{number}.{index}.log")
      # Through `cat`: a limit on the size of files is none of its output's.
      with self._logs[-1].open("wb") as log:
        writer = subprocess.Popen(
          ["cat"], stdin=subprocess.PIPE, stdout=log, start_new_session=True
        )
      process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=writer.stdin,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the experiment alone.
      )
      writer.stdin.close()
      self._writers.append(writer)
      self.processes.append(process)

  def __enter__(self) -> "Program":
    return self

  def __exit__(self, *_) -> None:
    self.kill()

  @property
  def seconds(self) -> float:
    """Seconds since the start."""
    return time.perf_counter() - self.started

  def output(self, process: int = 0) -> str:
    """What a process has printed so far."""
    return self._logs[process].read_text(errors="replace", encoding="utf-8")

  def all_output(self) -> str:
    """What all processes have printed so far."""
    return "".join(map(self.output, range(len(self._logs))))

  @property
  def training(self) -> bool:
    """Whether the loop has begun."""
    return self.continued_from is not None

  @property
  def continued_from(self) -> int | None:
    """The step that the loop began after, None before it has."""
    output = self.output()
    if done := re.search(r"training of this run is done: (\d+)", output):
      return int(done[1])
    first = re.search(r"Training steps (\d+) to", output)
    return int(first[1]) - 1 if first else None

  @property
  def step(self) -> int | None:
    """The newest step that was logged, None before the first."""
    found = re.findall(r"^step +(\d+)/", self.output(), re.MULTILINE)
    return int(found[-1]) if found else None

  @property
  def ended(self) -> bool:
    """Whether all processes have ended and all their output is there."""
    everyone = self.processes + self._writers
    return all(p.poll() is not None for p in everyone)

  def exit_codes(self) -> list[int | None]:
    """Exit code by process; None while it runs, -N after signal N."""
    return [p.poll() for p in self.processes]

  def until(self, condition: Callable[[], bool], limit: float) -> bool:
    """Waits for a condition.

    Args:
      condition: asked every few milliseconds.
      limit: seconds to wait for it.

    Returns:
      Whether it came true before all processes ended.

    Raises:
      TimeoutError: the limit passed.
    """
    end = time.perf_counter() + limit
    while not condition():
      if self.ended:
        return condition()
      if time.perf_counter() > end:
        raise TimeoutError(f"nothing happened for {limit:.0f} s")
      time.sleep(_POLL_SECONDS)
    return True

  def wait(self, limit: float) -> list[int]:
    """Waits for the end of all processes; returns their exit codes.

    Raises:
      TimeoutError: they go on after `limit` seconds.
    """
    self.until(lambda: self.ended, limit)
    return self.exit_codes()

  def send(self, number: signal.Signals, process: int = 0) -> None:
    """Sends a signal to one process."""
    self.processes[process].send_signal(number)

  def kill(self) -> None:
    """Ends what still runs."""
    for process in self.processes:
      if process.poll() is None:
        process.kill()
      process.wait()
    for writer in self._writers:
      writer.wait()


def unfinished_saves(workdir: pathlib.Path) -> list[int]:
  """Returns the steps of the checkpoints that are being written."""
  names = [name for name in _checkpoints(workdir) if "tmp" in name]
  return [int(re.match(r"\d+", name)[0]) for name in names]


def finished_saves(workdir: pathlib.Path) -> list[int]:
  """Returns the steps of the checkpoints that are complete, in order."""
  return sorted(int(n) for n in _checkpoints(workdir) if n.isdecimal())


def _checkpoints(workdir: pathlib.Path) -> list[str]:
  try:
    return os.listdir(workdir / "checkpoints")
  except FileNotFoundError:
    return []


def free_port() -> int:
  """Returns the number of a port that nobody listens on."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]
