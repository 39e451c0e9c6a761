"""The quickstart with three seeds: mean and spread of its accuracy.

python -m experiments.quickstart.run --workdir=/tmp/quickstart

Restartable: a seed whose report is there is not run again.
"""

import statistics
from collections.abc import Sequence

from experiments import seeds, study
from tokenlearner_flexivit.figures import drawing, table

# What the quickstart promises, in test accuracy by patch size.
EXPECTED = {24: 0.94, 16: 0.94, 12: 0.94, 8: 0.97, 6: 0.97, 4: 0.97}


def rows(done: study.Done) -> list[study.Row]:
  """Returns mean and range over the seeds for each patch size."""
  reports = done.reports["quickstart"]
  sizes = []
  for settings in zip(*(r["settings"] for r in reports), strict=True):
    accuracy = [s["accuracy"] for s in settings]
    sizes.append(
      {
        "patch_size": settings[0]["patch_size"],
        "seq_len": settings[0]["seq_len"],
        "gmacs": settings[0]["gmacs"],
        "accuracy": statistics.fmean(accuracy),
        "accuracy_min": min(accuracy),
        "accuracy_max": max(accuracy),
        "accuracy_by_seed": accuracy,
        "images_per_s": statistics.median(s["images_per_s"] for s in settings),
      }
    )
  return sizes


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns a claim for each patch size."""
  return [
    seeds.claim(
      f"test accuracy at patch size {row['patch_size']}",
      "this project's goal for the quickstart",
      f">= {EXPECTED[row['patch_size']]}",
      row["accuracy"],
      [a - EXPECTED[row["patch_size"]] for a in row["accuracy_by_seed"]],
    )
    for row in outcome.rows
  ]


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the table of the README."""
  return {
    "results": table.markdown(
      [
        {
          "patch size": row["patch_size"],
          "tokens": row["seq_len"],
          "multiply-adds per image": f"{1000 * row['gmacs']:.1f} M",
          "test accuracy, mean": f"{100 * row['accuracy']:.2f} %",
          "lowest to highest seed": f"{100 * row['accuracy_min']:.2f} to "
          f"{100 * row['accuracy_max']:.2f} %",
          "at least, as promised": f"{claim['expected'].split()[1]}: "
          f"{claim['verdict']}",
        }
        for row, claim in zip(outcome.rows, outcome.claims, strict=True)
      ]
    )
  }


def draw(rows: Sequence[study.Row]) -> drawing.Figure:
  """Returns accuracy against cost with the range over the seeds."""
  figure = drawing.Figure(figsize=(7, 4), layout="constrained")
  axes = figure.subplots()
  mean = [100 * r["accuracy"] for r in rows]
  low = [m - 100 * r["accuracy_min"] for m, r in zip(mean, rows, strict=True)]
  high = [100 * r["accuracy_max"] - m for m, r in zip(mean, rows, strict=True)]
  cost = [1000 * r["gmacs"] for r in rows]
  axes.errorbar(
    cost, mean, yerr=[low, high], fmt="o-", color="#0072b2", capsize=3
  )
  for row, x in zip(rows, cost, strict=True):
    axes.annotate(
      f"patch {row['patch_size']}\n{row['seq_len']} tokens",
      (x, 100 * row["accuracy_min"]),
      textcoords="offset points",
      xytext=(0, -6),
      ha="center",
      va="top",
      fontsize=9,
    )
  axes.set_xscale("log")
  axes.set_xticks(cost, [f"{x:.3g}" for x in cost])
  axes.xaxis.set_minor_locator(drawing.ticker.NullLocator())
  axes.set_xlabel("multiply-adds per image in 10⁶ (log scale)")
  axes.set_ylabel("test accuracy in %")
  axes.set_title("Digits, one set of weights: the patch size sets the cost")
  axes.set_ylim(100 * min(r["accuracy_min"] for r in rows) - 2, 100)
  axes.margins(x=0.1)
  study.tidy(axes)
  return figure


STUDY = study.Study(
  name="quickstart",
  scales={"cpu": None},
  cells=lambda asked, scale: {"quickstart": ()},
  rows=rows,
  claims=claims,
  tables=tables,
  figures=lambda outcome: {"figure.png": draw(outcome.rows)},
)

if __name__ == "__main__":
  STUDY.start()
