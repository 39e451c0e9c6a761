"""What both dials in one model are to reach, and whether they do."""

from collections.abc import Mapping, Sequence

from experiments import study
from experiments.two_dials import cells, hull, planes
from tokenlearner_flexivit import dials

_GOAL = "this project's goal"


def claims(
  scale: cells.Scale,
  trained: Mapping[str, planes.Plane],
  images_per_s: Mapping[dials.Setting, float],
  trained_out: planes.Plane,
) -> list[study.Row]:
  """Returns `claim`, `source`, `expected`, `measured`, `holds` of each.

  Args:
    scale: of the study.
    trained: planes by cell.
    images_per_s: of the model with both dials, from its file, measured.
    trained_out: of `planes.of_flexivit_curves`.
  """
  both, fixed = trained["two_dials"], planes.of_fixed(scale, trained)
  cost = planes.costs(scale)
  alone = [trained["patch_size"], planes.token_learners(scale, fixed)]
  one_dial = [point for plane in alone for point in planes.points(plane, cost)]
  fastest = max(images_per_s, key=images_per_s.get)
  slowest = min(images_per_s, key=images_per_s.get)
  ratio = images_per_s[fastest] / images_per_s[slowest]
  longer = (
    f"{scale.long_steps / scale.steps:g} times the steps of each of these"
  )
  found = [
    _near(
      "one model is within 1.5 points of the model trained for the setting "
      f"alone, at 80 % of the settings or more (it takes {longer})",
      both,
      fixed,
    ),
    _near(
      "so is one that took no more steps than each of these",
      trained["same_steps"],
      fixed,
    ),
  ]
  if trained_out:
    text = (
      "it is so near to ViTs of one patch size each that took 2,400 steps "
      "(flexivit_curves)"
    )
    found.append(_near(text, both, trained_out))
  return [
    *found,
    *_fronts(one_dial, planes.points(both, cost)),
    study.claim(
      "its cheapest setting is 8 times as fast as its dearest, from the same "
      "file",
      _GOAL,
      ">= 8x",
      f"{ratio:.1f}x ({planes.name_of(fastest)} against "
      f"{planes.name_of(slowest)})",
      ratio >= 8,
    ),
  ]


def _fronts(
  one_dial: Sequence[hull.Point], both: Sequence[hull.Point]
) -> list[study.Row]:
  """Judges the front of both dials by that of those with one dial alone."""
  text = (
    "its front is nowhere more than 1 point below the upper hull of FlexiViT "
    "alone (as many steps) and TokenLearner alone (a model for each number), "
  )
  ways = (
    ("hull by hull", hull.largest_gap),
    ("model by model, at that hull's corners", hull.largest_gap_of_a_model),
  )
  found = []
  for way, measure in ways:
    where, gap = measure(one_dial, both)
    side = "below" if gap > 0 else "above"
    most = "most" if gap > 0 else "least"
    found.append(
      study.claim(
        text + way,
        _GOAL,
        "<= 1 point",
        f"at {most} {abs(gap):.1f} points {side}, at {1000 * where:.1f} "
        "million multiply-adds",
        gap <= 1,
      )
    )
  return found


def _near(text: str, plane: planes.Plane, fixed: planes.Plane) -> study.Row:
  """Judges whether a plane is near that of the fixed models."""
  lost = planes.points_over(plane, fixed)
  near = [s for s, points in lost.items() if points >= -1.5]
  worst = min(lost, key=lost.get)
  return study.claim(
    text,
    _GOAL,
    ">= 80 %",
    f"{len(near)} of {len(lost)} settings; worst {lost[worst]:+.1f} points at "
    f"{planes.name_of(worst)}",
    len(near) >= 0.8 * len(lost),
  )
