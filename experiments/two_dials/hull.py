"""Upper hulls and fronts of accuracy over cost."""

from collections.abc import Sequence

Point = tuple[float, float]
_ROUNDING = 1e-9  # The same setting of two models costs the same.


def upper(points: Sequence[Point]) -> list[Point]:
  """Returns the corners of the upper hull of points (cost, accuracy).

  From the cheapest to the most accurate point. What lies on its edges is
  reached, on average, by using one corner's model for some images and the next
  one's for the others.
  """
  corners = []
  for point in sorted(points, key=lambda p: (p[0], -p[1])):
    if corners and point[1] <= corners[-1][1]:
      continue
    while len(corners) > 1 and _is_below(corners[-1], corners[-2], point):
      corners.pop()
    corners.append(point)
  return corners


def _is_below(point: Point, left: Point, right: Point) -> bool:
  share = (point[0] - left[0]) / (right[0] - left[0])
  return point[1] <= left[1] + share * (right[1] - left[1])


def largest_gap(over: Sequence[Point], under: Sequence[Point]) -> Point:
  """Returns where a front is the most below the corners of another one's hull.

  At a corner stands a model; what counts against it is the best of the points
  that cost no more. Between corners the hull is a mixture of two models, which
  no single point has to match.

  Args:
    over: points whose hull it is.
    under: points of the front.

  Returns:
    The cost of the corner, and how much higher it is in accuracy; negative if
    the front is above all corners. Corners that are cheaper than all of `under`
    are left out.
  """
  gaps = [
    (accuracy - max(reached), cost)
    for cost, accuracy in upper(over)
    if (reached := [y for x, y in under if x <= cost * (1 + _ROUNDING)])
  ]
  gap, cost = max(gaps)
  return cost, gap
