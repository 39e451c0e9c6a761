"""What the paper says, and this project's goals: whether they hold here."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experiments import seeds, study
from experiments.flexivit_curves import cells, curves, scales
from experiments.flexivit_curves.curves import Curve, Curves
from tokenlearner_flexivit.models import patch_embed

_GOAL = "this project's goal"
# Differences in points of the seeds, by patch size or by what else is compared.
Points = Mapping[Any, Sequence[float]]


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns the claims of the study."""
  scale, measured = outcome.scale, curves.from_rows(outcome.rows)
  sizes, smallest = scale.sizes, scale.sizes[-1]
  trained, own = measured.trained, measured.fixed(scale)
  flexi, distilled = trained["flexi"], trained["distilled_from_teacher"]
  far = _two_sizes_away(scale)
  lost = {
    f"{size} at {other}": seeds.points(
      measured.resized[size, "vanilla", False][other], own[size]
    )
    for size, other in far
  }
  kept = {
    f"{size} at {other}": seeds.points(flexi[other], flexi[size])
    for size, other in far
  }
  small = sizes[len(sizes) // 2 + 1 :]
  teacher = {size: own[smallest] for size in small}
  from_teacher = _over(distilled, trained["distilled"], sizes)
  buffers = {
    name: _mean_over_sizes(_over(trained[name], flexi, sizes))
    for name in cells.OTHER_BUFFERS
  }
  curriculum = _over(trained["curriculum"], flexi, sizes)
  flexible = _over(
    trained["made_flexible"], measured.resized[smallest, "pi", False], sizes
  )
  return [
    _claim(
      "FlexiViT is within 1.5 points of the fixed ViT of each size",
      f"FlexiViT, Figure 3; {_GOAL}",
      ">= -1.5 points at every size",
      _over(flexi, own, sizes),
      lambda point: point + 1.5,
    ),
    _claim(
      "FlexiViT is better than fixed ViTs with as many steps of their size: "
      "what it learns at one helps at others",
      "this project's question",
      "> 0 points at every size",
      _over(flexi, measured.few(scale), sizes),
    ),
    _claim(
      "a fixed ViT loses more than 15 points two sizes from its own (bilinear)",
      f"FlexiViT, Figure 3; {_GOAL}",
      "> 15 points",
      lost,
      lambda point: -15 - point,
    ),
    _claim(
      "FlexiViT does not",
      f"FlexiViT, Figure 3; {_GOAL}",
      "<= 15 points",
      kept,
      lambda point: point + 15,
    ),
    _claim(
      "distilled from the teacher and starting as it, FlexiViT is better than "
      "supervised at every size",
      f"FlexiViT, section 4.1; {_GOAL}",
      "> 0 points at every size",
      _over(distilled, flexi, sizes),
    ),
    _claim(
      "at small sizes it is within 1 point of the teacher",
      f"FlexiViT, section 4.1; {_GOAL}",
      f">= -1 point at {', '.join(map(str, small))}",
      _over(distilled, teacher, small),
      lambda point: point + 1,
    ),
    seeds.claim(
      "to start as the teacher helps distillation",
      "FlexiViT, section 4.1",
      "> 0 points on average",
      _listed(from_teacher),
      _mean_over_sizes(from_teacher),
    ),
    *_claims_on_resizing(scale, measured),
    _claim(
      "the sizes of the stored buffers have no effect (within 1 point on "
      "average over the sizes)",
      "FlexiViT, Figure 17 b, c",
      "about 0 points",
      buffers,
      lambda point: point + 1,
      lambda point: 1 - point,
    ),
    seeds.claim(
      "a curriculum from large to small patches is better at small ones",
      "FlexiViT, appendix (pre-training speed, as reported)",
      f"> 0 points at {smallest}",
      _listed(curriculum),
      curriculum[smallest],
    ),
    _outside(scale, flexi),
    seeds.claim(
      "a short training makes a plain ViT flexible: it gains at every size but "
      "its own, where it loses at most 1 point",
      _GOAL,
      f"> 0, and >= -1 at {smallest}",
      _listed(flexible),
      *(
        [point + (size == smallest) for point in points]
        for size, points in flexible.items()
      ),
    ),
    *(_claims_on_transfer(scale, measured) if scale.downstream else ()),
  ]


def _claim(
  text: str,
  source: str,
  expected: str,
  over: Points,
  *margins: Callable[[float], float],
) -> study.Row:
  """Judges points, all of which must have the margins (default: be above 0)."""
  return seeds.claim(
    text,
    source,
    expected,
    _listed(over),
    *(
      [margin(point) for point in points]
      for points in over.values()
      for margin in margins or (lambda point: point,)
    ),
  )


def _claims_on_resizing(
  scale: scales.Scale, measured: Curves
) -> list[study.Row]:
  """Judges Figure 4: the methods, with images that are resized along."""
  smallest = scale.sizes[-1]
  scaled = {
    method: measured.resized[smallest, method, True]
    for method in patch_embed.METHODS
  }
  up = [size for size in scaled["pi"] if size > smallest]
  down = [size for size in scaled["pi"] if size < smallest]
  before = dict.fromkeys(up, measured.fixed(scale)[smallest])
  means = {
    method: statistics.fmean(curves.percent(curve, size) for size in down)
    for method, curve in scaled.items()
  }
  return [
    _claim(
      "PI-resize is nearly lossless upwards (within 1 point)",
      "FlexiViT, Figure 4",
      "about 0 points",
      _over(scaled["pi"], before, up),
      lambda point: point + 1,
    ),
    seeds.claim(
      "PI-resize is the best of the four downwards",
      "FlexiViT, Figure 4",
      "best",
      ", ".join(f"{m}: {v:.1f} %" for m, v in means.items())
      + f" (mean over {', '.join(map(str, down))})",
      *(
        _mean_over_sizes(_over(scaled["pi"], curve, down))
        for method, curve in scaled.items()
        if method != "pi"
      ),
    ),
  ]


def _outside(scale: scales.Scale, flexi: Curve) -> study.Row:
  """Judges sizes beyond the trained ones: no cliff."""
  large, small = scale.sizes[0], scale.sizes[-1]
  larger = min(s for s in scale.outside if s > large)
  smaller = max(s for s in scale.outside if s < small)
  lost = {
    f"{outside} against {trained}": seeds.points(flexi[outside], flexi[trained])
    for outside, trained in ((larger, large), (smaller, small))
  }
  return seeds.claim(
    "outside of the trained sizes it degrades gradually: the next smaller one "
    "loses less than 5 points",
    "FlexiViT, appendix Q, Figure 30",
    "> -5 points",
    _listed(lost),
    [point + 5 for point in lost[f"{smaller} against {small}"]],
  )


def _claims_on_transfer(
  scale: scales.Scale, measured: Curves
) -> list[study.Row]:
  coarse, fine = scale.sizes[0], scale.sizes[-1]
  judged = []
  published = "81.8 % -> 85.3 % (ImageNet-1k, 8x8 -> 24x24)"
  for name, text, expected, gains in (
    ("distilled", "distilled flexible", published, True),
    ("flexible", "supervised flexible", "as this", True),
    ("fixed", "fixed", "collapses", False),
  ):
    curve = measured.trained[f"transfer_{name}"]
    points = seeds.points(curve[fine], curve[coarse])
    gain = seeds.plus_minus(*seeds.mean_and_error(points), "+.1f")
    judged.append(
      seeds.claim(
        f"fine-tuned at {coarse} and used at {fine}, the {text} backbone "
        f"{'gains' if gains else 'loses'}",
        f"FlexiViT, Figure 8; {_GOAL}",
        expected,
        f"{curves.percent(curve, coarse):.1f} % -> "
        f"{curves.percent(curve, fine):.1f} % ({gain})",
        points if gains else [-point for point in points],
      )
    )
  return judged


def _two_sizes_away(scale: scales.Scale) -> list[tuple[int, int]]:
  """Returns sizes of the three fixed models, each with one two from it."""
  sizes = scale.sizes
  return [
    (sizes[i], sizes[j])
    for i in (0, len(sizes) // 2, len(sizes) - 1)
    for j in (i - 2, i + 2)
    if 0 <= j < len(sizes)
  ]


def _over(over: Curve, under: Curve, sizes: Iterable[int]) -> Points:
  return {size: seeds.points(over[size], under[size]) for size in sizes}


def _mean_over_sizes(points: Points) -> list[float]:
  return [statistics.fmean(seed) for seed in zip(*points.values(), strict=True)]


def _listed(over: Points) -> str:
  return ", ".join(
    f"{key}: {statistics.fmean(points):+.1f}" for key, points in over.items()
  )
