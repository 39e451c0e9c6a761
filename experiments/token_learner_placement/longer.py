r"""Whether a longer training changes what TokenLearner loses or gains.

python -m experiments.token_learner_placement.longer --workdir=/tmp/placement

Trains some cells of the study for more steps too, in its workdir, whose runs
are the short ones. The same command goes on where it stopped.
"""

from typing import Any

from absl import flags

from experiments import seeds, study
from experiments.token_learner_placement import config
from tokenlearner_flexivit.figures import table

_CELLS, _STEPS = ["at1_2"], ["1200"]


def _flags(values: flags.FlagValues) -> list[flags.FlagHolder]:
  return [
    flags.DEFINE_list(
      "cells", _CELLS, "To compare with the baseline.", flag_values=values
    ),
    flags.DEFINE_list(
      "steps", _STEPS, "Of the longer trainings.", flag_values=values
    ),
  ]


def trainings(
  asked: study.Asked, scale: config.Scale
) -> dict[str, tuple[str, int]]:
  """Returns cell and steps of each training, by name."""
  lengths = {}
  for cell in ("baseline", *asked.own["cells"]):
    lengths[cell] = cell, scale.steps
    for steps in map(int, asked.own["steps"]):
      lengths[f"{cell}_{steps}"] = cell, steps
  return lengths


def _arguments(asked: study.Asked, name: str) -> dict[str, Any]:
  cell, steps = trainings(asked, config.SCALES[asked.scale])[name]
  return dict(cell=cell) if cell == name else dict(cell=cell, steps=steps)


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each cell and training length."""
  accuracies = {
    which: [report["settings"][0]["accuracy"] for report in done.reports[name]]
    for name, which in trainings(done.asked, done.scale).items()
  }
  compared = []
  for (cell, steps), values in accuracies.items():
    over = seeds.points(values, accuracies["baseline", steps])
    mean, error = seeds.mean_and_error(over)
    compared.append(
      {
        "cell": cell,
        "steps": steps,
        "accuracy": seeds.spread(values),
        "over_baseline": {"mean": mean, "error": error},
      }
    )
  return compared


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Judges the longest training of each model but the baseline."""
  longest = max(row["steps"] for row in outcome.rows)
  last = {r["cell"]: r for r in outcome.rows if r["steps"] == longest}
  baseline = last.pop("baseline")["accuracy"]["by_seed"]
  judged = []
  for cell, row in last.items():
    over = seeds.points(row["accuracy"]["by_seed"], baseline)
    judged.append(
      seeds.claim(
        f"{cell.replace('_', '/')} is within 1 point of the baseline after "
        f"{longest} steps",
        "this project's goal",
        "above -1 points",
        _points(row),
        [value + 1 for value in over],
      )
    )
  return judged


def _points(row: study.Row) -> str:
  over = row["over_baseline"]
  return seeds.plus_minus(over["mean"], over["error"], "+.2f")


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the table of the README."""
  trained = [
    {
      "model": row["cell"].replace("_", "/"),
      "steps": row["steps"],
      "test accuracy, mean ± std of seeds": seeds.percent(row["accuracy"], 2),
      "points over the baseline": _points(row),
    }
    for row in outcome.rows
  ]
  return {"table of longer trainings": table.markdown(trained)}


STUDY = study.Study(
  name="token_learner_placement",
  module="experiments.token_learner_placement.longer",
  file="longer",
  scales={"cpu": config.SCALES["cpu"]},
  cells=lambda asked, scale: dict.fromkeys(trainings(asked, scale), ()),
  own_flags=_flags,
  arguments=_arguments,
  is_whole=lambda asked: (
    study.has_all_seeds(asked)
    and set(_CELLS) <= set(asked.own["cells"])
    and set(_STEPS) <= set(asked.own["steps"])
  ),
  rows=rows,
  claims=claims,
  tables=tables,
)

if __name__ == "__main__":
  STUDY.start()
