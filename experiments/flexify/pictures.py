"""The study's figure: neighbours and similarity by patch size."""

from collections.abc import Mapping, Sequence

from experiments import study
from experiments.flexify import config
from experiments.flexivit_curves import curves
from tokenlearner_flexivit.figures import drawing

# Evaluations with their metrics, and titles.
METRICS = {
  config.NEIGHBOURS: ("knn", "k-NN accuracy in %"),
  config.SIMILARITY: ("cosine", "cosine to the teacher's representation in %"),
}
BEFORE, AFTER = TIMES = ("before", "after")
_LINES = {
  BEFORE: ("PI-resize alone", "s--", "#d55e00"),
  AFTER: ("made flexible without labels", "o-", "#0072b2"),
}
Measured = Mapping[str, Mapping[str, curves.Curve]]


def by_metric(rows: Sequence[study.Row]) -> Measured:
  """Returns the curves of the seeds by evaluation, before and after."""
  measured = {name: {time: {} for time in TIMES} for name in METRICS}
  for row in rows:
    for name, times in measured.items():
      for time, curve in times.items():
        curve[row["patch_size"]] = row[f"{name}_{time}"]["by_seed"]
  return measured


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file."""
  sizes = config.evaluated(outcome.scale)
  measured, own = by_metric(outcome.rows), outcome.scale.sizes[-1]
  figure = drawing.Figure(figsize=(10, 4.4), layout="constrained")
  panels = figure.subplots(1, len(METRICS))
  for axes, (name, (_, title)) in zip(panels, METRICS.items(), strict=True):
    for time, (label, style, color) in _LINES.items():
      curves.draw(axes, sizes, measured[name][time], label, style, color)
    axes.axhline(
      curves.percent(measured[name][BEFORE], own),
      color="#777777",
      linewidth=1,
      label=f"the teacher, at {own}",
    )
    for size in outcome.scale.never_drawn:
      axes.axvspan(
        *(sizes.index(size) + side for side in (-0.4, 0.4)),
        color="#eeeeee",
        zorder=0,
      )
    axes.set_title(title, fontsize=10)
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(sizes)), map(str, sizes))
    axes.set_xlabel("patch size (grey: never trained at)")
    study.tidy(axes)
  panels[0].set_ylabel("mean ± std of seeds")
  study.legend_below(figure, panels[0])
  return {f"figure{outcome.suffix}.png": figure}
