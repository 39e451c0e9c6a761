"""Trains many configs, each in a process of its own, and goes on where it was.

What the studies share. A run whose report is there is not trained again; one
that was interrupted continues from its newest checkpoint.
"""

import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import platform
import queue
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tokenlearner_flexivit import progress, table

ROOT = pathlib.Path(__file__).parent.parent
Report = dict[str, Any]
Row = dict[str, Any]
Result = TypeVar("Result")

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

  def command(self, workdir: pathlib.Path) -> list[str]:
    """How to train it, alone."""
    return [
      sys.executable,
      "-m",
      "tokenlearner_flexivit.main",
      f"--config={self.config}",
      f"--workdir={workdir / self.name}",
    ]


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


def do_all(
  work: Mapping[str, Callable[[], Result]],
  jobs: int,
  describe: Callable[[Result], str],
  stop: Callable[[], None] = lambda: None,
) -> dict[str, Result]:
  """Does several things at a time; prints a line with an ETA for each.

  Args:
    work: what to do, by name, in the order in which it begins.
    jobs: how many at a time.
    describe: says in a few words how one went.
    stop: called if one fails or at Ctrl-C, perhaps several times, so that
      those under way end; no other is begun then.

  Returns:
    The results by name.
  """
  begin, results = time.perf_counter(), {}

  def timed(do: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    try:
      return do(), time.perf_counter() - start
    except BaseException:
      stop()  # Before this thread begins the next.
      raise

  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    pending = {pool.submit(timed, do): name for name, do in work.items()}
    try:
      for future in concurrent.futures.as_completed(pending):
        name, (result, seconds) = pending[future], future.result()
        results[name] = result
        done = len(results)
        eta = (time.perf_counter() - begin) / done * (len(work) - done)
        print(
          f"{done}/{len(work)} {name}: {describe(result)} "
          f"({progress.duration(seconds)})  ETA {progress.duration(eta)}",
          flush=True,
        )
    except BaseException:
      stop()
      print("Ending what is under way; the same command continues.", flush=True)
      pool.shutdown(cancel_futures=True)
      raise
  return results


def stored(path: pathlib.Path, compute: Callable[[], Any]) -> Any:
  """Returns what a JSON file holds, or computes it and writes it there."""
  if not path.exists():
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(compute(), indent=2) + "\n")
    partial.rename(path)
  return json.loads(path.read_text())


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
    ValueError: more jobs than cores.
    RuntimeError: a run failed; says where its output is.
  """
  slots = queue.SimpleQueue()
  for cores in cores_of_jobs(jobs):
    slots.put(cores)
  workdir.mkdir(parents=True, exist_ok=True)
  left = [r for r in runs if not report_path(workdir, r).exists()]
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

  do_all(
    {run.name: functools.partial(train, run) for run in left},
    jobs,
    describe,
    stop=stopping.set,
  )
  return {run.name: read(workdir, run) for run in runs}


def _train(
  run: Run,
  workdir: pathlib.Path,
  cores: Sequence[int],
  stopping: threading.Event,
) -> None:
  log = workdir / f"{run.name}.log"
  with log.open("a") as output:
    process = subprocess.Popen(
      run.command(workdir.absolute()),
      cwd=ROOT,
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


def report_path(workdir: pathlib.Path, run: Run) -> pathlib.Path:
  """Where a run's report will be."""
  return workdir / run.name / "report.json"


def read(workdir: pathlib.Path, run: Run) -> Report:
  """Returns the report of a run that is done."""
  return json.loads(report_path(workdir, run).read_text())


def fill_in(readme: pathlib.Path, mark: str, text: str) -> None:
  """Puts a text between the comments `MARK` and `end of MARK` of a README.

  Raises:
    ValueError: the README has not each of them once.
  """
  begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
  parts = re.split(f"({re.escape(begin)}|{re.escape(end)})", readme.read_text())
  if parts[1::2] != [begin, end]:
    raise ValueError(f"{readme} needs {begin} and then {end}, once each.")
  readme.write_text(f"{parts[0]}{begin}\n\n{text}\n\n{end}{parts[4]}")


def spread(values: Iterable[float]) -> dict[str, Any]:
  """Mean, standard deviation (of the sample) and values of the seeds."""
  values = list(values)
  return {
    "mean": statistics.fmean(values),
    "std": statistics.stdev(values) if len(values) > 1 else 0.0,
    "by_seed": values,
  }


def paired_difference(
  over: Sequence[float], under: Sequence[float]
) -> tuple[float, float]:
  """Compares accuracies seed by seed.

  Args:
    over: in [0, 1], by seed.
    under: those of the same seeds to compare with.

  Returns:
    In points of accuracy the mean difference, and its standard error over the
    seeds.
  """
  points = [100 * (a - b) for a, b in zip(over, under, strict=True)]
  deviation = statistics.stdev(points) if len(points) > 1 else 0.0
  return statistics.fmean(points), deviation / len(points) ** 0.5


def claim(
  text: str, source: str, expected: str, measured: str, holds: bool
) -> Row:
  """Returns a row of results.json's claims: what is said, and what was found.

  Args:
    text: the statement.
    source: who says so.
    expected: what they found, or what would satisfy it.
    measured: what was found here.
    holds: whether the statement does.
  """
  return {
    "claim": text,
    "source": source,
    "expected": expected,
    "measured": measured,
    "holds": bool(holds),
  }


def table_of_claims(claims: Iterable[Row]) -> str:
  """Claims as a table in Markdown."""
  return table.markdown(
    [
      {
        "statement": claim["claim"],
        "source": claim["source"],
        "expected": claim["expected"],
        "here": claim["measured"],
        "holds": "yes" if claim["holds"] else "no",
      }
      for claim in claims
    ]
  )


def hardware(reports: Iterable[Report]) -> str:
  """What the runs ran on; several if they did not on the same."""
  kinds = sorted({report["hardware"] for report in reports})
  return f"{', '.join(kinds)} ({platform.machine()}, {os.cpu_count()} cores)"
