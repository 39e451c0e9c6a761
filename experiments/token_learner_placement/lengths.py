"""Compares models after trainings of several lengths."""

from experiments import study
from tokenlearner_flexivit.figures import table


def rows(
  accuracies: dict[tuple[str, int], list[float]],
) -> list[study.Row]:
  """A row for each cell and training length.

  Args:
    accuracies: by cell and number of steps, of the seeds.
  """
  found = []
  for (cell, steps), values in accuracies.items():
    mean, error = study.paired_difference(values, accuracies["baseline", steps])
    found.append(
      {
        "cell": cell,
        "steps": steps,
        "accuracy": study.spread(values),
        "over_baseline": {"mean": mean, "error": error},
      }
    )
  return found


def claims(found: list[study.Row]) -> list[study.Row]:
  """Judges the longest training of each model but the baseline."""
  longest = max(row["steps"] for row in found)
  return [
    {
      "claim": f"{row['cell'].replace('_', '/')} is within 1 point of the "
      f"baseline after {longest} steps",
      "source": "this project's goal",
      "expected": "above -1 points",
      "measured": _points(row),
      "holds": row["over_baseline"]["mean"] > -1,
    }
    for row in found
    if row["steps"] == longest and row["cell"] != "baseline"
  ]


def _points(row: study.Row) -> str:
  over = row["over_baseline"]
  return study.plus_minus(over["mean"], over["error"], "+.2f")


def markdown(found: list[study.Row]) -> str:
  """The table of the README."""
  return table.markdown(
    [
      {
        "model": row["cell"].replace("_", "/"),
        "steps": row["steps"],
        "test accuracy, mean ± std of seeds": study.percent(row["accuracy"], 2),
        "points over the baseline": _points(row),
      }
      for row in found
    ]
  )
