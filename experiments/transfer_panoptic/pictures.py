"""The study's figure: panoptic quality by patch size and number of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import study
from experiments.flexivit_curves import curves
from experiments.transfer_panoptic import config
from tokenlearner_flexivit.figures import drawing

METRICS = ("PQ", "SQ", "RQ")
# Transfers: label, style, colour.
_LINES = {
  "panoptic_flexible_at{coarse}": (
    "flexible, transferred at {coarse}",
    "o-",
    "#0072b2",
  ),
  config.ANY_SIZE: ("flexible, transferred at all sizes", "o--", "#cc79a7"),
  "panoptic_coarse_at{coarse}": ("fixed coarse, at {coarse}", "s-", "#d55e00"),
  "panoptic_fine_at{fine}": ("fixed fine, at {fine}", "^:", "#777777"),
}
_COLORS = ("#e69f00", "#d55e00", "#cc79a7", "#0072b2")
# The curve of a cell's metric at a number of tokens, None without TokenLearner.
Measured = Mapping[str, Mapping[int | str | None, Mapping[str, curves.Curve]]]


def by_cell(rows: Sequence[study.Row]) -> Measured:
  """Returns the curves of the seeds by transfer, tokens and metric."""
  measured = {}
  for row in rows:
    cell = measured.setdefault(row["cell"], {})
    by_metric = cell.setdefault(row["num_tokens"], {})
    for metric in METRICS:
      curve = by_metric.setdefault(metric, {})
      curve[row["patch_size"]] = row[metric]["by_seed"]
  return measured


def ceiling(rows: Sequence[study.Row]) -> list[float]:
  """Returns the PQ of what the codes keep of the labels, of each seed."""
  return rows[0]["ceiling"]["by_seed"]


def figures(outcome: study.Outcome) -> dict[str, drawing.Figure]:
  """Returns the figure by its file."""
  scale, measured = outcome.scale, by_cell(outcome.rows)
  ends = dict(coarse=scale.sizes[0], fine=scale.sizes[-1])
  figure = drawing.Figure(figsize=(15, 5.2), layout="constrained")
  by_size, dials, tokens = figure.subplots(1, 3, sharey=True)
  for name, (label, style, color) in _LINES.items():
    curve = measured[name.format(**ends)][None]["PQ"]
    text = label.format(**ends)
    curves.draw(by_size, scale.sizes, curve, text, style, color)
  by_size.set_title("One dial: patch size")
  for number, color in zip((*scale.numbers, config.ALL), _COLORS, strict=True):
    curve = measured[config.BOTH_DIALS][number]["PQ"]
    curves.draw(dials, scale.sizes, curve, f"{number} tokens", "o-", color)
  dials.set_title("Both dials in one model")
  for axes in (by_size, dials):
    axes.set_xticks(range(len(scale.sizes)), map(str, scale.sizes))
    axes.set_xlabel("patch size it is used at")
  _draw_tokens(tokens, scale, measured)
  tokens.set_title(f"Patch size {scale.middle}: learned, or averages")
  tokens.set_xticks(range(len(scale.numbers)), map(str, scale.numbers))
  tokens.set_xlabel("tokens that the decoder reads")
  best = outcome.rows[0]["ceiling"]["mean"]
  for axes in (by_size, dials, tokens):
    axes.axhline(100 * best, ls=":", color="black", label="ceiling of the code")
    axes.legend(
      frameon=False,
      fontsize=8,
      ncols=2,
      loc="upper center",
      bbox_to_anchor=(0.5, -0.15),
    )
    study.tidy(axes)
  by_size.set_ylabel("PQ in %, mean ± std of seeds")
  return {f"figure{outcome.suffix}.png": figure}


def _draw_tokens(axes: Any, scale: config.Scale, measured: Measured) -> None:
  """Draws the quality by the number of tokens, each its own training."""
  for cell, label, style, color in (
    (config.learned, "learned", "o-", "#0072b2"),
    (config.averages, "averages over rectangles", "s-", "#e69f00"),
  ):
    curve = {n: measured[cell(n)][n]["PQ"][scale.middle] for n in scale.numbers}
    curves.draw(axes, scale.numbers, curve, label, style, color)
