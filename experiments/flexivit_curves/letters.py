"""The items of the study, each with what the paper says and what to draw."""

import dataclasses
from collections.abc import Sequence

from experiments.flexivit_curves import cells, scales
from experiments.flexivit_curves.curves import Curve, Curves


@dataclasses.dataclass(frozen=True)
class Letter:
  """An item.

  Attributes:
    key: the letter, in names of files.
    title: of section and picture.
    published: what the paper says, and where.
    curves: what is drawn, by label.
    highlighted: labels of the curves that stand out.
    axis: what the sizes are.
    dashed: labels of curves to compare with.
  """

  key: str
  title: str
  published: str
  curves: dict[str, Curve]
  highlighted: Sequence[str] = ("FlexiViT",)
  axis: str = "patch size in pixels: cheap to accurate"
  dashed: Sequence[str] = ()


def letters(scale: scales.Scale, measured: Curves) -> list[Letter]:
  """Returns the items, from all curves of the study."""
  trained, resized = measured.trained, measured.resized
  sizes, smallest = scale.sizes, scale.sizes[-1]
  flexi = {size: trained["flexi"][size] for size in sizes}
  own = measured.fixed(scale)
  upper, lower = "a ViT for each size", "the same, with FlexiViT's steps there"
  before = f"before, ViT/{smallest} with PI-resize"
  rough = {
    f"ViT/{size}, {name}": resized[size, method, False]
    for size in (sizes[0], scale.middle, smallest)
    for method, name in (("vanilla", "bilinear"), ("pi", "PI-resize"))
  }
  items = [
    Letter(
      "a",
      "Standard ViTs are not flexible",
      "A ViT evaluated at another patch size than its own quickly gets worse "
      "(Figure 3).",
      {"FlexiViT": flexi, **rough},
      dashed=[label for label in rough if "bilinear" in label],
    ),
    Letter(
      "bc",
      "One set of weights against a ViT for each size",
      "FlexiViT matches ViTs of fixed sizes, often a little better at small "
      "patches and a little worse at large ones (Figures 3 and 5).",
      {"FlexiViT": flexi, upper: own, lower: measured.few(scale)},
      dashed=[upper, lower],
    ),
    Letter(
      "d",
      "Distillation",
      "Distilled from a teacher of small patches, and starting with its "
      "weights, FlexiViT is better than supervised (section 4.1).",
      {
        "FlexiViT": flexi,
        "distilled, from the teacher's weights": trained[
          "distilled_from_teacher"
        ],
        "distilled, from random weights": trained["distilled"],
        f"the teacher, ViT/{smallest}": {smallest: own[smallest]},
      },
    ),
    Letter(
      "e",
      "How to resize the patch embedding",
      "Images resized along with the patches: PI-resize is nearly lossless "
      "upwards and the most stable downwards; plain bilinear and the norm and "
      "area heuristics are worse (Figure 4).",
      {
        label: resized[smallest, method, True]
        for method, label in (
          ("pi", "PI-resize"),
          ("area", "area heuristic"),
          ("norm", "norm heuristic"),
          ("vanilla", "bilinear"),
        )
      },
      highlighted=("PI-resize",),
      axis="patch size in pixels, of images resized along",
    ),
    Letter(
      "f",
      "How often each size is drawn",
      "The paper draws uniformly; a curriculum from large patches to small "
      "ones speeds up pre-training (about +1 point at equal cost, as "
      "reported). Values for other distributions were not found.",
      {
        "FlexiViT": flexi,
        "favouring small": trained["favour_small"],
        "favouring large": trained["favour_large"],
        "curriculum, large to small": trained["curriculum"],
      },
    ),
    Letter(
      "g",
      "The sizes of the stored buffers",
      "No effect (Figure 17 b, c).",
      {
        "FlexiViT": flexi,
        **{
          f"kernel {cell.kernel}, grid {cell.grid}": trained[cell.name]
          for cell in cells.cells_by_name(scale).values()
          if cell.name in cells.OTHER_BUFFERS
        },
      },
    ),
    Letter(
      "h",
      "Sizes outside of training",
      "It degrades gradually (appendix Q, Figure 30).",
      {"FlexiViT": trained["flexi"], upper: own},
      dashed=[upper],
    ),
    Letter(
      "i",
      "A plain ViT made flexible by a short training",
      "Possible; values were not found.",
      {
        "FlexiViT": flexi,
        "made flexible": trained["made_flexible"],
        before: resized[smallest, "pi", False],
      },
      dashed=[before],
    ),
  ]
  if scale.downstream:
    items.append(
      Letter(
        "transfer",
        f"Fine-tuned at patch size {sizes[0]}, used at all",
        "Fine-tuned on ImageNet-1k on a grid of 8x8 patches FlexiViT has "
        "81.8 %, on 24x24 then 85.3 %; a plain ViT-B/30 collapses away from "
        "its size (Figure 8). Here a new head is learned on 2,000 images that "
        "the backbone has not seen.",
        {
          "flexible backbone, distilled": trained["transfer_distilled"],
          "flexible backbone": trained["transfer_flexible"],
          "fixed backbone": trained["transfer_fixed"],
        },
        highlighted=("flexible backbone, distilled",),
      )
    )
  return items
