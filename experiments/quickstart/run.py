"""The quickstart with three seeds: mean and spread of its accuracy.

python -m experiments.quickstart.run --workdir=/tmp/quickstart

Restartable: a seed whose report is there is not run again.
"""

import json
import pathlib

import numpy as np
from absl import app, flags, logging
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from configs import quickstart
from experiments import options, study
from tokenlearner_flexivit import train
from tokenlearner_flexivit.figures import table

HERE = pathlib.Path(__file__).parent
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets a folder per seed.")
_SEEDS = flags.DEFINE_list(
  "seeds", list(map(str, study.SEEDS)), "Seeds to run."
)
flags.mark_flag_as_required("workdir")

# What the quickstart promises, in test accuracy by patch size.
EXPECTED = {24: 0.94, 16: 0.94, 12: 0.94, 8: 0.97, 6: 0.97, 4: 0.97}


def report_of(seed: int, workdir: pathlib.Path) -> dict:
  """Trains one seed unless it has been, and returns its report."""
  path = workdir / f"seed{seed}" / "report.json"
  if not path.exists():
    config = quickstart.get_config()
    config.seed = seed
    train.train_and_evaluate(config, path.parent)
  return json.loads(path.read_text(encoding="utf-8"))


def summarize(reports: list[dict]) -> list[dict]:
  """Mean and range over the seeds for each patch size."""
  rows = []
  for settings in zip(*(r["settings"] for r in reports), strict=True):
    accuracy = [s["accuracy"] for s in settings]
    rows.append(
      {
        "patch_size": settings[0]["patch_size"],
        "seq_len": settings[0]["seq_len"],
        "gmacs": settings[0]["gmacs"],
        "accuracy": float(np.mean(accuracy)),
        "accuracy_min": min(accuracy),
        "accuracy_max": max(accuracy),
        "accuracy_by_seed": accuracy,
        "images_per_s": float(np.median([s["images_per_s"] for s in settings])),
      }
    )
  return rows


def draw(rows: list[dict], path: pathlib.Path) -> None:
  """Draws accuracy against cost with the range over the seeds."""
  figure = mpl_figure.Figure(figsize=(7, 4), layout="constrained")
  axes = figure.subplots()
  mean = np.asarray([100 * r["accuracy"] for r in rows])
  low = mean - [100 * r["accuracy_min"] for r in rows]
  high = [100 * r["accuracy_max"] for r in rows] - mean
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
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.set_xlabel("multiply-adds per image in 10⁶ (log scale)")
  axes.set_ylabel("test accuracy in %")
  axes.set_title("Digits, one set of weights: the patch size sets the cost")
  axes.set_ylim(min(mean - low) - 2, 100)
  axes.margins(x=0.1)
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path, dpi=120)


def main(argv: list[str]) -> None:
  """Runs the seeds; writes results.json, figure.png and the table."""
  del argv
  logging.set_verbosity(logging.WARNING)
  seeds = options.read_seeds(_SEEDS.value)
  reports = [report_of(s, pathlib.Path(_WORKDIR.value)) for s in seeds]
  rows = summarize(reports)
  claims = [
    {
      "claim": f"test accuracy at patch size {row['patch_size']}",
      "source": "this project's goal for the quickstart",
      "expected": f">= {EXPECTED[row['patch_size']]}",
      "measured": row["accuracy"],
      "holds": row["accuracy"] >= EXPECTED[row["patch_size"]],
    }
    for row in rows
  ]
  results = {
    "command": "python -m experiments.quickstart.run --workdir=WORKDIR",
    "seeds": seeds,
    "hardware": reports[0]["hardware"],
    "seconds": sum(r["train"]["seconds"] for r in reports),
    "rows": rows,
    "claims": claims,
  }
  folder = study.results_folder(
    HERE,
    pathlib.Path(_WORKDIR.value),
    whole=set(study.SEEDS) <= set(seeds),
  )
  (folder / "results.json").write_text(
    json.dumps(results, indent=2) + "\n", encoding="utf-8"
  )
  draw(rows, folder / "figure.png")
  print(
    table.markdown(
      [
        {
          "patch size": row["patch_size"],
          "tokens": row["seq_len"],
          "10⁶ multiply-adds": f"{1000 * row['gmacs']:.1f}",
          "accuracy %, mean": f"{100 * row['accuracy']:.2f}",
          "lowest to highest": f"{100 * row['accuracy_min']:.2f} to "
          f"{100 * row['accuracy_max']:.2f}",
          "images/s": f"{row['images_per_s']:.0f}",
        }
        for row in rows
      ]
    )
  )


if __name__ == "__main__":
  app.run(main)
