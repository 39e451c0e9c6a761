r"""Zero-shot counting of objects, with image towers that learned to count.

python -m experiments.transfer_retrieval.counts --workdir=/tmp/pairs --jobs=2

The towers of `run.py` learn all attributes of an image at once, and leave the
number of its objects out. Those of this study learn that number alone; else
they are the same, as are the transfers. The same command goes on where it
stopped.
"""

from experiments import seeds, study
from experiments.flexivit_curves import curves
from experiments.transfer_retrieval import config, pictures
from tokenlearner_flexivit.figures import drawing, table

_GOAL = "this project's goal"
_RISES = "> 0 points"
_CHANCE = 1 / (config.ATTRIBUTES[config.COUNTED] - 1)  # From 1 on.


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each tower or transfer and each size it is used at."""
  metrics = dict.fromkeys(config.towers_of_counts(done.scale), "accuracy")
  metrics |= dict.fromkeys(
    config.transfers_of_counts(done.scale), f"{config.COUNTED}/accuracy"
  )
  measured = []
  for name, metric in metrics.items():
    reports = done.reports[name]
    curve = curves.from_reports(reports, metric)
    seconds = [report["train"]["seconds"] for report in reports]
    measured += [
      {
        "cell": name,
        "patch_size": size,
        "accuracy": seeds.spread(curve[size]),
        "train_seconds": seconds,
      }
      for size in done.scale.sizes
    ]
  return measured


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns what is said of zero-shot counting, and whether it holds."""
  scale, measured = outcome.scale, curves.from_rows(outcome.rows).trained
  coarse, fine = scale.sizes[0], scale.sizes[-1]

  def at(tower: str, size: int) -> curves.Curve:
    return measured[config.of_counts(config.at(config.LOCKED, tower, size))]

  flexible = at("flexible", coarse)
  any_size = measured[config.of_counts(config.ANY_SIZE)]
  over_coarse = seeds.points(flexible[fine], at("coarse", coarse)[fine])
  over_fine = {
    f"texts at {size}": seeds.points(flexible[coarse], at("fine", size)[coarse])
    for size in (coarse, fine)
  }
  own = {
    coarse: seeds.points(flexible[coarse], at("coarse", coarse)[coarse]),
    fine: seeds.points(any_size[fine], at("fine", fine)[fine]),
  }
  return [
    seeds.claim(
      f"locked, with texts learned at {coarse}, the flexible tower counts "
      f"better at {fine}, zero-shot",
      "FlexiViT, Figure 19 (LiT); " + _GOAL,
      _RISES,
      curves.change(flexible, coarse, fine),
      seeds.points(flexible[fine], flexible[coarse]),
    ),
    seeds.claim(
      "with texts learned at a random size per step as well",
      _GOAL,
      _RISES,
      curves.change(any_size, coarse, fine),
      seeds.points(any_size[fine], any_size[coarse]),
    ),
    seeds.claim(
      f"at {fine} it counts better than the tower of patch size {coarse}",
      "FlexiViT, Figure 19 (LiT); " + _GOAL,
      _RISES,
      f"{seeds.shown(over_coarse)} points",
      over_coarse,
    ),
    seeds.claim(
      f"at {coarse} it counts better than the tower of patch size {fine}",
      _GOAL,
      _RISES,
      seeds.listed(over_fine),
      *over_fine.values(),
    ),
    seeds.claim(
      "it counts better than the fixed towers at their own sizes, too",
      "this project's question",
      _RISES,
      seeds.listed(own),
      *own.values(),
    ),
  ]


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's results: claims, figure, and a table of all cells."""
  seconds = {row["cell"]: row["train_seconds"] for row in outcome.rows}
  trained = [
    {
      "number of objects, accuracy in %, mean ± std of seeds": f"`{name}`",
      **curves.spread(curve, outcome.scale.sizes),
      "minutes": seeds.minutes(seconds[name]),
    }
    for name, curve in curves.from_rows(outcome.rows).trained.items()
  ]
  parts = [
    seeds.table_of_claims(outcome.claims),
    f"![accuracies by patch size](counts{outcome.suffix}.png)",
    table.markdown(trained),
  ]
  return {f"counts of {outcome.scale_name}": "\n\n".join(parts)}


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file: zero-shot accuracies of the transfers."""
  beginning = config.of_counts(config.LOCKED) + "_"
  figure = drawing.Figure(figsize=(7, 5), layout="constrained")
  axes = figure.subplots()
  pictures.draw_transfers(
    axes,
    outcome.scale.sizes,
    {
      name.removeprefix(beginning): curve
      for name, curve in curves.from_rows(outcome.rows).trained.items()
      if name.startswith(beginning)
    },
  )
  axes.axhline(100 * _CHANCE, color="#aaaaaa", linewidth=1, label="chance")
  axes.set_xlabel("patch size it is used at")
  axes.set_ylabel("zero-shot num_objects in %, mean ± std of seeds")
  study.legend_below(figure, axes)
  return {f"counts{outcome.suffix}.png": figure}


STUDY = study.Study(
  name="transfer_retrieval",
  module="experiments.transfer_retrieval.counts",
  file="counts",
  scales={"cpu": config.SCALES["cpu"]},
  cells=lambda _, scale: config.needs_of_counts(scale),
  arguments=study.in_workdir,
  rows=rows,
  claims=claims,
  tables=tables,
  figures=figures,
)

if __name__ == "__main__":
  STUDY.start()
