"""The study's figure: zero-shot accuracies and recall by patch size."""

from collections.abc import Mapping, Sequence
from typing import Any

from configs import captions_scenes
from experiments import study
from experiments.flexivit_curves import curves
from experiments.transfer_retrieval import config
from tokenlearner_flexivit.figures import drawing

RECALL, PRECISION = "R1", "mAP"  # Of transfers and of image towers.
METRICS = (*captions_scenes.ATTRIBUTES, RECALL)
TITLES = {name: f"zero-shot {name}" for name in captions_scenes.ATTRIBUTES} | {
  RECALL: "R@1, mean of both ways"
}
# Transfers by what follows the name of their way: label, style, colour.
_LINES = {
  "flexible_at{coarse}": ("flexible, texts at {coarse}", "o-", "#0072b2"),
  "any_size": ("flexible, texts at all sizes", "o--", "#cc79a7"),
  "coarse_at{coarse}": ("fixed {coarse}, texts at {coarse}", "s-", "#d55e00"),
  "fine_at{coarse}": ("fixed {fine}, texts at {coarse}", "^-", "#009e73"),
  "fine_at{fine}": ("fixed {fine}, texts at {fine}", "^--", "#777777"),
}
Measured = Mapping[str, Mapping[str, curves.Curve]]


def by_cell(rows: Sequence[study.Row]) -> Measured:
  """Returns the curves of the seeds by cell and metric."""
  measured = {}
  for row in rows:
    for metric in (*METRICS, PRECISION):
      if metric in row:
        curve = measured.setdefault(row["cell"], {}).setdefault(metric, {})
        curve[row["patch_size"]] = row[metric]["by_seed"]
  return measured


def draw_transfers(
  axes: Any, sizes: Sequence[int], by_ending: Mapping[str, curves.Curve]
) -> None:
  """Draws the curves of transfers over patch sizes.

  Args:
    axes: of Matplotlib.
    sizes: from large to small.
    by_ending: the curves, by what follows the name of their way.
  """
  ends = dict(coarse=sizes[0], fine=sizes[-1])
  for ending, (label, style, colour) in _LINES.items():
    curve = by_ending.get(ending.format(**ends))
    if curve is not None:
      curves.draw(axes, sizes, curve, label.format(**ends), style, colour)
  axes.set_xticks(range(len(sizes)), map(str, sizes))
  study.tidy(axes)


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file."""
  scale, measured = outcome.scale, by_cell(outcome.rows)
  figure = drawing.Figure(figsize=(17, 7), layout="constrained")
  panels = figure.subplots(
    len(config.WAYS), len(METRICS), sharex=True, sharey="col"
  )
  for row, way in zip(panels, config.WAYS, strict=True):
    for axes, metric in zip(row, METRICS, strict=True):
      draw_transfers(
        axes,
        scale.sizes,
        {
          name.removeprefix(f"{way}_"): cell[metric]
          for name, cell in measured.items()
          if name.startswith(way)
        },
      )
      axes.set_title(f"{way}: {TITLES[metric]}", fontsize=10)
    row[0].set_ylabel("%, mean ± std of seeds")
  for axes in panels[-1]:
    axes.set_xlabel("patch size it is used at")
  study.legend_below(figure, panels[0][0])
  return {f"figure{outcome.suffix}.png": figure}
