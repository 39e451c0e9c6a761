r"""TokenLearner's claims on images, tested on rendered_scenes.

python -m experiments.token_learner_placement.run --workdir=/tmp/placement

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells and --seeds train some of them, without results.
"""

import itertools
import json
import pathlib

from absl import app, flags, logging

from experiments import study
from experiments.token_learner_placement import (
  cells,
  claims,
  config,
  pictures,
  runs,
  summary,
)

_WORKDIR = flags.DEFINE_string("workdir", None, "Gets a folder per run.")
_SCALE = flags.DEFINE_enum("scale", "cpu", list(config.SCALES), "How large.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each cell.")
_CELLS = flags.DEFINE_multi_enum(
  "cells", None, list(cells.CELLS), "Only these; repeat the flag for several."
)
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "Runs at a time, each with its share of the cores.", lower_bound=1
)
flags.mark_flag_as_required("workdir")


def main(argv: list[str]) -> None:
  """Trains what is missing; writes results, pictures and tables."""
  del argv
  logging.set_verbosity(logging.WARNING)
  workdir, scale = pathlib.Path(_WORKDIR.value), _SCALE.value
  seeds = [int(seed) for seed in _SEEDS.value]
  names = _CELLS.value or list(cells.CELLS)
  # Seed by seed: what is there early is one of everything.
  trainings = {
    (name, seed): runs.of(name, seed, scale)
    for seed, name in itertools.product(seeds, names)
  }
  reports = study.train_all(
    list(trainings.values()),
    workdir,
    _JOBS.value,
    runs.in_words,
  )
  if _CELLS.value:
    return
  by_cell = {
    name: [reports[trainings[name, seed].name] for seed in seeds]
    for name in names
  }
  rows = summary.rows(by_cell, summary.speed(config.SCALES[scale]))
  results = {
    "command": "python -m experiments.token_learner_placement.run "
    f"--workdir=WORKDIR --scale={scale} --jobs={_JOBS.value}",
    "seeds": seeds,
    "hardware": study.hardware(reports.values()),
    "seconds": sum(sum(row["train_seconds"]) for row in rows.values()),
    "rows": list(rows.values()),
    "claims": claims.claims(rows),
  }
  suffix = "" if scale == "cpu" else f"_{scale}"
  (runs.HERE / f"results{suffix}.json").write_text(
    json.dumps(results, indent=2) + "\n"
  )
  pictures.draw(rows, runs.HERE / f"figure{suffix}.png")
  tables = summary.tables(results)
  study.fill_in(runs.HERE / "README.md", f"tables of {scale}", tables)
  print(tables)


if __name__ == "__main__":
  app.run(main)
