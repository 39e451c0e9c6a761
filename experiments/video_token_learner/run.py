r"""TokenLearner on videos, tested on rendered_scenes.

python -m experiments.video_token_learner.run --workdir=/tmp/videos --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells and --seeds train some of them, without results.
"""

import itertools
import json
import pathlib

from absl import app, flags, logging

from experiments import study
from experiments.video_token_learner import cells, claims, pictures, summary

HERE = pathlib.Path(__file__).parent
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets a folder per run.")
_SCALE = flags.DEFINE_enum("scale", "cpu", list(cells.SCALES), "How large.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each cell.")
_CELLS = flags.DEFINE_multi_enum(
  "cells", None, list(cells.CELLS), "Only these; repeat the flag for several."
)
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "Runs at a time, each with its share of the cores.", lower_bound=1
)
flags.mark_flag_as_required("workdir")


def run_of(cell: str, seed: int, scale: str) -> study.Run:
  """The training run of a cell with a seed."""
  file = (HERE / "config.py").relative_to(study.ROOT)
  return study.Run(
    f"{scale}_{cell}_{seed}", f"{file}:cell={cell},seed={seed},scale={scale}"
  )


def in_words(report: study.Report) -> str:
  """The result of a run."""
  return f"{100 * report['settings'][0]['accuracy']:.2f} %"


def main(argv: list[str]) -> None:
  """Trains what is missing; writes results, pictures and tables."""
  del argv
  logging.set_verbosity(logging.WARNING)
  workdir, scale = pathlib.Path(_WORKDIR.value), _SCALE.value
  seeds = [int(seed) for seed in _SEEDS.value]
  names = _CELLS.value or list(cells.CELLS)
  # Seed by seed: what is there early is one of everything.
  runs = {
    (name, seed): run_of(name, seed, scale)
    for seed, name in itertools.product(seeds, names)
  }
  reports = study.train_all(list(runs.values()), workdir, _JOBS.value, in_words)
  if _CELLS.value:
    return
  rows = summary.rows(
    {name: [reports[runs[name, seed].name] for seed in seeds] for name in names}
  )
  results = {
    "command": "python -m experiments.video_token_learner.run "
    f"--workdir=WORKDIR --scale={scale} --jobs={_JOBS.value}",
    "seeds": seeds,
    "hardware": study.hardware(reports.values()),
    "seconds": sum(sum(row["train_seconds"]) for row in rows.values()),
    "rows": list(rows.values()),
    "claims": claims.claims(rows),
  }
  suffix = "" if scale == "cpu" else f"_{scale}"
  (HERE / f"results{suffix}.json").write_text(
    json.dumps(results, indent=2) + "\n"
  )
  pictures.draw(rows, HERE / f"figure{suffix}.png")
  trained = workdir / runs["learned8", seeds[0]].name
  pictures.draw_maps(trained, HERE / f"token_maps{suffix}.png")
  tables = summary.tables(results)
  shown = (
    f"![Accuracy against cost](figure{suffix}.png)\n\n{tables}\n\n"
    f"![Where 8 learned tokens look](token_maps{suffix}.gif)"
  )
  study.fill_in(HERE / "README.md", f"tables of {scale}", shown)
  print(tables)


if __name__ == "__main__":
  app.run(main)
