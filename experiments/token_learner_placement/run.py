r"""TokenLearner's claims on images, tested on rendered_scenes.

python -m experiments.token_learner_placement.run --workdir=/tmp/placement

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells trains some of them, without results; with
other --seeds the results go to WORKDIR/results.
"""

from absl import app, logging

from experiments import options, study, training
from experiments.token_learner_placement import (
  cells,
  claims,
  config,
  pictures,
  runs,
  summary,
)

_asked = options.define(config.SCALES)


def main(argv: list[str]) -> None:
  """Trains what is missing; writes results, pictures and tables."""
  del argv
  logging.set_verbosity(logging.WARNING)
  asked = _asked()
  reports = training.train_seeds(
    lambda cell, seed: runs.of(cell, seed, asked.scale),
    asked.choose(cells.CELLS),
    asked.seeds,
    asked.workdir,
    asked.jobs,
    runs.in_words,
  )
  if asked.cells:
    return
  rows = summary.rows(reports, summary.speed(config.SCALES[asked.scale]))
  folder = asked.results_folder(runs.HERE)
  results = asked.write_results(
    folder, reports, rows.values(), claims.claims(rows)
  )
  pictures.draw(rows, folder / f"figure{asked.suffix}.png")
  tables = summary.tables(results)
  study.fill_in(folder / "README.md", f"tables of {asked.scale}", tables)
  print(tables)


if __name__ == "__main__":
  app.run(main)
