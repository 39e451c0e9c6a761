r"""Both dials in one model, against each alone and against fixed models.

python -m experiments.two_dials.run --workdir=/tmp/two_dials --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells trains some of them, without results; with
other --seeds the results go to WORKDIR/results.
"""

import functools
import pathlib

from absl import app, logging

from experiments import options, study, training
from experiments.two_dials import cells, claims, pictures, planes, summary
from tokenlearner_flexivit.inference import Predictor

HERE = pathlib.Path(__file__).parent
_asked = options.define(cells.SCALES)


def accuracies(report: study.Report) -> str:
  """The result of a run in a few words."""
  values = [100 * row["accuracy"] for row in report["settings"]]
  if len(values) == 1:
    return f"{values[0]:.1f} %"
  return f"{min(values):.1f} to {max(values):.1f} %"


def main(argv: list[str]) -> None:
  """Trains what is missing; writes results, the picture and tables."""
  del argv
  logging.set_verbosity(logging.WARNING)
  asked = _asked()
  scale = cells.SCALES[asked.scale]
  known = cells.of(scale)
  reports = training.train_seeds(
    functools.partial(training.run_of, HERE, scale=asked.scale),
    asked.choose(known),
    asked.seeds,
    asked.workdir,
    asked.jobs,
    accuracies,
  )
  if asked.cells:
    return
  trained = {
    name: planes.of_reports(known[name], of_cell)
    for name, of_cell in reports.items()
  }
  run = training.run_name("two_dials", asked.seeds[0], asked.scale)
  speed = summary.speed(Predictor.load(asked.workdir / run))
  folder = asked.results_folder(HERE)
  results = asked.write_results(
    folder,
    reports,
    summary.rows(scale, trained, speed),
    claims.claims(
      scale, trained, speed, planes.of_flexivit_curves(scale, asked.suffix)
    ),
  )
  pictures.draw(scale, trained, speed, folder / f"figure{asked.suffix}.png")
  text = summary.tables(results["rows"], results["claims"])
  study.fill_in(folder / "README.md", f"tables of {asked.scale}", text)
  print(text)


if __name__ == "__main__":
  app.run(main)
