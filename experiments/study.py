"""The engine of the studies: a `Study` declares one, `Study.start` runs it.

All studies have one command line, train what is missing, and lead to the same
files: results.json, tables in the README, figures.
"""

import dataclasses
import os
import pathlib
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags, logging

from experiments import seeds, training
from experiments.training import ROOT, Report
from tokenlearner_flexivit.figures import drawing
from tokenlearner_flexivit.run import workdir as workdir_lib

# The flags belong to the study that starts: its --help shows them.
flags.disclaim_key_flags()

SEEDS = (0, 1, 2)  # The committed results are from these.
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Asked:
  """The values of a study's flags.

  Attributes:
    command: that asked, with WORKDIR for the folders of runs.
    workdir: gets a folder per run; None if the study trains nothing.
    scale: its name.
    seeds: of each cell.
    cells: only these, without results; none for all.
    jobs: runs at a time.
    own: values of the study's own flags, by name.
  """

  command: str = ""
  workdir: pathlib.Path | None = None
  scale: str = ""
  seeds: Sequence[int] = ()
  cells: Sequence[str] = ()
  jobs: int = 1
  own: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Done(NamedTuple):
  """A study whose training is over.

  Attributes:
    asked: what it was asked for.
    scale: how large it is, one of `Study.scales`.
    reports: of the seeds, by cell.
  """

  asked: Asked
  scale: Any
  reports: Mapping[str, Sequence[Report]]

  def folder(self, cell: str, seed: int | None = None) -> pathlib.Path:
    """Returns the folder of a cell's run; by default of the first seed."""
    seed = self.asked.seeds[0] if seed is None else seed
    name = training.run_name(cell, seed, self.asked.scale)
    return self.asked.workdir / name

  def row(self, cell: str, baseline: str) -> Row:
    """Returns the results of a model of one setting from its reports.

    Args:
      cell: of the model.
      baseline: the cell whose cost is 1.
    """
    reports = self.reports[cell]
    settings = [report["settings"][0] for report in reports]
    gmacs = settings[0]["gmacs"]
    return {
      "num_params": reports[0]["num_params"],
      "accuracy": seeds.spread(s["accuracy"] for s in settings),
      "gmacs": gmacs,
      "gmacs_ratio": gmacs / self.reports[baseline][0]["settings"][0]["gmacs"],
      "train_seconds": [report["train"]["seconds"] for report in reports],
    }


class Outcome(NamedTuple):
  """The results of a study: tables and figures need nothing else.

  Attributes:
    scale_name: how large it was.
    scale: one of `Study.scales`.
    suffix: ends the names of the scale's files, before the dot.
    seeds: of results.json.
    rows: of results.json.
    claims: of results.json.
  """

  scale_name: str
  scale: Any
  suffix: str
  seeds: Sequence[Any]
  rows: Sequence[Row]
  claims: Sequence[Row] = ()


def has_all_seeds(asked: Asked) -> bool:
  """Tells whether there are at least the seeds of the committed results."""
  return set(SEEDS) <= set(asked.seeds)


def in_workdir(asked: Asked, cell: str) -> dict[str, Any]:
  """Returns the arguments of a cell that starts from runs in the workdir."""
  return {"cell": cell, "workdir": asked.workdir.absolute()}


