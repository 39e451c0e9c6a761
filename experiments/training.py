"""Trains many configs, each in its own process, and continues if interrupted.

A run with a report is not trained again; one that was interrupted continues
from its newest checkpoint.
"""

import concurrent.futures
import dataclasses
import importlib
import itertools
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.run import environment
from tokenlearner_flexivit.run import workdir as workdir_lib

ROOT = pathlib.Path(__file__).parent.parent
Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run.

  Attributes:
    name: its folder in the workdir.
    config: what --config gets, FILE or FILE:ARGUMENT, relative to the
      repository.
  """

  name: str
  config: str

  @property
  def sections(self) -> dict[str, Any]:
    """Returns the config as JSON keeps it."""
    file, _, argument = self.config.partition(":")
    name = file.removesuffix(".py").replace("/", ".")
    config = importlib.import_module(name).get_config(argument)
    return json.loads(json.dumps(config.to_dict()))

  def command(self, workdir: pathlib.Path) -> list[str]:
    """Returns the command that trains this run alone."""
    return [
      sys.executable,
      "-m",
      "tokenlearner_flexivit.main",
      f"--config={self.config}",
      f"--workdir={workdir / self.name}",
    ]


def run_name(cell: str, seed: int, scale: str) -> str:
  """Returns the folder of a cell's run in the workdir of its study."""
  return f"{scale}_{cell}_{seed}"


def cores_of_jobs(jobs: int) -> list[list[int]]:
  """Divides the cores of this process among jobs that run at a time.

  Raises:
    ValueError: there are fewer cores than jobs.
  """
  if hasattr(os, "sched_getaffinity"):  # Linux.
    cores = sorted(os.sched_getaffinity(0))
  else:
    cores = list(range(os.cpu_count() or 1))
  if jobs > len(cores):
    raise ValueError(
      f"--jobs={jobs}, but there are {len(cores)} cores. Use at most one job "
      "per core."
    )
  share = len(cores) // jobs
  return [cores[i * share : (i + 1) * share] for i in range(jobs)]


def stored(path: pathlib.Path, compute: Callable[[], Any]) -> Any:
  """Returns the content of a JSON file; computes and writes a missing one."""
  if not path.exists():
    workdir_lib.write_json(path, compute())
  return json.loads(path.read_text(encoding="utf-8"))


def train_all(
  runs: Sequence[Run],
  workdir: pathlib.Path,
  jobs: int,
) -> dict[str, Report]:
  """Trains the runs that have no report yet.

  Args:
    runs: in the order in which they begin.
    workdir: gets a folder and a log per run.
    jobs: how many at a time, each with as many cores of its own: small models
      use one core better than several.

  Returns:
    The reports by name of run.

  Raises:
    ValueError: more jobs than cores, or a report of another config.
    RuntimeError: a run failed; says where its output is.
  """
  slots = queue.SimpleQueue()
  for cores in cores_of_jobs(jobs):
    slots.put(cores)
  workdir.mkdir(parents=True, exist_ok=True)
  left = []
  for run in runs:
    if report_path(workdir, run).exists():
      _check_config(run, read(workdir, run), workdir)
    else:
      left.append(run)
  if len(left) < len(runs):
    print(f"{len(runs) - len(left)} of {len(runs)} runs are there.", flush=True)
  stopping = threading.Event()
  begin = time.perf_counter()

  def train(run: Run) -> float:
    """Trains a run unless others failed; returns the seconds that it took."""
    cores, start = slots.get(), time.perf_counter()
    try:
      if not stopping.is_set():
        _train(run, workdir, cores, stopping)
    except BaseException:
      stopping.set()  # Before this thread begins the next.
      raise
    finally:
      slots.put(cores)
    return time.perf_counter() - start

  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    pending = {pool.submit(train, run): run for run in left}
    try:
      ended = concurrent.futures.as_completed(pending)
      for done, future in enumerate(ended, 1):
        seconds, run = terminal.duration(future.result()), pending[future]
        eta = (time.perf_counter() - begin) / done * (len(left) - done)
        print(
          f"{done}/{len(left)} {run.name}: {in_words(read(workdir, run))} "
          f"({seconds})  ETA {terminal.duration(eta)}",
          flush=True,
        )
    except BaseException:
      stopping.set()
      print("Ending what is under way; the same command continues.", flush=True)
      pool.shutdown(cancel_futures=True)
      raise
  return {run.name: read(workdir, run) for run in runs}


