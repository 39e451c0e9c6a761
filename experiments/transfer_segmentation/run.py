r"""FlexiViT's transfer to semantic segmentation, tested on rendered_scenes.

python -m experiments.transfer_segmentation.run --workdir=/tmp/curves --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again, nor is a backbone that flexivit_curves has left there.
--cells trains some of the runs (and what these need), without results; with
other --seeds the results go to WORKDIR/results.
"""

from experiments import seeds, study
from experiments.flexivit_curves import curves
from experiments.transfer_segmentation import config, pictures
from tokenlearner_flexivit.figures import table

_GOAL = "this project's goal"
_OWN_SIZE, _ANY_SIZE = 1, 2  # Points of mIoU that may be lost.


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each transfer and each patch size that it is used at."""
  measured = []
  for name in config.cells_by_name(done.scale):
    reports = done.reports[name]
    ceilings = curves.from_reports(reports, "ceiling")
    for size, values in curves.from_reports(reports, "mIoU").items():
      measured.append(
        {
          "cell": name,
          "patch_size": size,
          "mIoU": seeds.spread(values),
          "ceiling": ceilings[size][0],  # Of the test's masks, for all seeds.
          "train_seconds": [report["train"]["seconds"] for report in reports],
        }
      )
  return measured


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns what FlexiViT reports of such transfers, and whether it holds."""
  scale, measured = outcome.scale, pictures.by_cell(outcome.rows)
  coarse, fine = scale.sizes[0], scale.sizes[-1]
  flexible, fixed = (
    measured[config.transfer(name, coarse)] for name in ("flexible", "coarse")
  )
  any_size = measured[config.ANY_SIZE]
  one_each = pictures.one_per_size(scale, measured)
  gained = seeds.points(flexible[fine], flexible[coarse])
  lost = seeds.points(fixed[fine], fixed[coarse])
  coarser = []
  for name in ("flexible", "fine"):
    curve = measured[config.transfer(name, fine)]
    coarser.append(seeds.points(curve[coarse], curve[fine]))
  near = {s: seeds.points(any_size[s], one_each[s]) for s in scale.sizes}
  kept = {s: seeds.points(any_size[s], flexible[s]) for s in scale.sizes[1:]}
  own = {
    size: seeds.points(
      measured[config.transfer("flexible", size)][size],
      measured[config.transfer(name, size)][size],
    )
    for name, size in (("coarse", coarse), ("fine", fine))
  }
  return [
    seeds.claim(
      f"fine-tuned at {coarse} and used at {fine}, the flexible backbone gains",
      "FlexiViT, Figure 8 (classification)",
      "81.8 % -> 85.3 % (ImageNet-1k, 8x8 -> 24x24)",
      curves.change(flexible, coarse, fine),
      gained,
    ),
    seeds.claim(
      f"the backbone of patch size {coarse} loses",
      "FlexiViT, Figure 8 (classification)",
      "collapses",
      curves.change(fixed, coarse, fine),
      [-point for point in lost],
    ),
    seeds.claim(
      "fine-tuned at the size of a fixed backbone, the flexible one is within "
      f"{_OWN_SIZE} point of it",
      "FlexiViT, Figure 7 (Cityscapes)",
      "within .2 to .4 points, or better",
      seeds.listed(own),
      *([point + _OWN_SIZE for point in points] for points in own.values()),
    ),
    seeds.claim(
      f"fine-tuned at {fine} and used at {coarse}, the flexible backbone loses "
      f"less than that of patch size {fine}",
      "FlexiViT, Figure 8; this project's question",
      "> 0 points",
      " against ".join(f"{seeds.shown(points)} points" for points in coarser),
      [a - b for a, b in zip(*coarser, strict=True)],
    ),
    seeds.claim(
      "one model, trained at a random size per step, is within "
      f"{_ANY_SIZE} points of one per size, at equal steps in total",
      _GOAL,
      f">= -{_ANY_SIZE} points at every size",
      seeds.listed(near),
      *([point + _ANY_SIZE for point in points] for points in near.values()),
    ),
    seeds.claim(
      "at other sizes it is better than the flexible backbone fine-tuned at "
      f"{coarse} alone",
      "this project's question",
      "> 0 points at every size",
      seeds.listed(kept),
      *kept.values(),
    ),
  ]


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's results: claims, figure, and mIoU of each transfer."""
  scale, measured = outcome.scale, pictures.by_cell(outcome.rows)
  heading = "mIoU in %, mean ± std of seeds"
  seconds = {row["cell"]: row["train_seconds"] for row in outcome.rows}
  lines = [
    {
      heading: f"`{name}`",
      **curves.spread(curve, scale.sizes),
      "minutes": seeds.minutes(seconds[name]),
    }
    for name, curve in measured.items()
  ]
  best = pictures.ceilings(outcome.rows)
  lines.append(
    {heading: "ceiling of the grid"}
    | {f"/{s}": f"{100 * best[s]:.1f}" for s in scale.sizes}
    | {"minutes": ""}
  )
  parts = [
    seeds.table_of_claims(outcome.claims),
    f"![mIoU by patch size](figure{outcome.suffix}.png)",
    table.markdown(lines),
  ]
  return {f"results of {outcome.scale_name}": "\n\n".join(parts)}


STUDY = study.Study(
  name="transfer_segmentation",
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
