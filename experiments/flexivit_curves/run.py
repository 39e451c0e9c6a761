r"""FlexiViT's image-classification figures, made again.

python -m experiments.flexivit_curves.run --workdir=/tmp/curves --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells and --seeds train some of them (and what these
need), without results.
"""

import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping

from absl import app, flags, logging

from experiments import study
from experiments.flexivit_curves import (
  cells,
  claims,
  config,
  curves,
  letters,
  pictures,
  resized,
  scales,
  summary,
)

HERE = pathlib.Path(__file__).parent
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets a folder per run.")
_SCALE = flags.DEFINE_enum("scale", "cpu", list(scales.SCALES), "How large.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each cell.")
_CELLS = flags.DEFINE_list("cells", [], "Only these, joined by commas.")
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "Runs at a time, each with its share of the cores.", lower_bound=1
)
flags.mark_flag_as_required("workdir")


def run_of(
  cell: str, seed: int, scale: str, workdir: pathlib.Path
) -> study.Run:
  """The training run of a cell with a seed."""
  file = (HERE / "config.py").relative_to(study.ROOT)
  return study.Run(
    config.run_name(cell, seed, scale),
    f"{file}:cell={cell},seed={seed},scale={scale},workdir={workdir.absolute()}",
  )


def rounds_of(
  names: Iterable[str], known: Mapping[str, cells.Cell]
) -> list[list[str]]:
  """Orders cells: what those of a round need is in the rounds before."""
  wanted, rounds = set(names), []
  for name in reversed(known):
    if name in wanted:
      wanted.update(known[name].needs)
  while wanted:
    done = {name for names in rounds for name in names}
    ready = [n for n in known if n in wanted and set(known[n].needs) <= done]
    rounds.append(ready)
    wanted -= set(ready)
  return rounds


def train(
  names: Iterable[str], seeds: Iterable[int], scale: str, workdir: pathlib.Path
) -> dict[str, list[study.Report]]:
  """Trains cells with all seeds; returns the reports of the seeds by cell."""
  seeds, reports = list(seeds), {}
  for ready in rounds_of(names, cells.of(scales.SCALES[scale])):
    # Seed by seed: what is there early is one of everything.
    runs = {
      (name, seed): run_of(name, seed, scale, workdir)
      for seed, name in itertools.product(seeds, ready)
    }
    trained = study.train_all(
      list(runs.values()), workdir, _JOBS.value, _accuracies
    )
    for name in ready:
      reports[name] = [trained[runs[name, seed].name] for seed in seeds]
  return reports


def _accuracies(report: study.Report) -> str:
  shown = "  ".join(
    f"/{setting['patch_size']} {100 * setting['accuracy']:.1f}"
    for setting in report["settings"]
  )
  return f"{shown} %"


def try_all(
  seeds: Iterable[int], name: str, workdir: pathlib.Path
) -> list[study.Row]:
  """Evaluates fixed models at other sizes, or reads what was found before."""
  scale = scales.SCALES[name]
  work = {}
  for trial in resized.trials(scale):
    along = "_along" if trial.scaled else ""
    file = workdir / f"{name}_{trial.trained}_at_{trial.size}{along}.json"
    runs = [
      workdir / config.run_name(cells.fixed(trial.trained), seed, name)
      for seed in seeds
    ]
    work[file.stem] = lambda f=file, t=trial, r=runs: study.stored(
      f, lambda: resized.evaluate(t, scale, r)
    )
  found = study.do_all(work, 1, _methods)
  return [row for rows in found.values() for row in rows]


def _methods(rows: Iterable[study.Row]) -> str:
  shown = (
    f"{row['method']} {100 * study.spread(row['accuracies'])['mean']:.1f}"
    for row in rows
  )
  return f"{', '.join(shown)} %"


def main(argv: list[str]) -> None:
  """Trains what is missing; writes results, pictures and sections."""
  del argv
  logging.set_verbosity(logging.WARNING)
  workdir, name = pathlib.Path(_WORKDIR.value), _SCALE.value
  scale = scales.SCALES[name]
  seeds = [int(seed) for seed in _SEEDS.value]
  known = cells.of(scale)
  if unknown := set(_CELLS.value) - set(known):
    raise app.UsageError(
      f"--cells={','.join(sorted(unknown))}: known are {', '.join(known)}."
    )
  reports = train(_CELLS.value or known, seeds, name, workdir)
  if _CELLS.value:
    return
  trained = {cell: curves.of_reports(r) for cell, r in reports.items()}
  rows = try_all(seeds, name, workdir)
  keys = {(r["trained"], r["method"], r["scaled"]) for r in rows}
  tried = {
    (size, method, scaled): curves.of_trials(
      rows, trained=size, method=method, scaled=scaled
    )
    for size, method, scaled in keys
  }
  found = claims.claims(scale, trained, tried)
  fast = summary.speed(scale)
  everything = [report for of_cell in reports.values() for report in of_cell]
  results = {
    "command": "python -m experiments.flexivit_curves.run --workdir=WORKDIR "
    f"--scale={name} --seeds={','.join(_SEEDS.value)} --jobs={_JOBS.value}",
    "seeds": seeds,
    "hardware": study.hardware(everything),
    "seconds": sum(report["train"]["seconds"] for report in everything),
    "rows": summary.rows(trained, rows, fast),
    "claims": found,
  }
  suffix = "" if name == "cpu" else f"_{name}"
  (HERE / f"results{suffix}.json").write_text(
    json.dumps(results, indent=2) + "\n"
  )
  figures = pathlib.PurePath(f"figures{suffix}")
  (HERE / figures).mkdir(exist_ok=True)
  items = letters.of(scale, trained, tried)
  for letter in items:
    pictures.draw(letter, HERE / figures / pictures.file_name(letter))
  pictures.draw_speed(
    fast,
    {
      "FlexiViT": trained["flexi"],
      "distilled FlexiViT": trained["distilled_from_teacher"],
      "a ViT for each size": curves.of_fixed(scale, trained),
    },
    HERE / figures / "speed.png",
  )
  text = summary.sections(items, found, fast, figures)
  study.fill_in(HERE / "README.md", f"results of {name}", text)
  print(text)


if __name__ == "__main__":
  app.run(main)
