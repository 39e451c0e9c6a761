r"""FlexiViT's transfer to detection by names (OWL-ViT) on rendered_scenes.

python -m experiments.transfer_detection.run --workdir=/tmp/curves --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again, nor is a backbone that flexivit_curves has left there.
--cells trains some of the runs (and what these need), without results; with
other --seeds the results go to WORKDIR/results.
"""

from configs import detection_scenes
from experiments import seeds, study
from experiments.flexivit_curves import curves
from experiments.transfer_detection import config, pictures
from tokenlearner_flexivit.data.rendered_scenes import scene, shapes
from tokenlearner_flexivit.figures import table

_GOAL, _QUESTION = "this project's goal", "this project's question"
_GAINS = "> 0 points"
_OWN_SIZE = 1  # Points of AP that may be lost.
# A name drawn at random is right once in so many times, so that not even
# perfect boxes have a higher AP by chance.
_CHANCE = 1 / (len(scene.COLOURS) * len(shapes.NAMES))


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each transfer and each patch size that it is used at."""
  measured = []
  for name in config.cells_by_name(done.scale):
    reports = done.reports[name]
    by_metric = {
      metric: curves.from_reports(reports, metric)
      for metric in pictures.METRICS
    }
    measured += [
      {"cell": name, "patch_size": size}
      | {m: seeds.spread(curve[size]) for m, curve in by_metric.items()}
      | {"train_seconds": [report["train"]["seconds"] for report in reports]}
      for size in done.scale.box_sizes
    ]
  return measured


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns what is said of such transfers, and whether it holds."""
  sizes, measured = outcome.scale.box_sizes, pictures.by_cell(outcome.rows)
  coarse, fine = sizes[0], sizes[-1]

  def at(backbone: str, size: int) -> pictures.Measured:
    return measured[config.transfer(backbone, size)]

  def gain(curve: curves.Curve) -> list[float]:
    return seeds.points(curve[fine], curve[coarse])

  flexible, fixed, any_size = (
    at("flexible", coarse),
    at("coarse", coarse),
    measured[config.ANY_SIZE],
  )
  own = {
    coarse: seeds.points(flexible["AP"][coarse], fixed["AP"][coarse]),
    fine: seeds.points(any_size["AP"][fine], at("fine", fine)["AP"][fine]),
  }
  kept = {
    size: seeds.points(any_size["AP"][size], flexible["AP"][size])
    for size in sizes[1:]
  }
  seen = [100 * value for value in any_size["AP50_seen"][fine]]
  novel = seeds.points(any_size["AP50_novel"][fine], [_CHANCE] * len(seen))
  return [
    seeds.claim(
      f"transferred at {coarse} and used at {fine}, the flexible one gains",
      "FlexiViT, Figure 8 (classification)",
      _GAINS,
      curves.change(flexible["AP"], coarse, fine),
      gain(flexible["AP"]),
    ),
    seeds.claim(
      f"the fixed one of patch size {outcome.scale.sizes[0]} loses",
      "FlexiViT, Figure 8 (classification)",
      "collapses",
      curves.change(fixed["AP"], coarse, fine),
      [-points for points in gain(fixed["AP"])],
    ),
    seeds.claim(
      f"transferred at {coarse}, the flexible one is within {_OWN_SIZE} point "
      f"of the fixed one in AP; that of all sizes is so at {fine}",
      "FlexiViT, Figure 7 (LVIS)",
      "no worse",
      seeds.listed(own),
      *([point + _OWN_SIZE for point in points] for points in own.values()),
    ),
    seeds.claim(
      "one model of all sizes: AP of small objects rises with finer patches",
      _GOAL,
      _GAINS,
      curves.change(any_size["AP_small"], coarse, fine),
      gain(any_size["AP_small"]),
    ),
    seeds.claim(
      "and that of medium ones by less",
      _QUESTION,
      "less than of small ones",
      curves.change(any_size["AP_medium"], coarse, fine),
      [
        small - medium
        for small, medium in zip(
          gain(any_size["AP_small"]), gain(any_size["AP_medium"]), strict=True
        )
      ],
    ),
    seeds.claim(
      f"at finer sizes it is better than the one transferred at {coarse}",
      _QUESTION,
      f"{_GAINS} of AP at every size",
      seeds.listed(kept),
      *kept.values(),
    ),
    seeds.claim(
      f"one model of all sizes: AP50 of seen names at {fine} is above "
      f"{config.SEEN_GOAL} %",
      _GOAL,
      f"> {config.SEEN_GOAL} %",
      f"{curves.percent(any_size['AP50_seen'], fine):.1f} %",
      [value - config.SEEN_GOAL for value in seen],
    ),
    seeds.claim(
      f"and that of the {len(detection_scenes.held_out())} names that training "
      "did not see above chance",
      _GOAL,
      f"> {100 * _CHANCE:.1f} %, a name drawn at random for perfect boxes",
      f"{curves.percent(any_size['AP50_novel'], fine):.1f} %",
      novel,
    ),
  ]


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's results: claims, figure, and a table per metric."""
  sizes, measured = outcome.scale.box_sizes, pictures.by_cell(outcome.rows)
  seconds = {row["cell"]: row["train_seconds"] for row in outcome.rows}
  parts = [
    seeds.table_of_claims(outcome.claims),
    f"![average precisions by patch size](figure{outcome.suffix}.png)",
  ]
  parts += [
    table.markdown(
      [
        {
          f"{title} in %, mean ± std of seeds": f"`{name}`",
          **curves.spread(cell[metric], sizes),
          "minutes": seeds.minutes(seconds[name]),
        }
        for name, cell in measured.items()
      ]
    )
    for metric, title in pictures.METRICS.items()
  ]
  return {f"results of {outcome.scale_name}": "\n\n".join(parts)}


STUDY = study.Study(
  name="transfer_detection",
  scales=config.SCALES,
  cells=lambda _, scale: config.needs(scale),
  arguments=study.in_workdir,
  rows=rows,
  claims=claims,
  tables=tables,
  figures=pictures.figures,
)

if __name__ == "__main__":
  STUDY.start()
