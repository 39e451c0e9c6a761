r"""Both dials in one model, against each alone and against fixed models.

python -m experiments.two_dials.run --workdir=/tmp/two_dials --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells trains some of them, without results; with
other --seeds the results go to WORKDIR/results.
"""

import math
import statistics

from experiments import seeds, study
from experiments.two_dials import config, hull, pictures, planes
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.data.rendered_scenes import textures
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.inference import Predictor
from tokenlearner_flexivit.models import cost

_GOAL = "this project's goal"
_BATCH_SIZE, _ROUNDS = 64, 15
_NEAR, _MOST = 1.5, 0.8  # Points; share of the settings.


def speed(predictor: Predictor) -> dict[dials.Setting, float]:
  """Measures a model at every setting of its training, by turns.

  Returns:
    Images per second in batches of 64, from prepared images to logits.
  """
  return {
    dials.Setting.from_row(row): 1000 * _BATCH_SIZE / row["forward_ms"]
    for row in predictor.profile(batch_size=_BATCH_SIZE, repeats=_ROUNDS)
  }


def costs(scale: config.Scale) -> dict[dials.Setting, float]:
  """Returns the multiply-adds per image, in 10⁹, of the model of both dials."""
  section = config.model_section(
    config.cells_by_name(scale)["two_dials"], scale
  )
  model = models.create(**section, num_classes=len(textures.NAMES))
  shape = scale.side, scale.side, 3
  return {s: cost.macs(model, shape, **s) / 1e9 for s in scale.settings}


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row for each setting; measures their speed."""
  trained = {
    name: planes.from_reports(cell, done.reports[name])
    for name, cell in config.cells_by_name(done.scale).items()
  }
  images_per_s = speed(Predictor.load(done.folder("two_dials")))
  gmacs, flexi = costs(done.scale), trained["patch_size"]
  return [
    {
      "patch_size": setting.patch_size[0],
      "num_tokens": setting.num_tokens,
      "gmacs": gmacs[setting],
      "images_per_s": images_per_s[setting],
      "two_dials": seeds.spread(trained["two_dials"][setting]),
      "same_steps": seeds.spread(trained["same_steps"][setting]),
      "fixed": seeds.spread(trained[config.fixed(setting)][setting]),
      "flexivit": seeds.spread(flexi[setting]) if setting in flexi else None,
    }
    for setting in done.scale.settings
  ]


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns what both dials in one model are to reach, and whether they do."""
  scale, plane = outcome.scale, planes.from_rows(outcome.rows)
  longer = (
    f"{scale.long_steps / scale.steps:g} times the steps of each of these"
  )
  near = [
    _near(
      "one model is within 1.5 points of the model trained for the setting "
      f"alone, at 80 % of the settings or more (it takes {longer})",
      plane.two_dials,
      plane.fixed,
    ),
    _near(
      "so is one that took no more steps than each of these",
      plane.same_steps,
      plane.fixed,
    ),
  ]
  if trained_out := planes.from_flexivit_curves(outcome):
    text = (
      "it is so near to ViTs of one patch size each that took 2,400 steps "
      "(flexivit_curves)"
    )
    near.append(_near(text, plane.two_dials, trained_out))
  speeds = plane.images_per_s
  fastest, slowest = (f(speeds, key=speeds.get) for f in (max, min))
  ratio = speeds[fastest] / speeds[slowest]
  return [
    *near,
    _front(plane, "hull by hull", hull.largest_gap),
    _front(
      plane,
      "model by model, at that hull's corners",
      hull.largest_gap_of_a_model,
    ),
    seeds.claim(
      "its cheapest setting is 8 times as fast as its dearest, from the same "
      "file",
      _GOAL,
      ">= 8x",
      f"{ratio:.1f}x ({planes.in_words(fastest)} against "
      f"{planes.in_words(slowest)})",
      ratio - 8,
    ),
  ]


def _near(text: str, plane: planes.Plane, fixed: planes.Plane) -> study.Row:
  """Judges whether a plane is near that of the fixed models.

  What counts is, of each seed, the worst of the best 80 % of the settings.
  """
  over = planes.points_over(plane, fixed)
  means = {s: statistics.fmean(values) for s, values in over.items()}
  near = [s for s, points in means.items() if points >= -_NEAR]
  worst = min(means, key=means.get)
  least = math.ceil(_MOST * len(over))
  return seeds.claim(
    text,
    _GOAL,
    ">= 80 %",
    f"{len(near)} of {len(over)} settings; worst {means[worst]:+.1f} points at "
    f"{planes.in_words(worst)}",
    [
      sorted(seed_points, reverse=True)[least - 1] + _NEAR
      for seed_points in zip(*over.values(), strict=True)
    ],
  )


def _front(plane: planes.Planes, way: str, largest_gap: hull.Gap) -> study.Row:
  """Judges the front of both dials by that of those with one dial alone."""

  def gap(seed: int | None = None) -> hull.Point:
    alone = [
      point
      for one in (plane.flexivit, plane.token_learner)
      for point in planes.points(one, plane.gmacs, seed)
    ]
    return largest_gap(alone, planes.points(plane.two_dials, plane.gmacs, seed))

  number = len(next(iter(plane.two_dials.values())))
  where, most = gap()
  side, bound = ("below", "most") if most > 0 else ("above", "least")
  return seeds.claim(
    "its front is nowhere more than 1 point below the upper hull of FlexiViT "
    "alone (as many steps) and TokenLearner alone (a model for each number), "
    + way,
    _GOAL,
    "<= 1 point",
    f"at {bound} {abs(most):.1f} points {side}, at {1000 * where:.1f} "
    "million multiply-adds",
    [1 - gap(seed)[1] for seed in range(number)],
  )


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the results of the README: settings, then claims."""

  def shown(values):
    return "" if values is None else seeds.percent(values, 1, "")

  settings = table.markdown(
    [
      {
        "patch size": row["patch_size"],
        "tokens": row["num_tokens"],
        "10⁶ multiply-adds": f"{1000 * row['gmacs']:.1f}",
        "images/s": f"{row['images_per_s']:.0f}",
        "both dials, %": shown(row["two_dials"]),
        "with as few steps": shown(row["same_steps"]),
        "trained for it alone, %": shown(row["fixed"]),
        "FlexiViT alone, %": shown(row["flexivit"]),
      }
      for row in outcome.rows
    ]
  )
  claims = seeds.table_of_claims(outcome.claims)
  return {f"results of {outcome.scale_name}": f"{settings}\n\n{claims}"}


STUDY = study.Study(
  name="two_dials",
  scales=config.SCALES,
  cells=lambda asked, scale: dict.fromkeys(config.cells_by_name(scale), ()),
  rows=rows,
  claims=claims,
  tables=tables,
  figures=pictures.figures,
)

if __name__ == "__main__":
  STUDY.start()
