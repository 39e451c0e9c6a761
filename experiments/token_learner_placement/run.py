r"""TokenLearner's claims on images, tested on rendered_scenes.

python -m experiments.token_learner_placement.run --workdir=/tmp/placement

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells trains some of them, without results; with
other --seeds the results go to WORKDIR/results.
"""

import statistics

from experiments import seeds, study, throughput
from experiments.token_learner_placement import config, pictures
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.data.rendered_scenes import textures
from tokenlearner_flexivit.figures import table

# Claim, source, what was published, and what must be over what by how many
# points; then at what share of its cost.
_CLAIMS = (
  (
    "TokenLearner at 1/2 is as good as the baseline (within 1 point) at about "
    "half the cost (at most 60 %)",
    "Figure 4",
    "about equal, at about half the compute (B/16, 8 tokens)",
    ("at1_2", "baseline", -1.0, 0.6),
  ),
  (
    "at 3/4 it is better than the baseline, and still cheaper",
    "Figure 4",
    "above the baseline",
    ("at3_4", "baseline", 0.0, 1.0),
  ),
  (
    "at 0 it is clearly worse (by more than 1 point)",
    "Figure 4",
    "drops clearly",
    ("baseline", "at0", 1.0, None),
  ),
  (
    "16 learned tokens are better than averages over as many rectangles",
    "Section 5, ablations",
    "pooling loses accuracy at equal cost",
    ("at1_2", "average16", 0.0, None),
  ),
  (
    "8 learned tokens are better than averages over as many rectangles",
    "Section 5, ablations",
    "pooling loses accuracy at equal cost",
    ("tokens8", "average8", 0.0, None),
  ),
  (
    "blocks added after TokenLearner beat the baseline at its cost",
    "Table 1",
    "85.21 % (8 tokens, 21 layers, 47.1 GFLOPS) against 84.73 % (B/16, 55.6)",
    ("deeper", "baseline", 0.0, 1.0),
  ),
  (
    "16 tokens are better than 8",
    "Table 1",
    "85.45 % against 85.21 % (B/16, 21 layers)",
    ("at1_2", "tokens8", 0.0, None),
  ),
  (
    "TokenFuser is a small gain",
    "Section 5, ablations",
    "a small gain",
    ("fuser", "at1_2", 0.0, None),
  ),
  (
    "v1.1 is better than v1.0",
    "the published code's README",
    "works better in general",
    ("at1_2", "v1_0", 0.0, None),
  ),
)


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row per cell; measures the speed of all by turns."""
  compared = {
    name: models.create(
      **config.model_section(cell, done.scale), num_classes=len(textures.NAMES)
    )
    for name, cell in config.CELLS.items()
  }
  speed = throughput.measure(
    {name: (model, dials.Setting()) for name, model in compared.items()},
    done.scale.side,
  )
  cells = []
  for name, cell in config.CELLS.items():
    model = done.reports[name][0]["config"]["model"]
    ratios = zip(speed[name], speed["baseline"], strict=True)
    cells.append(
      {
        "cell": name,
        "model": cell.text,
        "depth": model["depth"],
        "token_learner": model.get("token_learner"),
        **done.row(name, "baseline"),
        "images_per_s": statistics.median(speed[name]),
        "speedup": statistics.median(a / b for a, b in ratios),
      }
    )
  return cells


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns what the paper says of images, and whether it holds here."""
  rows = {row["cell"]: row for row in outcome.rows}
  judged = []
  for claim, source, published, (over, under, least, share) in _CLAIMS:
    points = seeds.between(rows, over, under)
    margins = [[value - least for value in points]]
    measured = (
      f"{seeds.plus_minus(*seeds.mean_and_error(points), '+.2f')} points "
      f"({over} against {under})"
    )
    if share is not None:
      cost = rows[over]["gmacs"] / rows[under]["gmacs"]
      measured += f" at {100 * cost:.0f} % of the multiply-adds"
      margins.append(share - cost)
    judged.append(
      seeds.claim(
        claim, f"TokenLearner, {source}", published, measured, *margins
      )
    )
  return judged


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the results of the README: cells, then claims."""
  cells = table.markdown(
    [
      {
        "model": row["model"],
        "layers": row["depth"],
        "test accuracy, mean ± std of seeds": seeds.percent(row["accuracy"], 2),
        "10⁶ multiply-adds": f"{1000 * row['gmacs']:.1f}",
        "of the baseline's": f"{100 * row['gmacs_ratio']:.0f} %",
        "measured speed-up": f"{row['speedup']:.2f}x",
      }
      for row in outcome.rows
    ]
  )
  claims = seeds.table_of_claims(outcome.claims)
  return {f"results of {outcome.scale_name}": f"{cells}\n\n{claims}"}


STUDY = study.Study(
  name="token_learner_placement",
  scales=config.SCALES,
  cells=lambda asked, scale: dict.fromkeys(config.CELLS, ()),
  rows=rows,
  claims=claims,
  tables=tables,
  figures=pictures.figures,
)

if __name__ == "__main__":
  STUDY.start()
