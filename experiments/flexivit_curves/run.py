r"""FlexiViT's image-classification figures, made again.

python -m experiments.flexivit_curves.run --workdir=/tmp/curves --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells and --seeds train some of them (and what these
need), without results.
"""

import pathlib
from collections.abc import Iterable, Mapping

from absl import app, logging

from experiments import options, study, training
from experiments.flexivit_curves import (
  cells,
  claims,
  curves,
  letters,
  pictures,
  resized,
  scales,
  summary,
)

HERE = pathlib.Path(__file__).parent
_asked = options.define(scales.SCALES)


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


def train(asked: options.Options) -> dict[str, list[study.Report]]:
  """Trains what is missing; returns the reports of the seeds by cell."""

  def run_of(cell: str, seed: int) -> training.Run:
    workdir = asked.workdir.absolute()
    return training.run_of(HERE, cell, seed, asked.scale, workdir=workdir)

  known, reports = cells.of(scales.SCALES[asked.scale]), {}
  for ready in rounds_of(asked.choose(known), known):
    reports |= training.train_seeds(
      run_of, ready, asked.seeds, asked.workdir, asked.jobs, _accuracies
    )
  return reports


def _accuracies(report: study.Report) -> str:
  shown = "  ".join(
    f"/{setting['patch_size']} {100 * setting['accuracy']:.1f}"
    for setting in report["settings"]
  )
  return f"{shown} %"


def try_all(asked: options.Options) -> list[study.Row]:
  """Evaluates fixed models at other sizes, or reads what was found before."""
  scale = scales.SCALES[asked.scale]
  seeds = "_".join(map(str, asked.seeds))
  work = {}
  for trial in resized.trials(scale):
    along = "_along" if trial.scaled else ""
    name = f"{asked.scale}_{trial.trained}_at_{trial.size}{along}_{seeds}.json"
    file, cell = asked.workdir / name, cells.fixed(trial.trained)
    runs = [
      asked.workdir / training.run_name(cell, seed, asked.scale)
      for seed in asked.seeds
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
  asked = _asked()
  scale = scales.SCALES[asked.scale]
  reports = train(asked)
  if asked.cells:
    return
  trained = {cell: curves.of_reports(r) for cell, r in reports.items()}
  rows = try_all(asked)
  keys = {(r["trained"], r["method"], r["scaled"]) for r in rows}
  tried = {
    (size, method, scaled): curves.of_trials(
      rows, trained=size, method=method, scaled=scaled
    )
    for size, method, scaled in keys
  }
  found = claims.claims(scale, trained, tried)
  fast = summary.speed(scale)
  folder = asked.results_folder(HERE)
  asked.write_results(folder, reports, summary.rows(trained, rows, fast), found)
  figures = pathlib.PurePath(f"figures{asked.suffix}")
  (folder / figures).mkdir(exist_ok=True)
  items = letters.of(scale, trained, tried)
  for letter in items:
    pictures.draw(letter, folder / figures / pictures.file_name(letter))
  pictures.draw_speed(
    fast,
    {
      "FlexiViT": trained["flexi"],
      "distilled FlexiViT": trained["distilled_from_teacher"],
      "a ViT for each size": curves.of_fixed(scale, trained),
    },
    folder / figures / "speed.png",
  )
  text = summary.sections(items, found, fast, figures)
  study.fill_in(folder / "README.md", f"results of {asked.scale}", text)
  print(text)


if __name__ == "__main__":
  app.run(main)
