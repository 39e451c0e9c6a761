r"""A trained ViT made flexible by learning from itself, without labels.

python -m experiments.flexify.run --workdir=/tmp/curves --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again, nor is a teacher that flexivit_curves has left there.
--cells trains some of the runs (and what these need), without results; with
other --seeds the results go to WORKDIR/results.
"""

from experiments import seeds, study
from experiments.flexify import config, pictures
from experiments.flexivit_curves import curves
from tokenlearner_flexivit.figures import settings_table, table

_GOAL, _QUESTION = "this project's goal", "this project's question"
_MAY_LOSE, _LOSES = 2, 10  # Points of accuracy below that at the own size.


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each patch size, before and after."""
  reports = done.reports[config.FLEXIFIED]
  measured = []
  for place, size in enumerate(config.evaluated(done.scale)):
    row = {"patch_size": size}
    for name, (metric, _) in pictures.METRICS.items():
      settings = [report["evals"][name][place] for report in reports]
      for time, key in zip(
        pictures.TIMES, (settings_table.BEFORE, metric), strict=True
      ):
        row[f"{name}_{time}"] = seeds.spread(s[key] for s in settings)
    row["train_seconds"] = [report["train"]["seconds"] for report in reports]
    measured.append(row)
  return measured


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns what is said of such a training, and whether it holds."""
  scale, measured = outcome.scale, pictures.by_metric(outcome.rows)
  *others, own = scale.sizes
  neighbours = measured[config.NEIGHBOURS]
  before, after = (neighbours[time] for time in pictures.TIMES)
  similar = measured[config.SIMILARITY]

  def below(curve: curves.Curve, sizes: list[int]) -> dict[int, list[float]]:
    return {size: seeds.points(curve[size], before[own]) for size in sizes}

  def gain(sizes: list[int]) -> dict[int, list[float]]:
    return {size: seeds.points(after[size], before[size]) for size in sizes}

  resized, flexified = below(before, others), below(after, others)
  level = {size: seeds.points(after[size], after[own]) for size in others}
  kept = seeds.points(after[own], before[own])
  strange = gain(sorted(scale.never_drawn, reverse=True))
  return [
    seeds.claim(
      f"PI-resize alone loses more than {_LOSES} points of k-NN accuracy at "
      f"sizes other than {own}",
      "FlexiViT, Figure 3; " + _GOAL,
      f"< -{_LOSES} points at every size",
      seeds.listed(resized),
      *([-point - _LOSES for point in p] for p in resized.values()),
    ),
    seeds.claim(
      f"made flexible, it is there within {_MAY_LOSE} points of its accuracy "
      f"at {own}",
      _GOAL,
      f">= -{_MAY_LOSE} points at every size",
      seeds.listed(level),
      *([point + _MAY_LOSE for point in p] for p in level.values()),
    ),
    seeds.claim(
      f"and of that at {own} before",
      _QUESTION,
      f">= -{_MAY_LOSE} points at every size",
      seeds.listed(flexified),
      *([point + _MAY_LOSE for point in p] for p in flexified.values()),
    ),
    seeds.claim(
      f"at its own size {own} it loses at most 1 point",
      _GOAL,
      ">= -1 point",
      seeds.shown(kept),
      [point + 1 for point in kept],
    ),
    seeds.claim(
      "it gains at sizes that the training never draws, too",
      _QUESTION,
      "> 0 points at every size",
      seeds.listed(strange),
      *strange.values(),
    ),
    seeds.claim(
      "its representations are more like the teacher's at every other size",
      _QUESTION,
      "> 0 percent of the cosine",
      seeds.listed(
        points := {
          size: seeds.points(
            similar[pictures.AFTER][size], similar[pictures.BEFORE][size]
          )
          for size in others
        }
      ),
      *points.values(),
    ),
  ]


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's results: claims, figure, and a table per metric."""
  sizes = config.evaluated(outcome.scale)
  measured = pictures.by_metric(outcome.rows)
  parts = [
    seeds.table_of_claims(outcome.claims),
    f"![neighbours and similarity by patch size](figure{outcome.suffix}.png)",
  ]
  parts += [
    table.markdown(
      [
        {
          f"{title}, mean ± std of seeds": text,
          **curves.spread(measured[name][time], sizes),
        }
        for time, text in (
          (pictures.BEFORE, "PI-resize alone"),
          (pictures.AFTER, "made flexible"),
        )
      ]
    )
    for name, (_, title) in pictures.METRICS.items()
  ]
  return {f"results of {outcome.scale_name}": "\n\n".join(parts)}


STUDY = study.Study(
  name="flexify",
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
