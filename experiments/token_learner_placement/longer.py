r"""Whether a longer training changes what TokenLearner loses or gains.

python -m experiments.token_learner_placement.longer --workdir=/tmp/placement

Trains some cells of the `cpu` scale for more steps, in the workdir of the
study, whose runs are the short ones. The same command goes on where it stopped.
"""

import itertools
import json
import pathlib

from absl import app, flags, logging

from experiments import study, training
from experiments.token_learner_placement import config, lengths, runs

_WORKDIR = flags.DEFINE_string("workdir", None, "That of the study.")
flags.mark_flag_as_required("workdir")
_CELLS = flags.DEFINE_list("cells", ["at1_2"], "What to compare with baseline.")
_STEPS = flags.DEFINE_list("steps", ["1200"], "Of the longer trainings.")
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "Runs at a time, each with its share of the cores.", lower_bound=1
)


def main(argv: list[str]) -> None:
  """Trains what is missing; writes longer.json and the table."""
  del argv
  logging.set_verbosity(logging.WARNING)
  steps = [config.SCALES["cpu"].steps, *map(int, _STEPS.value)]
  names = ["baseline", *_CELLS.value]
  reports = training.train_seeds(
    lambda cell, seed: runs.of(cell[0], seed, "cpu", cell[1]),
    list(itertools.product(names, steps)),
    study.SEEDS,
    pathlib.Path(_WORKDIR.value),
    _JOBS.value,
    runs.in_words,
  )
  accuracies = {
    cell: [runs.accuracy(report) for report in of_cell]
    for cell, of_cell in reports.items()
  }
  everything = [report for of_cell in reports.values() for report in of_cell]
  results = {
    "command": "python -m experiments.token_learner_placement.longer "
    f"--workdir=WORKDIR --cells={','.join(_CELLS.value)} "
    f"--steps={','.join(_STEPS.value)} --jobs={_JOBS.value}",
    "seeds": list(study.SEEDS),
    "hardware": study.hardware(everything),
    "seconds": sum(r["train"]["seconds"] for r in everything),
    "rows": lengths.rows(accuracies),
  }
  results["claims"] = lengths.claims(results["rows"])
  text = json.dumps(results, indent=2) + "\n"
  folder = study.results_folder(
    runs.HERE,
    pathlib.Path(_WORKDIR.value),
    whole=set(_CELLS.default) <= set(_CELLS.value)
    and set(_STEPS.default) <= set(_STEPS.value),
  )
  (folder / "longer.json").write_text(text, encoding="utf-8")
  text = lengths.markdown(results["rows"])
  study.fill_in(folder / "README.md", "table of longer trainings", text)
  print(text)


if __name__ == "__main__":
  app.run(main)
