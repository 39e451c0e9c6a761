"""The study's figure: average precisions by patch size."""

from collections.abc import Mapping, Sequence

from experiments import study
from experiments.flexivit_curves import curves
from experiments.transfer_detection import config
from tokenlearner_flexivit.figures import drawing

METRICS = {
  "AP": "AP",
  "AP_small": "AP of small objects",
  "AP_medium": "AP of medium objects",
  "AP50_seen": "AP50 of seen names",
  "AP50_novel": "AP50 of held-out names",
}
# Transfers: label, style, colour.
_LINES = {
  "boxes_flexible_at{coarse}": (
    "flexible, transferred at {coarse}",
    "o-",
    "#0072b2",
  ),
  config.ANY_SIZE: ("flexible, transferred at all sizes", "o--", "#cc79a7"),
  "boxes_coarse_at{coarse}": (
    "fixed coarse, transferred at {coarse}",
    "s-",
    "#d55e00",
  ),
  "boxes_fine_at{fine}": ("fixed fine, transferred at {fine}", "^:", "#777777"),
}
Measured = Mapping[str, Mapping[str, curves.Curve]]


def by_cell(rows: Sequence[study.Row]) -> Measured:
  """Returns the curves of the seeds by transfer and metric."""
  measured = {}
  for row in rows:
    cell = measured.setdefault(row["cell"], {})
    for metric in METRICS:
      values = row[metric]["by_seed"]
      cell.setdefault(metric, {})[row["patch_size"]] = values
  return measured


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file."""
  sizes, measured = outcome.scale.box_sizes, by_cell(outcome.rows)
  ends = dict(coarse=sizes[0], fine=sizes[-1])
  figure = drawing.Figure(figsize=(17, 4.8), layout="constrained")
  panels = figure.subplots(1, len(METRICS), sharex=True)
  for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
    for name, (label, style, color) in _LINES.items():
      curve = measured[name.format(**ends)][metric]
      curves.draw(axes, sizes, curve, label.format(**ends), style, color)
    axes.set_title(title, fontsize=10)
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(sizes)), map(str, sizes))
    axes.set_xlabel("patch size it is used at")
    study.tidy(axes)
  panels[0].set_ylabel("%, mean ± std of seeds")
  study.legend_below(figure, panels[0])
  return {f"figure{outcome.suffix}.png": figure}
