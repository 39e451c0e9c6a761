"""Joins what the study's runs report."""

from collections.abc import Mapping, Sequence

from experiments import study
from experiments.video_token_learner import cells
from tokenlearner_flexivit.figures import table


def rows(
  reports: Mapping[str, Sequence[study.Report]],
  positions: Mapping[str, Sequence[float]],
) -> dict[str, study.Row]:
  """A row per cell.

  Args:
    reports: of the seeds, by cell.
    positions: that a token is an average of, see `positions.of_cells`.
  """
  base = reports[cells.BASELINE][0]["settings"][0]
  found = {}
  for name, cell in cells.CELLS.items():
    settings = [report["settings"][0] for report in reports[name]]
    found[name] = {
      "cell": name,
      "model": cell.text,
      "num_tokens": cell.num_tokens,
      "first": cell.first,
      "positions": study.spread(positions[name]) if name in positions else None,
      "accuracy": study.spread(s["accuracy"] for s in settings),
      "gmacs": settings[0]["gmacs"],
      "gmacs_ratio": settings[0]["gmacs"] / base["gmacs"],
      "num_params": reports[name][0]["num_params"],
      "train_seconds": [r["train"]["seconds"] for r in reports[name]],
    }
  return found


def tables(results: study.Row) -> str:
  """The tables of the README: cells, then claims."""
  shown = []
  for row in results["rows"]:
    accuracy, positions = row["accuracy"], row["positions"]
    shown.append(
      {
        "cell": f"`{row['cell']}`",
        "test accuracy, mean ± std of seeds": study.percent(accuracy, 2),
        "10⁶ multiply-adds per clip": f"{1000 * row['gmacs']:.1f}",
        "of all tokens'": f"{100 * row['gmacs_ratio']:.0f} %",
        "positions per token": (
          "-" if positions is None else f"{positions['mean']:.0f}"
        ),
      }
    )
  claims = study.table_of_claims(results["claims"])
  return f"{table.markdown(shown)}\n\n{claims}"
