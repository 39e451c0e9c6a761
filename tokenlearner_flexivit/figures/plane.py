"""The plane of both dials: accuracy by patch size and learned tokens.

The settings that are worth choosing form the Pareto front: no other setting
costs as little and is as accurate.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit.figures import curve, heat_map
from tokenlearner_flexivit.figures.metric import Metric

Row = Mapping[str, Any]


def front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
  """Returns the settings that no other one dominates, from the cheapest on.

  Args:
    costs: cost of each setting.
    values: value of each setting, such as its accuracy; higher is better.

  Returns:
    Indices. Each setting costs more than the one before and has a higher value;
    equal settings appear once.
  """
  indices, best = [], -np.inf
  order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i]))
  for index in order:
    if values[index] > best:
      indices.append(index)
      best = values[index]
  return indices


def tokens_name(row: Row) -> str:
  """Returns the number of learned tokens of a setting, for people."""
  return str("all" if row["num_tokens"] is None else row["num_tokens"])


def is_plane(rows: Sequence[Row]) -> bool:
  """Tells whether rows have several numbers of learned tokens to draw."""
  return len({row["num_tokens"] for row in rows}) > 1


def draw(
  rows: Sequence[Row],
  path: pathlib.Path,
  title: str,
  headline: str,
  metric: Metric,
  num_examples: int | None = None,
  kind: str = "image",
) -> None:
  """Draws a metric as a heat map, and against cost and time with its fronts.

  Args:
    rows: rows of a report: patch_size, num_tokens, gmacs, images_per_s and the
      metric, one row for each pair of patch size and number of tokens.
    path: the picture to write.
    title: title of the picture.
    headline: the key of the metric in the rows.
    metric: how it is shown.
    num_examples: examples behind the metric, for its intervals; None draws
      none.
    kind: what the model sees, "image" or "video".
  """
  # Imported here, since many callers need `front` alone.
  from tokenlearner_flexivit.figures import drawing

  figure = drawing.Figure(figsize=(14, 4.3), layout="constrained")
  axes = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
  _heat_map(figure, axes[0], rows, headline, metric, num_examples)
  for axis, label, cost in (
    (
      axes[1],
      f"multiply-adds per {curve.view(kind)} in 10⁶",
      lambda r: 1e3 * r["gmacs"],
    ),
    (
      axes[2],
      f"milliseconds per {kind}, measured in batches",
      lambda r: 1e3 / r["images_per_s"],
    ),
  ):
    _scatter(axis, rows, headline, metric, num_examples, cost)
    axis.set_xlabel(label)
  axes[1].set_ylabel(metric.axis)
  # The legend is beside the panels: within them it would cover points.
  handles, labels = axes[1].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc="outside right center", frameon=False, fontsize=8
  )
  about = [
    "numbers at the front: learned tokens",
    curve.about_examples(num_examples, kind, metric),
  ]
  figure.suptitle(f"{title}\n{'; '.join(filter(None, about))}", fontsize=11)
  drawing.save(figure, path, dpi=120)


def _distinct(rows: Sequence[Row], key: Callable[[Row], Any]) -> list[Any]:
  return list(dict.fromkeys(map(key, rows)))


def _heat_map(
  figure: Any,
  axes: Any,
  rows: Sequence[Row],
  headline: str,
  metric: Metric,
  num_examples: int | None,
) -> None:
  sizes, tokens = _distinct(rows, curve.size_name), _distinct(rows, tokens_name)
  values = np.full((len(tokens), len(sizes)), np.nan)
  for row in rows:
    place = tokens.index(tokens_name(row)), sizes.index(curve.size_name(row))
    values[place] = row[headline]
  limits = _color_limits(values, metric, num_examples)
  pattern = "{:.1f}" if metric.unit == "%" else "{:.3g}"
  image = heat_map.draw(
    axes, metric.scaled(values), tokens, sizes, pattern, limits=limits
  )
  axes.set_xlabel("patch size in pixels")
  axes.set_ylabel("learned tokens")
  figure.colorbar(image, ax=axes, label=metric.axis)


def _color_limits(
  values: np.ndarray, metric: Metric, num_examples: int | None
) -> tuple[float, float]:
  """Returns limits so wide that colours do not show chance differences."""
  low, high = np.nanmin(values), np.nanmax(values)
  below, above = curve.errors([low, high], metric, num_examples) or (
    (0.0, 0.0),
    (0.0, 0.0),
  )
  low, high = metric.scaled(low), metric.scaled(high)
  # Only half of the intervals at both ends, so that real differences show.
  low, high = low - below[0] / 2, high + above[1] / 2
  least = curve.LEAST_SPAN if metric.unit == "%" else 0.0
  missing = max(0.0, least - (high - low)) / 2
  return float(low - missing), float(high + missing)


def _scatter(
  axes: Any,
  rows: Sequence[Row],
  headline: str,
  metric: Metric,
  num_examples: int | None,
  cost: Callable[[Row], float],
) -> None:
  from tokenlearner_flexivit.figures import drawing

  sizes = _distinct(rows, curve.size_name)
  colors = drawing.colormaps["viridis"](np.linspace(0, 0.85, len(sizes)))
  costs = [cost(row) for row in rows]
  shares = [row[headline] for row in rows]
  values = [metric.scaled(value) for value in shares]
  best = front(costs, values)
  axes.plot(
    [costs[i] for i in best],
    [values[i] for i in best],
    "--",
    color="#777777",
    zorder=0,
    label="front",
  )
  for size, color in zip(sizes, colors, strict=True):
    chosen = [i for i, row in enumerate(rows) if curve.size_name(row) == size]
    x, y = ([xs[i] for i in chosen] for xs in (costs, values))
    axes.errorbar(
      x,
      y,
      curve.errors([shares[i] for i in chosen], metric, num_examples),
      fmt="o",
      color=color,
      elinewidth=0.6,
      label=f"patch size {size}",
    )
  for index in best:
    axes.annotate(
      tokens_name(rows[index]),
      (costs[index], values[index]),
      textcoords="offset points",
      xytext=(-5, 6),
      ha="right",
      fontsize=8,
      # The box keeps the line from running through the text.
      bbox=dict(boxstyle="square,pad=0.1", fc="white", ec="none", alpha=0.7),
    )
  drawing.log_axis(axes, costs)
  axes.margins(x=0.08, y=0.12)
  curve.span(axes, metric)
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
