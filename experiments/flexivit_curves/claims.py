"""What the paper says, and this project's goals: whether they hold here."""

from collections.abc import Mapping

from experiments import study
from experiments.flexivit_curves import cells, curves, scales
from experiments.flexivit_curves.curves import Curve, Curves
from tokenlearner_flexivit.models import patch_embed

_GOAL = "this project's goal"


def claims(
  scale: scales.Scale, trained: Curves, tried: Mapping[tuple, Curve]
) -> list[study.Row]:
  """Judges; arguments as in `letters.of`.

  Returns:
    For each claim `claim`, `source`, `expected`, `measured` and `holds`.
  """
  sizes, smallest = scale.sizes, scale.sizes[-1]
  flexi, distilled = trained["flexi"], trained["distilled_from_teacher"]
  own = curves.of_fixed(scale, trained)
  found = []

  def claim(*args):
    found.append(study.claim(*args))

  over_own = _differences(flexi, own, sizes)
  claim(
    "FlexiViT is within 1.5 points of the fixed ViT of each size",
    f"FlexiViT, Figure 3; {_GOAL}",
    ">= -1.5 points at every size",
    _listed(over_own),
    min(over_own.values()) >= -1.5,
  )
  over_few = _differences(flexi, curves.of_few(scale, trained), sizes)
  claim(
    "FlexiViT is better than fixed ViTs with as many steps of their size: what "
    "it learns at one helps at others",
    "this project's question",
    "> 0 points at every size",
    _listed(over_few),
    min(over_few.values()) > 0,
  )
  far = _two_sizes_away(scale)
  lost = {
    (size, other): curves.points(own, size)
    - curves.points(tried[size, "vanilla", False], other)
    for size, other in far
  }
  claim(
    "a fixed ViT loses more than 15 points two sizes from its own (bilinear)",
    f"FlexiViT, Figure 3; {_GOAL}",
    "> 15 points",
    _listed({f"{a} at {b}": -value for (a, b), value in lost.items()}),
    min(lost.values()) > 15,
  )
  kept = {
    (size, other): curves.points(flexi, size) - curves.points(flexi, other)
    for size, other in far
  }
  claim(
    "FlexiViT does not",
    f"FlexiViT, Figure 3; {_GOAL}",
    "<= 15 points",
    _listed({f"{a} at {b}": -value for (a, b), value in kept.items()}),
    max(kept.values()) <= 15,
  )
  gains = _differences(distilled, flexi, sizes)
  claim(
    "distilled from the teacher and starting as it, FlexiViT is better than "
    "supervised at every size",
    f"FlexiViT, section 4.1; {_GOAL}",
    "> 0 points at every size",
    _listed(gains),
    min(gains.values()) > 0,
  )
  small = sizes[len(sizes) // 2 + 1 :]
  teacher = {size: own[smallest] for size in small}
  behind = _differences(distilled, teacher, small)
  claim(
    "at small sizes it is within 1 point of the teacher",
    f"FlexiViT, section 4.1; {_GOAL}",
    f">= -1 point at {', '.join(map(str, small))}",
    _listed(behind),
    min(behind.values()) >= -1,
  )
  from_teacher = _differences(distilled, trained["distilled"], sizes)
  claim(
    "to start as the teacher helps distillation",
    "FlexiViT, section 4.1",
    "> 0 points on average",
    _listed(from_teacher),
    _mean(from_teacher) > 0,
  )
  found += _of_resizing(scale, own, tried)
  buffers = {
    name: _differences(trained[name], flexi, sizes)
    for name in cells.OTHER_BUFFERS
  }
  claim(
    "the sizes of the stored buffers have no effect (within 1 point on "
    "average over the sizes)",
    "FlexiViT, Figure 17 b, c",
    "about 0 points",
    _listed({name: _mean(values) for name, values in buffers.items()}),
    max(abs(_mean(values)) for values in buffers.values()) <= 1,
  )
  curriculum = _differences(trained["curriculum"], flexi, sizes)
  claim(
    "a curriculum from large to small patches is better at small ones",
    "FlexiViT, appendix (pre-training speed, as reported)",
    f"> 0 points at {smallest}",
    _listed(curriculum),
    curriculum[smallest] > 0,
  )
  found.append(_outside(scale, flexi))
  flexible = _differences(
    trained["made_flexible"], tried[smallest, "pi", False], sizes
  )
  claim(
    "a short training makes a plain ViT flexible: it gains at every size but "
    "its own, where it loses at most 1 point",
    _GOAL,
    f"> 0, and >= -1 at {smallest}",
    _listed(flexible),
    all(v > (-1 if s == smallest else 0) for s, v in flexible.items()),
  )
  if scale.downstream:
    found += _of_transfer(scale, trained)
  return found


def _of_resizing(
  scale: scales.Scale, own: Curve, tried: Mapping[tuple, Curve]
) -> list[study.Row]:
  """Figure 4: the methods, with images that are resized along."""
  smallest = scale.sizes[-1]
  scaled = {
    method: tried[smallest, method, True] for method in patch_embed.METHODS
  }
  up = [size for size in scaled["pi"] if size > smallest]
  down = [size for size in scaled["pi"] if size < smallest]
  before = dict.fromkeys(up, own[smallest])
  lost = _differences(scaled["pi"], before, up)
  means = {
    method: sum(curves.points(curve, size) for size in down) / len(down)
    for method, curve in scaled.items()
  }
  return [
    study.claim(
      "PI-resize is nearly lossless upwards (within 1 point)",
      "FlexiViT, Figure 4",
      "about 0 points",
      _listed(lost),
      min(lost.values()) >= -1,
    ),
    study.claim(
      "PI-resize is the best of the four downwards",
      "FlexiViT, Figure 4",
      "best",
      ", ".join(f"{m}: {v:.1f} %" for m, v in means.items())
      + f" (mean over {', '.join(map(str, down))})",
      means["pi"] == max(means.values()),
    ),
  ]


def _outside(scale: scales.Scale, flexi: Curve) -> study.Row:
  """Sizes beyond the trained ones: no cliff."""
  large, small = scale.sizes[0], scale.sizes[-1]
  larger = min(s for s in scale.outside if s > large)
  smaller = max(s for s in scale.outside if s < small)
  lost = {
    (outside, trained): curves.points(flexi, outside)
    - curves.points(flexi, trained)
    for outside, trained in ((larger, large), (smaller, small))
  }
  return study.claim(
    "outside of the trained sizes it degrades gradually: the next smaller one "
    "loses less than 5 points",
    "FlexiViT, appendix Q, Figure 30",
    "> -5 points",
    _listed({f"{a} against {b}": value for (a, b), value in lost.items()}),
    lost[smaller, small] > -5,
  )


def _is_beyond(points: float, error: float | None) -> bool | None:
  """Tells whether points exceed what differs from seed to seed."""
  return None if error is None else points > error


def _of_transfer(scale: scales.Scale, trained: Curves) -> list[study.Row]:
  coarse, fine = scale.sizes[0], scale.sizes[-1]
  found = []
  published = "81.8 % -> 85.3 % (ImageNet-1k, 8x8 -> 24x24)"
  for name, text, expected, gains in (
    ("distilled", "distilled flexible", published, True),
    ("flexible", "supervised flexible", "as this", True),
    ("fixed", "fixed", "collapses", False),
  ):
    curve = trained[f"transfer_{name}"]
    gain, error = study.paired_difference(curve[fine], curve[coarse])
    found.append(
      study.claim(
        f"fine-tuned at {coarse} and used at {fine}, the {text} backbone "
        f"{'gains' if gains else 'loses'}",
        f"FlexiViT, Figure 8; {_GOAL}",
        expected,
        f"{curves.points(curve, coarse):.1f} % -> "
        f"{curves.points(curve, fine):.1f} % "
        f"({study.plus_minus(gain, error, '+.1f')})",
        _is_beyond(gain if gains else -gain, error),
      )
    )
  return found


def _two_sizes_away(scale: scales.Scale) -> list[tuple[int, int]]:
  """Pairs of the three fixed models' sizes and one two sizes from it."""
  sizes = scale.sizes
  return [
    (sizes[i], sizes[j])
    for i in (0, len(sizes) // 2, len(sizes) - 1)
    for j in (i - 2, i + 2)
    if 0 <= j < len(sizes)
  ]


def _differences(over: Curve, under: Curve, sizes: list[int]) -> dict:
  return {size: curves.difference(over, under, size)[0] for size in sizes}


def _mean(values: Mapping[int, float]) -> float:
  return sum(values.values()) / len(values)


def _listed(values: Mapping) -> str:
  return ", ".join(f"{key}: {value:+.1f}" for key, value in values.items())
