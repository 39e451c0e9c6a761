"""The curve of the dial: a metric by cost and by measured speed."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tokenlearner_flexivit.figures import settings_table
from tokenlearner_flexivit.figures.metric import Metric

Row = Mapping[str, Any]
# An axis of percents spans at least so many: on a shorter one small differences
# would look large.
LEAST_SPAN = 5.0


def size_name(row: Row) -> str:
  """Returns the patch size of a setting, for people: "16" or "16x8"."""
  size = row["patch_size"]
  if size is None:
    return "the model's own"
  return str(size) if isinstance(size, int) else "x".join(map(str, size))


def view(kind: str) -> str:
  """Returns the unit that a cost is for; a video may have several views."""
  return {"image": "image", "video": "view"}[kind]


def errors(
  values: Sequence[float], metric: Metric, count: int | None
) -> list[list[float]] | None:
  """Returns how far the intervals of a metric reach below and above it.

  Args:
    values: values of the metric, not scaled.
    metric: the metric.
    count: number of examples behind each value.

  Returns:
    The lengths as shown, in Matplotlib's form; None if the metric has no
    intervals.
  """
  bounds = [metric.interval(value, count) for value in values]
  if None in bounds:
    return None
  pairs = list(zip(map(metric.scaled, values), bounds, strict=True))
  return [
    [max(0.0, value - low) for value, (low, _) in pairs],
    [max(0.0, high - value) for value, (_, high) in pairs],
  ]


def span(axes: Any, metric: Metric) -> None:
  """Widens a y axis of percents that is shorter than `LEAST_SPAN`.

  What is added lies within 0 to 100 %.
  """
  if metric.unit != "%":
    return
  low, high = axes.get_ylim()
  missing = max(0.0, LEAST_SPAN - (high - low))
  below = min(missing / 2, max(low, 0.0))
  above = min(missing - below, max(100 - high, 0.0))
  axes.set_ylim(low - (missing - above), high + above)


def about_examples(count: int | None, kind: str, metric: Metric) -> str:
  """Returns in words how many examples a metric is of; "" if unknown."""
  if not count:
    return ""
  bars = ", bars hold 95 %" if metric.is_share else ""
  return f"{count:,} {kind}{'s' * (count > 1)}{bars}"


def draw(
  rows: Sequence[Row],
  path: pathlib.Path,
  title: str,
  headline: str,
  metric: Metric,
  num_examples: int | None = None,
  kind: str = "image",
) -> None:
  """Draws a metric against cost and measured throughput.

  Args:
    rows: rows of a report: patch_size, gmacs, images_per_s and the metric; its
      values before training are drawn, too, if they are there.
    path: the picture to write.
    title: title of the picture.
    headline: the key of the metric in the rows.
    metric: how it is shown.
    num_examples: examples behind the metric, for its intervals; None draws
      none.
    kind: what the model sees, "image" or "video".
  """
  # Matplotlib is imported only where something is drawn.
  from tokenlearner_flexivit.figures import drawing

  figure = drawing.Figure(figsize=(9, 4), layout="constrained")
  panels = (
    (f"multiply-adds per {view(kind)} in 10⁶", "#d55e00", "gmacs", 1e3),
    (f"{kind}s per second, measured", "#0072b2", "images_per_s", 1),
  )
  grid = figure.subplots(1, 2, sharey=True)
  for axes, (label, color, key, factor) in zip(grid, panels, strict=True):
    # Sorted along the axis, so that the line never runs back.
    ordered = sorted(rows, key=lambda row: row[key])
    x = [factor * row[key] for row in ordered]
    values = [row[headline] for row in ordered]
    y = [metric.scaled(value) for value in values]
    bars = errors(values, metric, num_examples)
    if all(settings_table.BEFORE in row for row in ordered):
      before = [metric.scaled(row[settings_table.BEFORE]) for row in ordered]
      axes.plot(x, before, "o--", color="#777777", label="before training")
      axes.legend(frameon=False)
    axes.errorbar(x, y, bars, fmt="o-", color=color, capsize=3, elinewidth=1)
    drawing.log_axis(axes, x)
    for i, row in enumerate(ordered):
      axes.annotate(
        size_name(row),
        (x[i], y[i]),
        textcoords="offset points",
        # On alternating sides, so that names of close points stay apart.
        xytext=((-4, 5), (4, -13))[i % 2],
        ha=("right", "left")[i % 2],
        fontsize=9,
      )
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    axes.margins(x=0.1, y=0.1)
    axes.spines[["top", "right"]].set_visible(False)
  span(grid[0], metric)
  grid[0].set_ylabel(metric.axis)
  # A model without this dial has no patch size at its point.
  has_sizes = any(row["patch_size"] is not None for row in rows)
  about = [
    "numbers at points: patch sizes in pixels" if has_sizes else "",
    about_examples(num_examples, kind, metric),
  ]
  figure.suptitle(f"{title}\n{'; '.join(filter(None, about))}", fontsize=11)
  drawing.save(figure, path, dpi=120)
