"""The command line that the studies share, and the results it leads to."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from absl import app, flags

from experiments import study

# The flags belong to the study that defines them: its --help shows them.
flags.disclaim_key_flags()


@dataclasses.dataclass(frozen=True)
class Options:
  """What a study was asked for.

  Attributes:
    workdir: gets a folder per run.
    scale: its name.
    seeds: of each cell.
    cells: only these; none for all.
    jobs: runs at a time.
  """

  workdir: pathlib.Path
  scale: str
  seeds: list[int]
  cells: list[str]
  jobs: int

  @property
  def suffix(self) -> str:
    """Ends the names of the scale's files, before the dot."""
    return "" if self.scale == "cpu" else f"_{self.scale}"

  def choose(self, known: Iterable[str]) -> list[str]:
    """Returns the names of the cells to train, out of all that there are.

    Raises:
      app.UsageError: one that was asked for is not among them.
    """
    known = list(known)
    if unknown := set(self.cells) - set(known):
      raise app.UsageError(
        f"--cells={','.join(sorted(unknown))}: known are {', '.join(known)}."
      )
    return self.cells or known

  def results_folder(self, study_folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder for results; see `study.results_folder`."""
    whole = set(study.SEEDS) <= set(self.seeds)
    return study.results_folder(study_folder, self.workdir, whole=whole)

  def write_results(
    self,
    folder: pathlib.Path,
    reports: Mapping[str, Sequence[study.Report]],
    rows: Iterable[study.Row],
    claims: Sequence[study.Row],
  ) -> study.Row:
    """Writes results.json of a study that is complete.

    Args:
      folder: from `results_folder`.
      reports: of the seeds, by cell.
      rows: what was found.
      claims: what it says, from `study.claim`.

    Returns:
      What the file holds.
    """
    everything = [report for of_cell in reports.values() for report in of_cell]
    results = {
      "command": f"python -m experiments.{folder.name}.run --workdir=WORKDIR "
      f"--scale={self.scale} --seeds={','.join(map(str, self.seeds))} "
      f"--jobs={self.jobs}",
      "seeds": self.seeds,
      "hardware": study.hardware(everything),
      "seconds": sum(report["train"]["seconds"] for report in everything),
      "rows": list(rows),
      "claims": claims,
    }
    text = json.dumps(results, indent=2) + "\n"
    (folder / f"results{self.suffix}.json").write_text(text, encoding="utf-8")
    return results


def read_seeds(values: Sequence[str]) -> list[int]:
  """Returns the seeds that a flag lists.

  Raises:
    app.UsageError: one is no whole number, or there twice: its runs would be
      counted as if they were several, with too small a spread.
  """
  text = ",".join(values)
  try:
    seeds = [int(value) for value in values]
  except ValueError:
    raise app.UsageError(f"--seeds={text} must be whole numbers.") from None
  if not seeds or len(set(seeds)) < len(seeds):
    raise app.UsageError(
      f"--seeds={text} must be different seeds, one or more."
    )
  return seeds


def define(
  scales: Iterable[str], flag_values: flags.FlagValues = flags.FLAGS
) -> Callable[[], Options]:
  """Defines the flags of a study.

  Args:
    scales: names of how large it can be.
    flag_values: where to define them.

  Returns:
    What gives their values once the command line has been parsed.
  """
  there = dict(flag_values=flag_values)
  workdir = flags.DEFINE_string(
    "workdir", None, "Gets a folder per run.", required=True, **there
  )
  scale = flags.DEFINE_enum("scale", "cpu", list(scales), "How large.", **there)
  seeds = flags.DEFINE_list(
    "seeds", list(map(str, study.SEEDS)), "Seeds of each cell.", **there
  )
  cells = flags.DEFINE_list(
    "cells", [], "Only these, joined by commas.", **there
  )
  jobs = flags.DEFINE_integer(
    "jobs",
    1,
    "Runs at a time, each with its share of the cores.",
    lower_bound=1,
    **there,
  )
  return lambda: Options(
    pathlib.Path(workdir.value),
    scale.value,
    read_seeds(seeds.value),
    cells.value,
    jobs.value,
  )