def train_cells(
  cells: Mapping[str, Sequence[str]],
  names: Iterable[str],
  seeds: Sequence[int],
  run_for: Callable[[str, int], Run],
  workdir: pathlib.Path,
  jobs: int,
) -> dict[str, list[Report]]:
  """Trains cells with every seed, except runs that have a report.

  Args:
    cells: the cells that each one needs, by name; these come before it.
    names: of the cells to train; what they need is trained before.
    seeds: of each of them.
    run_for: returns the run of a cell and a seed.
    workdir: as for `train_all`; so are jobs and errors.
    jobs: how many at a time.

  Returns:
    The reports by cell, in the order of the seeds.
  """
  reports = {}
  for ready in rounds(cells, names):
    # Seed by seed: what is there early is one of everything.
    runs = {
      (cell, seed): run_for(cell, seed)
      for seed, cell in itertools.product(seeds, ready)
    }
    trained = train_all(list(runs.values()), workdir, jobs)
    for cell in ready:
      reports[cell] = [trained[runs[cell, seed].name] for seed in seeds]
  return reports


def rounds(
  cells: Mapping[str, Sequence[str]], names: Iterable[str]
) -> list[list[str]]:
  """Groups cells in rounds; what a cell needs is in an earlier round."""
  wanted, ordered, done = set(names), [], set()
  for name in reversed(cells):
    if name in wanted:
      wanted.update(cells[name])
  while wanted:
    ready = [n for n in cells if n in wanted and done.issuperset(cells[n])]
    ordered.append(ready)
    done.update(ready)
    wanted.difference_update(ready)
  return ordered


def in_words(report: Report) -> str:
  """Returns a run's accuracies or mIoU, from the lowest to the highest."""
  headline = report["headline"]
  values = sorted(100 * row[headline] for row in report["settings"])
  shown = f"{values[-1]:.2f} %"
  return shown if len(values) == 1 else f"{values[0]:.2f} to {shown}"


def _train(
  run: Run,
  workdir: pathlib.Path,
  cores: Sequence[int],
  stopping: threading.Event,
) -> None:
  log = workdir / f"{run.name}.log"
  with log.open("a", encoding="utf-8") as output:
    process = subprocess.Popen(
      run.command(workdir.absolute()),
      cwd=ROOT,
      env={**os.environ, **environment.KEEP_MEMORY},
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # Ctrl-C is told below, once.
    )
    if hasattr(os, "sched_setaffinity"):
      os.sched_setaffinity(process.pid, cores)
    while process.poll() is None:
      if stopping.wait(0.2):
        process.send_signal(signal.SIGTERM)
        process.wait()
        return
  if process.returncode or not report_path(workdir, run).exists():
    raise RuntimeError(
      f"{run.name} ended with exit code {process.returncode}; see {log}."
    )


def _check_config(run: Run, report: Report, workdir: pathlib.Path) -> None:
  """Raises ValueError if a report is of a run that had another config."""
  asked = run.sections
  trained = _restricted(report["config"], asked)
  differs = configuration.differences(trained, asked)
  if differs:
    shown = "\n  ".join(differs)
    raise ValueError(
      f"{workdir / run.name} holds a run of a different config (there -> now):"
      f"\n  {shown}\nUse another --workdir, or remove that folder."
    )


def _restricted(config: Any, keys: Any) -> Any:
  """Returns the part of a complete config that another one has too."""
  if not isinstance(config, dict) or not isinstance(keys, dict):
    return config
  return {k: _restricted(config.get(k), v) for k, v in keys.items()}


def report_path(workdir: pathlib.Path, run: Run) -> pathlib.Path:
  """Returns the path of a run's report."""
  return workdir / run.name / workdir_lib.REPORT_FILE


def read(workdir: pathlib.Path, run: Run) -> Report:
  """Returns the report of a run that is done."""
  return json.loads(report_path(workdir, run).read_text(encoding="utf-8"))
