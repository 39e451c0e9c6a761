"""Trains many configs, each in a process of its own, and goes on where it was.

A run whose report is there is not trained again; one that was interrupted
continues from its newest checkpoint.
"""

import dataclasses
import functools
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
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from experiments import study
from experiments.study import Report
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.run import workdir as workdir_lib

Cell = TypeVar("Cell")

# For glibc: keeps freed memory, in large pages, rather than give it back to the
# system and have it cleared for the next step. Steps of small models on CPU are
# 1.4 times as fast (`python -m benchmarks --suite=allocator`).
KEEP_MEMORY = {
  "MALLOC_ARENA_MAX": "1",
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(2**34),
  "MALLOC_TOP_PAD_": str(2**28),
  "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


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
  def given(self) -> dict[str, Any]:
    """What the config says, as JSON keeps it."""
    file, _, argument = self.config.partition(":")
    name = file.removesuffix(".py").replace("/", ".")
    config = importlib.import_module(name).get_config(argument)
    return json.loads(json.dumps(config.to_dict()))

  def command(self, workdir: pathlib.Path) -> list[str]:
    """How to train it, alone."""
    return [
      sys.executable,
      "-m",
      "tokenlearner_flexivit.main",
      f"--config={self.config}",
      f"--workdir={workdir / self.name}",
    ]


def run_name(cell: str, seed: int, scale: str) -> str:
  """The folder of a cell's run in the workdir of its study."""
  return f"{scale}_{cell}_{seed}"


def run_of(
  folder: pathlib.Path, cell: str, seed: int, scale: str, **more: object
) -> Run:
  """Returns the run of a cell with a seed.

  Args:
    folder: of the study; its config.py knows the cell.
    cell: its name.
    seed: of parameters and batches.
    scale: its name.
    **more: further arguments of the config.
  """
  file = (folder / "config.py").relative_to(study.ROOT)
  arguments = dict(cell=cell, seed=seed, scale=scale, **more)
  text = ",".join(f"{key}={value}" for key, value in arguments.items())
  return Run(run_name(cell, seed, scale), f"{file}:{text}")


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
    raise ValueError(f"--jobs={jobs}, but there are {len(cores)} cores.")
  share = len(cores) // jobs
  return [cores[i * share : (i + 1) * share] for i in range(jobs)]


def train_all(
  runs: Sequence[Run],
  workdir: pathlib.Path,
  jobs: int,
  describe: Callable[[Report], str],
) -> dict[str, Report]:
  """Trains what has no report yet.

  Args:
    runs: in the order in which they begin.
    workdir: gets a folder and a log per run.
    jobs: how many at a time, each with as many cores of its own: small models
      use one core better than several.
    describe: says in a few words how a run went.

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

  def train(run: Run) -> Report:
    cores = slots.get()
    try:
      if not stopping.is_set():
        _train(run, workdir, cores, stopping)
    finally:
      slots.put(cores)
    return read(workdir, run)

  study.do_all(
    {run.name: functools.partial(train, run) for run in left},
    jobs,
    describe,
    stop=stopping.set,
  )
  return {run.name: read(workdir, run) for run in runs}


def train_seeds(
  run_of: Callable[[Cell, int], Run],
  cells: Sequence[Cell],
  seeds: Sequence[int],
  workdir: pathlib.Path,
  jobs: int,
  describe: Callable[[Report], str],
) -> dict[Cell, list[Report]]:
  """Trains what has no report yet of cells, each with every seed.

  Args:
    run_of: gives the run of a cell and a seed.
    cells: in the order in which they begin.
    seeds: of each of them.
    workdir: as for `train_all`; so are jobs, describe and errors.
    jobs: how many at a time.
    describe: says how a run went.

  Returns:
    The reports by cell, in the order of the seeds.
  """
  # Seed by seed: what is there early is one of everything.
  runs = {
    (cell, seed): run_of(cell, seed)
    for seed, cell in itertools.product(seeds, cells)
  }
  reports = train_all(list(runs.values()), workdir, jobs, describe)
  return {
    cell: [reports[runs[cell, seed].name] for seed in seeds] for cell in cells
  }


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
      cwd=study.ROOT,
      env={**os.environ, **KEEP_MEMORY},
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
  given = run.given
  differs = configuration.differences(
    _restricted(report["config"], given), given
  )
  if differs:
    shown = "\n  ".join(differs)
    raise ValueError(
      f"{workdir / run.name} holds a run of a different config (there -> now):"
      f"\n  {shown}\nUse another --workdir, or remove that folder."
    )


def _restricted(config: Any, keys: Any) -> Any:
  """What a complete config says of the keys that another one has."""
  if not isinstance(config, dict) or not isinstance(keys, dict):
    return config
  return {k: _restricted(config.get(k), v) for k, v in keys.items()}


def report_path(workdir: pathlib.Path, run: Run) -> pathlib.Path:
  """Where a run's report will be."""
  return workdir / run.name / workdir_lib.REPORT_FILE


def read(workdir: pathlib.Path, run: Run) -> Report:
  """Returns the report of a run that is done."""
  return json.loads(report_path(workdir, run).read_text(encoding="utf-8"))
