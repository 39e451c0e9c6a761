"""Joins what the study's runs report."""

from collections.abc import Mapping, Sequence

from experiments import study
from experiments.video_token_learner import cells
from tokenlearner_flexivit import table


def rows(
  reports: Mapping[str, Sequence[study.Report]],
) -> dict[str, study.Row]:
  """A row per cell.

  Args:
    reports: of the seeds, by cell.
  """
  base = reports[cells.BASELINE][0]["settings"][0]
  found = {}
  for name, cell in cells.CELLS.items():
    settings = [report["settings"][0] for report in reports[name]]
    found[name] = {
      "cell": name,
      "model": cell.text,
      "num_tokens": cell.num_tokens,
      "accuracy": study.spread(s["accuracy"] for s in settings),
      "gmacs": settings[0]["gmacs"],
      "gmacs_ratio": settings[0]["gmacs"] / base["gmacs"],
      "num_params": reports[name][0]["num_params"],
      "train_seconds": [r["train"]["seconds"] for r in reports[name]],
    }
  return found


def tables(results: study.Row) -> str:
  """The tables of the README: cells, then claims."""
  shown = [
    {
      "model": row["model"],
      "test accuracy, mean ± std of seeds": (
        f"{100 * row['accuracy']['mean']:.2f} "
        f"± {100 * row['accuracy']['std']:.2f} %"
      ),
      "10⁶ multiply-adds per clip": f"{1000 * row['gmacs']:.1f}",
      "of all tokens'": f"{100 * row['gmacs_ratio']:.0f} %",
    }
    for row in results["rows"]
  ]
  claims = study.table_of_claims(results["claims"])
  return f"{table.markdown(shown)}\n\n{claims}"