@dataclasses.dataclass(frozen=True)
class Study:
  """A study, declared.

  Attributes:
    name: its folder in experiments.
    rows: returns the rows of results.json; measures what reports lack.
    claims: returns the claims, made by `seeds.claim`.
    tables: returns texts for the README, by the mark that they stand at.
    figures: returns figures by file, relative to the study's folder.
    pictures: draws figures that need the trained models into a folder.
    scales: how large it can be, by name; the first is the default.
    cells: returns the names of the trainings, each with those that must come
      before it; None if nothing is trained.
    arguments: returns a cell's arguments for the study's config.py; seed and
      scale are added to them.
    own_flags: defines the study's own flags and returns them. They replace
      common flags of the same name.
    is_whole: tells whether the run covers all that the committed results are
      from.
    seeds: returns `seeds` of results.json.
    workdir: returns the folder for results of less than the whole.
    dpi: of the figures.
    module: the module to start; None for experiments.NAME.run.
    file: of the results, without its ending.
  """

  name: str
  rows: Callable[[Done], Iterable[Row]]
  claims: Callable[[Outcome], Sequence[Row]]
  tables: Callable[[Outcome], Mapping[str, str]]
  figures: Callable[[Outcome], Mapping[str, drawing.Figure]] = lambda _: {}
  pictures: Callable[[Done, Outcome, pathlib.Path], None] = lambda *_: None
  scales: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  cells: Callable[[Asked, Any], Mapping[str, Sequence[str]]] | None = None
  arguments: Callable[[Asked, str], Mapping[str, Any]] = lambda asked, cell: {
    "cell": cell
  }
  own_flags: Callable[[flags.FlagValues], Sequence[flags.FlagHolder]] = (
    lambda values: ()
  )
  is_whole: Callable[[Asked], bool] = has_all_seeds
  seeds: Callable[[Asked], Sequence[Any]] = lambda asked: asked.seeds
  workdir: Callable[[Asked], pathlib.Path] = lambda asked: asked.workdir
  dpi: int = 120
  module: str | None = None
  file: str = "results"

  @property
  def folder(self) -> pathlib.Path:
    """Returns the folder of config.py, README and committed results."""
    return ROOT / "experiments" / self.name

  def start(self) -> None:
    """Runs the command line of the study."""
    asked = self.define_flags()
    app.run(lambda argv: self.run(asked()))

  def define_flags(
    self, values: flags.FlagValues = flags.FLAGS
  ) -> Callable[[], Asked]:
    """Defines the flags of the study.

    Args:
      values: where to define them.

    Returns:
      A function that returns their values once the command line is parsed.
    """
    own = {holder.name: holder for holder in self.own_flags(values)}
    common = {} if self.cells is None else self._common_flags(values, own)

    def asked() -> Asked:
      every = [*common.values(), *own.values()]
      shown = [f"--{flag.name}={_shown(flag)}" for flag in every if flag.value]
      module = self.module or f"experiments.{self.name}.run"
      return Asked(
        command=" ".join(["python -m", module, *shown]),
        own={name: flag.value for name, flag in own.items()},
        **{
          name: _PARSED.get(name, lambda value: value)(flag.value)
          for name, flag in common.items()
        },
      )

    return asked

  def _common_flags(
    self, values: flags.FlagValues, own: Iterable[str]
  ) -> dict[str, flags.FlagHolder]:
    scales = list(self.scales)
    every = {
      "workdir": (flags.DEFINE_string, None, "Gets a folder per run."),
      "scale": (flags.DEFINE_enum, scales[0], scales, "How large."),
      "seeds": (flags.DEFINE_list, list(map(str, SEEDS)), "Of each cell."),
      "cells": (flags.DEFINE_list, [], "Only these; without results."),
      "jobs": (flags.DEFINE_integer, 1, "Runs at a time; they share cores.", 1),
    }
    return {
      name: define(name, *args, flag_values=values, required=name == "workdir")
      for name, (define, *args) in every.items()
      if name not in own
    }

  def run(self, asked: Asked) -> None:
    """Trains what is missing; writes results, tables and figures."""
    logging.set_verbosity(logging.WARNING)
    begin = time.perf_counter()
    scale = self.scales.get(asked.scale)
    done = Done(asked, scale, self._train(asked, scale))
    if asked.cells:
      return
    rows = list(self.rows(done))
    reports = [report for cell in done.reports.values() for report in cell]
    outcome = self.judge(asked.scale, self.seeds(asked), rows)
    folder = self._results_folder(asked)
    self.write(
      folder,
      outcome,
      command=asked.command,
      hardware=_hardware(reports),
      seconds=sum(report["train"]["seconds"] for report in reports)
      or time.perf_counter() - begin,
    )
    self.pictures(done, outcome, folder)

  def _train(self, asked: Asked, scale: Any) -> dict[str, list[Report]]:
    if self.cells is None:
      return {}
    cells = self.cells(asked, scale)
    if unknown := set(asked.cells) - set(cells):
      raise app.UsageError(
        f"--cells={','.join(sorted(unknown))} is unknown. Known: "
        f"{', '.join(cells)}."
      )
    return training.train_cells(
      cells,
      asked.cells or cells,
      asked.seeds,
      lambda cell, seed: self.training_run(asked, cell, seed),
      asked.workdir,
      asked.jobs,
    )

  def training_run(self, asked: Asked, cell: str, seed: int) -> training.Run:
    """Returns the training of a cell with a seed."""
    arguments = dict(seed=seed, scale=asked.scale)
    arguments = {**self.arguments(asked, cell), **arguments}
    text = ",".join(f"{key}={value}" for key, value in arguments.items())
    return training.Run(
      training.run_name(cell, seed, asked.scale),
      f"experiments/{self.name}/config.py:{text}",
    )

  def judge(
    self, scale: str, seeds_of_rows: Sequence[Any], rows: Sequence[Row]
  ) -> Outcome:
    """Returns the outcome of rows of results.json."""
    is_default = scale == next(iter(self.scales), scale)
    outcome = Outcome(
      scale,
      self.scales.get(scale),
      "" if is_default else f"_{scale}",
      seeds_of_rows,
      rows,
    )
    return outcome._replace(claims=self.claims(outcome))

  def _results_folder(self, asked: Asked) -> pathlib.Path:
    """Returns the folder that results, figures and tables are written to.

    The committed results are those of the whole study. A quick look, such as
    one with a single seed, replaces none of them: its results go to the
    workdir.
    """
    if self.is_whole(asked):
      return self.folder
    own = self.workdir(asked) / "results" / self.name
    own.mkdir(parents=True, exist_ok=True)
    shutil.copy(self.folder / "README.md", own)  # Its tables are filled in.
    print(
      f"This is less than the whole study: results go to {own}.", flush=True
    )
    return own

  def write(self, folder: pathlib.Path, outcome: Outcome, **about: Any) -> None:
    """Writes results, figures, and the tables of the README.

    Args:
      folder: gets them; has the README.
      outcome: of the study.
      **about: command, hardware and seconds of results.json.
    """
    results = {
      "command": about["command"],
      "seeds": outcome.seeds,
      "hardware": about["hardware"],
      "seconds": about["seconds"],
      "rows": outcome.rows,
      "claims": outcome.claims,
    }
    file = folder / f"{self.file}{outcome.suffix}.json"
    workdir_lib.write_json(file, results)
    for name, figure in self.figures(outcome).items():
      (folder / name).parent.mkdir(exist_ok=True)
      drawing.save(figure, folder / name, dpi=self.dpi)
    for mark, text in self.tables(outcome).items():
      fill_in(folder / "README.md", mark, text)
      print(text)


