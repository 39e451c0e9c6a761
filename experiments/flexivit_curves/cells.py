"""The trainings of the study: a cell for each, in the paper's letters.

What the letters mean: (a) fixed ViTs at all sizes, (b) FlexiViT, (c) a fixed
ViT per size, (d) distillation, (e) resize methods, (f) the distribution of
sizes, (g) the sizes of the stored buffers, (h) sizes outside of training, (i)
a plain ViT made flexible. (a), (e) and (h) evaluate what others train.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.flexivit_curves import scales

# Kernel and position embedding as the paper stores them (Figure 17 b, c).
PUBLISHED_BUFFERS = (32, 7)
# The cells that have other ones than FlexiViT here.
OTHER_BUFFERS = ("published_buffers", "middle_kernel", "small_grid")


@dataclasses.dataclass(frozen=True)
class Cell:
  """A training.

  Attributes:
    name: in tables and folders.
    text: what it is, for people.
    sizes: patch sizes that it trains at.
    kernel: side of the stored kernel.
    grid: side of the stored position embedding.
    weights: of the sizes, at the beginning; None for equal ones.
    end_weights: at the end; None if they do not change.
    init: the cell whose weights it starts from.
    teacher: the cell that it learns from, instead of labels.
    short: whether it takes `short_steps`.
    few: whether it takes no more steps than FlexiViT does at one size.
    downstream: whether it learns from other images, with a new head.
  """

  name: str
  text: str
  sizes: tuple[int, ...]
  kernel: int
  grid: int
  weights: tuple[float, ...] | None = None
  end_weights: tuple[float, ...] | None = None
  init: str | None = None
  teacher: str | None = None
  short: bool = False
  few: bool = False
  downstream: bool = False

  @property
  def needs(self) -> list[str]:
    """Returns the cells that must be trained before."""
    return [name for name in dict.fromkeys((self.init, self.teacher)) if name]


def own_buffers(scale: scales.Scale) -> tuple[int, int]:
  """Returns kernel and grid of the smallest patch size.

  Not those of the paper: from a kernel of 32, PI-resize to a small patch takes
  few of its values, others for each size. Of all sizes together each then
  learns alone, and within so few steps nothing.
  """
  smallest = scale.sizes[-1]
  return smallest, scale.side // smallest


def fixed(size: int) -> str:
  """Returns the name of the fixed ViT of a patch size."""
  return f"fixed{size}"


def few(size: int) -> str:
  """Returns the name of one with as few steps as FlexiViT has at its size."""
  return f"few{size}"


def cells_by_name(scale: scales.Scale) -> dict[str, Cell]:
  """Returns the cells of a scale by name; each after those that it needs."""
  sizes, own = scale.sizes, own_buffers(scale)
  teacher = fixed(sizes[-1])
  rising = tuple(range(1, len(sizes) + 1))
  cells = [
    Cell(fixed(p), f"ViT of patch size {p}", (p,), p, scale.side // p)
    for p in sizes
  ]

  cells += [
    Cell(
      few(p), f"the same, few steps, {p}", (p,), p, scale.side // p, few=True
    )
    for p in sizes
  ]

  def flexible(name, text, buffers=own, **kwargs):
    cells.append(Cell(name, text, sizes, *buffers, **kwargs))

  flexible("flexi", "FlexiViT")
  flexible("favour_small", "more steps at small patches", weights=rising)
  flexible("favour_large", "more steps at large ones", weights=rising[::-1])
  flexible(
    "curriculum",
    "from large patches to small ones",
    weights=rising[::-1],
    end_weights=rising,
  )
  flexible(
    "published_buffers", "the paper's buffers", buffers=PUBLISHED_BUFFERS
  )
  flexible("middle_kernel", "larger kernel", buffers=(scale.middle, own[1]))
  flexible("small_grid", "small position embedding", buffers=(own[0], 3))
  flexible("distilled", "distilled", teacher=teacher)
  flexible(
    "distilled_from_teacher",
    "distilled, starting as the teacher",
    teacher=teacher,
    init=teacher,
  )
  flexible(
    "made_flexible",
    "plain ViT made flexible by a short training",
    init=teacher,
    short=True,
  )
  if scale.downstream:
    coarse = sizes[0]
    coarse_buffers = coarse, scale.side // coarse
    # The paper's FlexiViT is distilled.
    for name, text, backbone, buffers in (
      ("flexible", "flexible", "flexi", own),
      ("distilled", "distilled flexible", "distilled_from_teacher", own),
      ("fixed", "fixed", fixed(coarse), coarse_buffers),
    ):
      cells.append(
        Cell(
          f"transfer_{name}",
          f"{text} backbone, fine-tuned at patch size {coarse}",
          (coarse,),
          *buffers,
          init=backbone,
          short=True,
          downstream=True,
        )
      )
  return {cell.name: cell for cell in cells}


def backbones(scale: scales.Scale) -> dict[str, Cell]:
  """Returns the cells that transfers start from, by what they are there.

  The paper's FlexiViT is distilled, from a teacher whose weights it starts as.
  """
  known = cells_by_name(scale)
  return {
    "flexible": known["distilled_from_teacher"],
    "coarse": known[fixed(scale.sizes[0])],
    "fine": known[fixed(scale.sizes[-1])],
  }


def backbones_with_needs(
  scale: scales.Scale, names: Iterable[str] | None = None
) -> dict[str, list[str]]:
  """Returns the cells of `backbones`, each with and after those it needs.

  Args:
    scale: of the study.
    names: keys of `backbones`; None for all.
  """
  known, chosen, ordered = cells_by_name(scale), backbones(scale), {}
  for name in chosen if names is None else names:
    for before in chosen[name].needs:
      ordered[before] = known[before].needs
    ordered[chosen[name].name] = chosen[name].needs
  return ordered


def needs_of_transfers(
  scale: scales.Scale, transfers: Sequence[Any]
) -> dict[str, list[str]]:
  """Returns backbones and transfers, each with and after those it needs.

  Args:
    scale: of the study.
    transfers: cells of other studies, whose `backbone` is a key of `backbones`.
  """
  known = backbones(scale)
  names = [transfer.backbone for transfer in transfers]
  return backbones_with_needs(scale, names) | {
    transfer.name: [known[transfer.backbone].name] for transfer in transfers
  }
