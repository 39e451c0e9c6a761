"""Upper hulls of accuracy over cost."""

from collections.abc import Callable, Sequence

import numpy as np

Point = tuple[float, float]
Gap = Callable[[Sequence[Point], Sequence[Point]], Point]
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
  """Returns where one hull is the most above another.

  Args:
    over: points of the one.
    under: points of the other.

  Returns:
    The cost, from where both begin, and by how much in accuracy; negative if
    nowhere above.
  """
  over, under = upper(over), upper(under)
  begin = max(over[0][0], under[0][0])
  costs = [begin, *(x for x, _ in (*over, *under) if x > begin)]
  gaps = np.interp(costs, *zip(*over, strict=True)) - np.interp(
    costs, *zip(*under, strict=True)
  )
  most = int(np.argmax(gaps))
  return costs[most], float(gaps[most])


def largest_gap_of_a_model(
  over: Sequence[Point], under: Sequence[Point]
) -> Point:
  """Returns at which corner of a hull another's models are the most below.

  What counts against a corner is the best of the points that cost no more:
  nothing is mixed, as on the edges of a hull.

  Args:
    over: points whose hull has the corners.
    under: points of the other.

  Returns:
    The cost of the corner, and how much higher it is in accuracy; negative if
    all corners are below. Corners cheaper than all of `under` are left out.
  """
  gaps = [
    (accuracy - max(reached), cost)
    for cost, accuracy in upper(over)
    if (reached := [y for x, y in under if x <= cost * (1 + _ROUNDING)])
  ]
  gap, cost = max(gaps)
  return cost, gap
