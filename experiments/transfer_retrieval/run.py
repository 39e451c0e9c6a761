r"""FlexiViT's transfer to images and texts (LiT), tested on rendered_scenes.

python -m experiments.transfer_retrieval.run --workdir=/tmp/pairs --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells trains some of the runs (and what these need),
without results; with other --seeds the results go to WORKDIR/results.
"""

from collections.abc import Sequence

from configs import captions_scenes
from experiments import seeds, study
from experiments.flexivit_curves import curves
from experiments.transfer_retrieval import config, pictures
from tokenlearner_flexivit.figures import table

_GOAL, _QUESTION = "this project's goal", "this project's question"
_OWN_SIZE = 1  # Points of R@1 that may be lost.
_RISES = "> 0 points"
# What has a table of its two ends alone.
_OTHERS = [metric for metric in pictures.METRICS if metric != "texture"]


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each tower or transfer and each size it is used at."""
  measured = []
  for name, reports in done.reports.items():
    if name in config.towers(done.scale):
      keys = {pictures.PRECISION: pictures.PRECISION}
    elif name not in config.transfers(done.scale):
      continue  # A backbone.
    else:
      keys = {pictures.RECALL: pictures.RECALL} | {
        attribute: f"{attribute}/accuracy"
        for attribute in captions_scenes.ATTRIBUTES
      }
    by_metric = {
      metric: curves.from_reports(reports, key) for metric, key in keys.items()
    }
    seconds = [report["train"]["seconds"] for report in reports]
    measured += [
      {"cell": name, "patch_size": size}
      | {m: seeds.spread(curve[size]) for m, curve in by_metric.items()}
      | {"train_seconds": seconds}
      for size in done.scale.sizes
    ]
  return measured


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns what is said of such transfers, and whether it holds."""
  scale, measured = outcome.scale, pictures.by_cell(outcome.rows)
  coarse, fine = scale.sizes[0], scale.sizes[-1]

  def at(tower: str, size: int, way: str = config.LOCKED) -> dict:
    return measured[config.at(way, tower, size)]

  flexible, tuned = (at("flexible", coarse, way) for way in config.WAYS)
  textures = flexible["texture"]
  rises = {
    metric: seeds.points(flexible[metric][fine], flexible[metric][coarse])
    for metric in pictures.METRICS
  }
  over_fine = {
    f"texts at {size}": seeds.points(
      textures[coarse], at("fine", size)["texture"][coarse]
    )
    for size in (coarse, fine)
  }
  over_coarse = {
    way: seeds.points(
      at("flexible", coarse, way)["texture"][fine],
      at("coarse", coarse, way)["texture"][fine],
    )
    for way in config.WAYS
  }
  own = seeds.points(flexible["R1"][coarse], at("coarse", coarse)["R1"][coarse])
  any_size = measured[config.ANY_SIZE]["texture"]
  over_one_size = {
    str(s): seeds.points(any_size[s], textures[s]) for s in scale.sizes[1:]
  }
  tuned_rise = seeds.points(tuned["texture"][fine], tuned["texture"][coarse])
  locked = seeds.points(textures[coarse], tuned["texture"][coarse])

  return [
    seeds.claim(
      f"locked, with texts learned at {coarse}, the flexible tower tells more "
      f"textures at {fine}, zero-shot",
      "FlexiViT, Figure 19 (LiT); " + _GOAL,
      _RISES,
      curves.change(textures, coarse, fine),
      rises["texture"],
    ),
    seeds.claim(
      f"and more numbers of objects at {fine}",
      _GOAL,
      _RISES,
      curves.change(flexible["num_objects"], coarse, fine),
      rises["num_objects"],
    ),
    seeds.claim(
      "its shapes and colours, which are large, change less than its textures",
      _QUESTION,
      "less than textures rise",
      seeds.listed({m: rises[m] for m in ("shape", "colour", "texture")}),
      *_smaller(rises["shape"], rises["texture"]),
      *_smaller(rises["colour"], rises["texture"]),
    ),
    seeds.claim(
      "its R@1 changes less than its textures: captions tell images apart "
      "without them",
      _QUESTION,
      "less than textures rise",
      seeds.listed({m: rises[m] for m in ("R1", "texture")}),
      *_smaller(rises["R1"], rises["texture"]),
    ),
    seeds.claim(
      f"at {fine} it tells more textures than the tower of patch size "
      f"{coarse}, locked as tuned",
      "FlexiViT, Figure 19 (LiT); " + _GOAL,
      _RISES,
      seeds.listed(over_coarse),
      *over_coarse.values(),
    ),
    seeds.claim(
      f"at {coarse} it tells more textures than the tower of patch size {fine}",
      _GOAL,
      _RISES,
      seeds.listed(over_fine),
      *over_fine.values(),
    ),
    seeds.claim(
      f"at {coarse} its R@1 is within {_OWN_SIZE} point of that of the tower "
      f"of patch size {coarse}",
      "FlexiViT, Figure 7 (COCO retrieval)",
      "within .2 to .4 points, or better",
      f"{seeds.shown(own)} points",
      [point + _OWN_SIZE for point in own],
    ),
    seeds.claim(
      "texts learned at a random size per step tell more textures at finer "
      f"sizes than those learned at {coarse}",
      _QUESTION,
      f"{_RISES} at every finer size",
      seeds.listed(over_one_size),
      *over_one_size.values(),
    ),
    seeds.claim(
      f"tuned along at {coarse}, the flexible tower still tells more textures "
      f"at {fine}",
      "FlexiViT, Figure 8 (classification)",
      _RISES,
      curves.change(tuned["texture"], coarse, fine),
      tuned_rise,
    ),
    seeds.claim(
      f"locked, it tells more textures at {coarse} than tuned",
      "LiT, abstract: locked image towers work best",
      _RISES,
      f"{seeds.shown(locked)} points",
      locked,
    ),
  ]


def _smaller(
  changes: Sequence[float], rises: Sequence[float]
) -> tuple[list[float], list[float]]:
  """Returns what is above 0 if changes, up or down, are smaller than rises."""
  pairs = list(zip(changes, rises, strict=True))
  return [b - a for a, b in pairs], [b + a for a, b in pairs]


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's results: claims, figure, and tables of all cells."""
  scale, measured = outcome.scale, pictures.by_cell(outcome.rows)
  seconds = {row["cell"]: row["train_seconds"] for row in outcome.rows}

  def by_size(heading: str, metric: str) -> str:
    return table.markdown(
      [
        {
          f"{heading}, mean ± std of seeds": f"`{name}`",
          **curves.spread(cell[metric], scale.sizes),
          "minutes": seeds.minutes(seconds[name]),
        }
        for name, cell in measured.items()
        if metric in cell
      ]
    )

  ends = scale.sizes[0], scale.sizes[-1]
  others = [
    {f"%, at /{ends[0]} -> /{ends[1]}": f"`{name}`"}
    | {
      pictures.TITLES[m]: curves.ends(measured[name][m], ends) for m in _OTHERS
    }
    for name in config.transfers(scale)
  ]
  parts = [
    seeds.table_of_claims(outcome.claims),
    f"![accuracies and R@1 by patch size](figure{outcome.suffix}.png)",
    by_size("zero-shot texture in %", "texture"),
    table.markdown(others),
    by_size("image towers: mAP of the attributes in %", pictures.PRECISION),
  ]
  return {f"results of {outcome.scale_name}": "\n\n".join(parts)}


STUDY = study.Study(
  name="transfer_retrieval",
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