def read_seeds(values: Sequence[str]) -> list[int]:
  """Returns the seeds that a flag lists.

  Raises:
    app.UsageError: one is no whole number, or is repeated: its runs would be
      counted several times, and the spread would be too small.
  """
  text = ",".join(values)
  try:
    numbers = [int(value) for value in values]
  except ValueError:
    raise app.UsageError(f"--seeds={text} must be whole numbers.") from None
  if not numbers or len(set(numbers)) < len(numbers):
    raise app.UsageError(
      f"--seeds={text} must be different seeds, one or more."
    )
  return numbers


_PARSED = {"workdir": pathlib.Path, "seeds": read_seeds}


def _shown(flag: flags.FlagHolder) -> str:
  """Returns a flag's value without the place of folders."""
  if flag.name == "workdir":
    return "WORKDIR"
  values = flag.value if isinstance(flag.value, list) else [flag.value]
  return ",".join(re.sub(r"^.*/(?=.)", "WORKDIR/", str(v)) for v in values)


def _hardware(reports: Sequence[Report]) -> str:
  """Returns what the runs ran on; without any, what this program runs on."""
  kinds = sorted({report["hardware"] for report in reports})
  if not reports:
    kinds = [f"{jax.device_count()} x {jax.devices()[0].device_kind}"]
  return f"{', '.join(kinds)} ({platform.machine()}, {os.cpu_count()} cores)"


def tidy(axes: Any) -> None:
  """Gives axes of Matplotlib a pale grid, and a frame on two sides alone."""
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: drawing.Figure, axes: Any) -> None:
  """Puts the legend of the lines in some axes below the whole figure."""
  handles, labels = axes.get_legend_handles_labels()
  figure.legend(
    handles, labels, loc="outside lower center", ncols=3, frameon=False
  )


def fill_in(readme: pathlib.Path, mark: str, text: str) -> None:
  """Puts a text between the comments `MARK` and `end of MARK` of a README.

  Raises:
    ValueError: the README does not contain each of them once.
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
