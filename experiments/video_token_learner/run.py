r"""TokenLearner on videos, tested on rendered_scenes.

python -m experiments.video_token_learner.run --workdir=/tmp/videos --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells trains some of them, without results; with
other --seeds the results go to WORKDIR/results.
"""

import functools
import pathlib

from absl import app, logging

from experiments import options, study, training
from experiments.video_token_learner import (
  cells,
  claims,
  pictures,
  positions,
  summary,
)

HERE = pathlib.Path(__file__).parent
_asked = options.define(cells.SCALES)


def in_words(report: study.Report) -> str:
  """The result of a run."""
  return f"{100 * report['settings'][0]['accuracy']:.2f} %"


def main(argv: list[str]) -> None:
  """Trains what is missing; writes results, pictures and tables."""
  del argv
  logging.set_verbosity(logging.WARNING)
  asked = _asked()
  names = asked.choose(cells.CELLS)
  reports = training.train_seeds(
    functools.partial(training.run_of, HERE, scale=asked.scale),
    names,
    asked.seeds,
    asked.workdir,
    asked.jobs,
    in_words,
  )
  if asked.cells:
    return
  taken = positions.of_cells(asked.workdir, asked.seeds, asked.scale)
  rows = summary.rows(reports, taken)
  folder = asked.results_folder(HERE)
  results = asked.write_results(
    folder, reports, rows.values(), claims.claims(rows)
  )
  pictures.draw(rows, folder / f"figure{asked.suffix}.png")
  tables = summary.tables(results)
  shown = [f"![Accuracy by cost](figure{asked.suffix}.png)", tables]
  for cell in pictures.SHOWN:
    name = f"token_maps_{cell}{asked.suffix}"
    run = training.run_name(cell, asked.seeds[0], asked.scale)
    pictures.draw_maps(asked.workdir / run, folder / f"{name}.png")
    shown.append(f"Where the tokens of `{cell}` look:\n\n![Maps]({name}.gif)")
  study.fill_in(
    folder / "README.md", f"tables of {asked.scale}", "\n\n".join(shown)
  )
  print(tables)


if __name__ == "__main__":
  app.run(main)
