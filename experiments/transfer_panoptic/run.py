r"""FlexiViT and TokenLearner in panoptic segmentation (UViM).

python -m experiments.transfer_panoptic.run --workdir=/tmp/curves --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again, nor is a backbone that flexivit_curves has left there.
--cells trains some of the runs (and what these need), without results; with
other --seeds the results go to WORKDIR/results.
"""

from experiments import seeds, study
from experiments.flexivit_curves import curves
from experiments.transfer_panoptic import config, pictures
from tokenlearner_flexivit.figures import table

_GOAL, _QUESTION = "this project's goal", "this project's question"
_GAINS = "> 0 points"
_OWN_SIZE, _FEWER = 1, 2  # Points of PQ that may be lost.


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each transfer at each setting that it is used at."""
  measured = []
  for name, cell in config.cells_by_name(done.scale).items():
    reports = done.reports[name]
    seconds = [report["train"]["seconds"] for report in reports]
    for settings in zip(*(r["settings"] for r in reports), strict=True):
      first = settings[0]
      number = first["num_tokens"] if cell.version else None
      measured.append(
        {
          "cell": name,
          "patch_size": first["patch_size"],
          "num_tokens": number,
          **{
            metric: seeds.spread(s[metric] for s in settings)
            for metric in (*pictures.METRICS, "ceiling")
          },
          "train_seconds": seconds,
        }
      )
  return measured


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns what is said of such transfers, and whether it holds."""
  scale, measured = outcome.scale, pictures.by_cell(outcome.rows)
  coarse, fine = scale.sizes[0], scale.sizes[-1]

  def quality(name: str, number: int | str | None = None) -> curves.Curve:
    return measured[name][number]["PQ"]

  def gain(curve: curves.Curve) -> list[float]:
    return seeds.points(curve[fine], curve[coarse])

  flexible, fixed = (
    quality(config.transfer(name, coarse)) for name in ("flexible", "coarse")
  )
  any_size = quality(config.ANY_SIZE)
  fixed_fine = quality(config.transfer("fine", fine))
  own = {
    coarse: seeds.points(flexible[coarse], fixed[coarse]),
    fine: seeds.points(any_size[fine], fixed_fine[fine]),
  }
  every = quality(config.BOTH_DIALS, config.ALL)[fine]
  fewer = {
    f"{number} tokens": seeds.points(
      quality(config.BOTH_DIALS, number)[fine], every
    )
    for number in scale.numbers
  }
  over_averages = {
    number: seeds.points(
      quality(config.learned(number), number)[scale.middle],
      quality(config.averages(number), number)[scale.middle],
    )
    for number in scale.numbers
  }
  most = scale.numbers[-1]
  return [
    seeds.claim(
      f"transferred at {coarse} and used at {fine}, the flexible one gains",
      "FlexiViT, Figure 8 (classification)",
      _GAINS,
      curves.change(flexible, coarse, fine),
      gain(flexible),
    ),
    seeds.claim(
      f"the fixed one of patch size {coarse} loses",
      "FlexiViT, Figure 8 (classification)",
      "collapses",
      curves.change(fixed, coarse, fine),
      [-points for points in gain(fixed)],
    ),
    seeds.claim(
      f"transferred at {coarse}, the flexible one is within {_OWN_SIZE} point "
      f"of the fixed one; that of all sizes is so at {fine}",
      "FlexiViT, Figure 7 (UViM on COCO)",
      "no worse",
      seeds.listed(own),
      *([point + _OWN_SIZE for point in points] for points in own.values()),
    ),
    seeds.claim(
      "one model of all sizes is better with finer patches",
      _GOAL,
      _GAINS,
      curves.change(any_size, coarse, fine),
      gain(any_size),
    ),
    seeds.claim(
      f"with both dials in one model, {most} tokens at {fine} are within "
      f"{_FEWER} points of all patches",
      "TokenLearner, Table 1 (classification); this project's question",
      f">= -{_FEWER} points",
      seeds.listed(fewer),
      [point + _FEWER for point in fewer[f"{most} tokens"]],
    ),
    *(
      seeds.claim(
        f"{number} learned tokens are better than averages over as many "
        "rectangles, where places matter",
        "TokenLearner, Section 5; this project's question",
        _GAINS,
        f"{seeds.shown(points)} points",
        points,
      )
      for number, points in over_averages.items()
    ),
  ]


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's results: claims, figure, and a table per metric."""
  scale, measured = outcome.scale, pictures.by_cell(outcome.rows)
  seconds = {row["cell"]: row["train_seconds"] for row in outcome.rows}
  ceiling = outcome.rows[0]["ceiling"]
  parts = [
    seeds.table_of_claims(outcome.claims),
    f"![PQ by patch size and number of tokens](figure{outcome.suffix}.png)",
    f"Ceiling, the PQ of what the code keeps of the labels: "
    f"{seeds.percent(ceiling, 1)}.",
  ]
  for metric in pictures.METRICS:
    lines = []
    for name, by_number in measured.items():
      for number, cell in by_number.items():
        sizes = [size for size in scale.sizes if size in cell[metric]]
        lines.append(
          {
            f"{metric} in %, mean ± std of seeds": f"`{name}`",
            "tokens": "" if number is None else str(number),
            **{f"/{size}": "" for size in scale.sizes},
            **curves.spread(cell[metric], sizes),
            "minutes": seeds.minutes(seconds[name]),
          }
        )
    parts.append(table.markdown(lines))
  return {f"results of {outcome.scale_name}": "\n\n".join(parts)}


STUDY = study.Study(
  name="transfer_panoptic",
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
