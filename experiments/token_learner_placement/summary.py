"""Joins what the study's runs report, with speed measured by turns."""

import statistics

from benchmarks import timing
from experiments import study, throughput
from experiments.token_learner_placement import cells, config
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.data.rendered_scenes import textures
from tokenlearner_flexivit.figures import table


def speed(scale: config.Scale, rounds: int = 15) -> dict[str, list[float]]:
  """Measures the forward pass of every cell, by turns.

  Returns:
    Images per second in each round, by cell.
  """
  compared = {
    name: models.create(
      **config.model_of(cell, scale), num_classes=len(textures.NAMES)
    )
    for name, cell in cells.CELLS.items()
  }
  return throughput.measure(
    {name: (model, dials.Setting()) for name, model in compared.items()},
    scale.crop,
    rounds,
  )


def rows(
  reports: dict[str, list[study.Report]], speed: dict[str, list[float]]
) -> dict[str, study.Row]:
  """A row per cell.

  Args:
    reports: of the seeds, by cell.
    speed: images per second in each round, by cell.
  """
  found = {}
  for name, cell in cells.CELLS.items():
    settings = [report["settings"][0] for report in reports[name]]
    base = reports["baseline"][0]["settings"][0]
    found[name] = {
      "cell": name,
      "model": cell.text,
      "depth": reports[name][0]["config"]["model"]["depth"],
      "token_learner": reports[name][0]["config"]["model"].get("token_learner"),
      "num_params": reports[name][0]["num_params"],
      "accuracy": study.spread(s["accuracy"] for s in settings),
      "gmacs": settings[0]["gmacs"],
      "gmacs_ratio": settings[0]["gmacs"] / base["gmacs"],
      "images_per_s": statistics.median(speed[name]),
      "speedup": timing.ratio(speed[name], speed["baseline"]),
      "train_seconds": [r["train"]["seconds"] for r in reports[name]],
    }
  return found


def tables(results: study.Row) -> str:
  """The tables of the README: cells, then claims."""
  return "\n\n".join(
    [
      table.markdown(
        [
          {
            "model": row["model"],
            "layers": row["depth"],
            "test accuracy, mean ± std of seeds": study.percent(
              row["accuracy"], 2
            ),
            "10⁶ multiply-adds": f"{1000 * row['gmacs']:.1f}",
            "of the baseline's": f"{100 * row['gmacs_ratio']:.0f} %",
            "measured speed-up": f"{row['speedup']:.2f}x",
          }
          for row in results["rows"]
        ]
      ),
      table.markdown(
        [
          {
            "the paper's statement": claim["claim"],
            "published": f"{claim['expected']} ({claim['source']})",
            "here": claim["measured"],
            "holds": "yes" if claim["holds"] else "no",
          }
          for claim in results["claims"]
        ]
      ),
    ]
  )
