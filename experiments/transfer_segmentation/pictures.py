"""The study's figure: mIoU by patch size, by backbone and transfer."""

from collections.abc import Mapping, Sequence

from experiments import study
from experiments.flexivit_curves import curves, scales
from experiments.transfer_segmentation import config
from tokenlearner_flexivit.figures import drawing

_BACKBONES = {  # Label and style.
  "flexible": ("flexible backbone", "o-", "#0072b2"),
  "coarse": ("backbone of patch size {coarse}", "s-", "#d55e00"),
  "fine": ("backbone of patch size {fine}", "^-", "#009e73"),
}


def by_cell(rows: Sequence[study.Row]) -> dict[str, curves.Curve]:
  """Returns the mIoU of the seeds by transfer and patch size."""
  measured = {}
  for row in rows:
    curve = measured.setdefault(row["cell"], {})
    curve[row["patch_size"]] = row["mIoU"]["by_seed"]
  return measured


def ceilings(rows: Sequence[study.Row]) -> dict[int, float]:
  """Returns the best mIoU of a label map of each patch size's grid."""
  return {row["patch_size"]: row["ceiling"] for row in rows}


def one_per_size(
  scale: scales.Scale, measured: Mapping[str, curves.Curve]
) -> curves.Curve:
  """Returns the flexible backbone's mIoU, fine-tuned anew for each size."""
  return {s: measured[config.transfer("flexible", s)][s] for s in scale.sizes}


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file."""
  scale, measured = outcome.scale, by_cell(outcome.rows)
  coarse, fine = scale.sizes[0], scale.sizes[-1]
  figure = drawing.Figure(figsize=(12, 4.8), layout="constrained")
  panels = figure.subplots(1, 3, sharey=True)
  for axes, size in zip(panels, (coarse, fine), strict=False):
    for name, (label, style, colour) in _BACKBONES.items():
      curve = measured[config.transfer(name, size)]
      text = label.format(coarse=coarse, fine=fine)
      curves.draw(axes, scale.sizes, curve, text, style, colour)
    axes.set_title(f"Fine-tuned at patch size {size}")
  axes = panels[-1]
  each, any_size = one_per_size(scale, measured), measured[config.ANY_SIZE]
  curves.draw(axes, scale.sizes, each, "one per size", "D--", "#777777")
  curves.draw(axes, scale.sizes, any_size, "one for all sizes", "o-", "#cc79a7")
  axes.set_title("The flexible backbone at equal steps")
  best = ceilings(outcome.rows)
  for axes in panels:
    axes.plot(
      range(len(scale.sizes)),
      [100 * best[size] for size in scale.sizes],
      ":",
      color="black",
      label="ceiling of the grid",
    )
    axes.set_xticks(range(len(scale.sizes)), map(str, scale.sizes))
    axes.set_xlabel("patch size it is used at")
    axes.legend(
      frameon=False,
      fontsize=9,
      ncols=2,
      loc="upper center",
      bbox_to_anchor=(0.5, -0.17),
    )
    study.tidy(axes)
  panels[0].set_ylabel("mIoU in %, mean ± std of seeds")
  return {f"figure{outcome.suffix}.png": figure}
