"""What both dials in one model are to reach, and whether they do."""

from collections.abc import Mapping

from experiments import study
from experiments.two_dials import cells, hull, planes
from tokenlearner_flexivit import dials

_GOAL = "this project's goal"


def claims(
  scale: cells.Scale,
  trained: Mapping[str, planes.Plane],
  images_per_s: Mapping[dials.Setting, float],
) -> list[study.Row]:
  """Returns `claim`, `source`, `expected`, `measured`, `holds` of each.

  Args:
    scale: of the study.
    trained: planes by cell.
    images_per_s: of the model with both dials, from its file, measured.
  """
  both, fixed = trained["two_dials"], planes.of_fixed(scale, trained)
  cost = planes.costs(scale)
  alone = [trained["patch_size"], planes.token_learners(scale, fixed)]
  one_dial = [point for plane in alone for point in planes.points(plane, cost)]
  where, gap = hull.largest_gap(one_dial, planes.points(both, cost))
  fastest = max(images_per_s, key=images_per_s.get)
  slowest = min(images_per_s, key=images_per_s.get)
  ratio = images_per_s[fastest] / images_per_s[slowest]
  longer = (
    f"{scale.long_steps / scale.steps:g} times the steps of each of these"
  )
  return [
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
    study.claim(
      "its front is nowhere more than 1 point below the corners of the upper "
      "hull of FlexiViT alone (as many steps) and TokenLearner alone (a model "
      "for each number)",
      _GOAL,
      "<= 1 point",
      f"{max(gap, 0):.1f} points below at the most, where a model takes "
      f"{1000 * where:.1f} million multiply-adds",
      gap <= 1,
    ),
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


def _near(text: str, plane: planes.Plane, fixed: planes.Plane) -> study.Row:
  """Judges whether a plane is near that of the fixed models."""
  lost = {s: study.paired_difference(plane[s], fixed[s])[0] for s in fixed}
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
