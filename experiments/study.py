"""What the studies share: several things at a time, claims, and results."""

import concurrent.futures
import json
import math
import os
import pathlib
import platform
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.run import workdir as workdir_lib

ROOT = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)  # The committed results are the means over these.
Report = dict[str, Any]
Row = dict[str, Any]
Result = TypeVar("Result")


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
          f"({terminal.duration(seconds)})  ETA {terminal.duration(eta)}",
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
    workdir_lib.write_json(path, compute())
  return json.loads(path.read_text(encoding="utf-8"))


def fill_in(readme: pathlib.Path, mark: str, text: str) -> None:
  """Puts a text between the comments `MARK` and `end of MARK` of a README.

  Raises:
    ValueError: the README has not each of them once.
  """
  begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
  parts = re.split(
    f"({re.escape(begin)}|{re.escape(end)})", readme.read_text(encoding="utf-8")
  )
  if parts[1::2] != [begin, end]:
    raise ValueError(f"{readme} needs {begin} and then {end}, once each.")
  readme.write_text(
    f"{parts[0]}{begin}\n\n{text}\n\n{end}{parts[4]}", encoding="utf-8"
  )


def spread(values: Iterable[float]) -> dict[str, Any]:
  """Returns mean, standard deviation (of the sample) and values of the seeds.

  One seed has no deviation: it is None.
  """
  values = list(values)
  return {
    "mean": statistics.fmean(values),
    "std": statistics.stdev(values) if len(values) > 1 else None,
    "by_seed": values,
  }


def paired_difference(
  over: Sequence[float], under: Sequence[float]
) -> tuple[float, float | None]:
  """Compares accuracies seed by seed.

  Args:
    over: in [0, 1], by seed.
    under: those of the same seeds to compare with.

  Returns:
    In points of accuracy the mean difference, and its standard error over the
    seeds, None for one seed.
  """
  points = [100 * (a - b) for a, b in zip(over, under, strict=True)]
  mean = statistics.fmean(points)
  if len(points) == 1:
    return mean, None
  return mean, statistics.stdev(points) / len(points) ** 0.5


def plus_minus(
  value: float, error: float | None, pattern: str, unit: str = ""
) -> str:
  """Returns a value with its error, or with the remark that it has none.

  Args:
    value: a mean over seeds.
    error: its deviation or standard error; None for one seed.
    pattern: formats the value, such as "+.2f".
    unit: of both, such as " %".
  """
  if error is None:
    return f"{value:{pattern}}{unit} (one seed)"
  return f"{value:{pattern}} ± {error:{pattern.removeprefix('+')}}{unit}"


def percent(seeds: Mapping[str, Any], digits: int, unit: str = " %") -> str:
  """Returns a share of `spread` in percent, with its deviation."""
  std = None if seeds["std"] is None else 100 * seeds["std"]
  return plus_minus(100 * seeds["mean"], std, f".{digits}f", unit)


def bars(errors: Iterable[float | None]) -> list[float]:
  """Returns the lengths of error bars: none is drawn for one seed."""
  return [math.nan if error is None else error for error in errors]


def results_folder(
  folder: pathlib.Path, workdir: pathlib.Path, *, whole: bool
) -> pathlib.Path:
  """Returns the folder that results, pictures and tables are written to.

  The committed results are those of the whole study. A quick look, such as one
  with a single seed, replaces none of them: its results go to the workdir.

  Args:
    folder: of the study.
    workdir: of its runs.
    whole: whether at least all that the committed results are from was done.
  """
  if whole:
    return folder
  own = workdir / "results" / folder.name
  own.mkdir(parents=True, exist_ok=True)
  if (folder / "README.md").exists():
    shutil.copy(folder / "README.md", own)  # Its tables are filled in.
  print(f"This is less than the whole study: results go to {own}.", flush=True)
  return own


def claim(
  text: str, source: str, expected: str, measured: str, holds: bool | None
) -> Row:
  """Returns a row of results.json's claims: what is said, and what was found.

  Args:
    text: the statement.
    source: who says so.
    expected: what they found, or what would satisfy it.
    measured: what was found here.
    holds: whether the statement does; None where one seed cannot tell.
  """
  return {
    "claim": text,
    "source": source,
    "expected": expected,
    "measured": measured,
    "holds": None if holds is None else bool(holds),
  }


_VERDICTS = {True: "yes", False: "no", None: "undecided"}


def table_of_claims(claims: Iterable[Row]) -> str:
  """Claims as a table in Markdown."""
  return table.markdown(
    [
      {
        "statement": claim["claim"],
        "source": claim["source"],
        "expected": claim["expected"],
        "here": claim["measured"],
        "holds": _VERDICTS[claim["holds"]],
      }
      for claim in claims
    ]
  )


def hardware(reports: Iterable[Report]) -> str:
  """What the runs ran on; several if they did not on the same."""
  kinds = sorted({report["hardware"] for report in reports})
  return f"{', '.join(kinds)} ({platform.machine()}, {os.cpu_count()} cores)"
