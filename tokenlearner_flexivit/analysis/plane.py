"""The plane of both dials: accuracy by patch size and learned tokens.

Its settings that are worth choosing are its Pareto front: no other one costs as
little and is as accurate.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit.analysis import heat_map

Row = Mapping[str, Any]


def front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
  """Returns the settings that no other one dominates, from the cheapest on.

  Args:
    costs: of the settings.
    values: the higher the better, such as accuracies.

  Returns:
    Indices. Each costs more than the one before and is worth more; of equal
    ones there is one.
  """
  found, best = [], -np.inf
  order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i]))
  for index in order:
    if values[index] > best:
      found.append(index)
      best = values[index]
  return found


def tokens_of(row: Row) -> str:
  """Returns the learned tokens of a setting, for people."""
  return str("all" if row["num_tokens"] is None else row["num_tokens"])


def draw(
  rows: Sequence[Row], path: pathlib.Path, title: str, headline: str
) -> None:
  """Draws a metric as a heat map, and against cost and time with its fronts.

  Args:
    rows: of a report: patch_size, num_tokens, gmacs, images_per_s and the
      metric, one row for each pair of patch size and number of tokens.
    path: the picture to write.
    title: above it.
    headline: the metric, in [0, 1].
  """
  # Here, as many use `front` where there is nothing to draw, and perhaps an
  # environment that names a backend which is not installed.
  from matplotlib import figure as mpl_figure

  figure = mpl_figure.Figure(figsize=(13, 4.3), layout="constrained")
  axes = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
  _heat_map(figure, axes[0], rows, headline)
  for axis, label, cost in (
    (axes[1], "multiply-adds per image in 10⁶", lambda r: 1e3 * r["gmacs"]),
    (
      axes[2],
      "milliseconds per image, measured in batches",
      lambda r: 1e3 / r["images_per_s"],
    ),
  ):
    _scatter(axis, rows, headline, cost)
    axis.set_xlabel(label)
  axes[1].set_ylabel(f"{headline} in %")
  figure.suptitle(title)
  figure.savefig(path, dpi=120)


def _distinct(rows: Sequence[Row], key: Callable[[Row], Any]) -> list[Any]:
  return list(dict.fromkeys(map(key, rows)))


def _size_of(row: Row) -> str:
  size = row["patch_size"]
  return str(size) if isinstance(size, int) else "x".join(map(str, size))


def _heat_map(
  figure: Any, axes: Any, rows: Sequence[Row], headline: str
) -> None:
  sizes, tokens = _distinct(rows, _size_of), _distinct(rows, tokens_of)
  values = np.full((len(tokens), len(sizes)), np.nan)
  for row in rows:
    place = tokens.index(tokens_of(row)), sizes.index(_size_of(row))
    values[place] = 100 * row[headline]
  image = heat_map.draw(axes, values, tokens, sizes, "{:.1f}")
  axes.set_xlabel("patch size in pixels")
  axes.set_ylabel("learned tokens")
  figure.colorbar(image, ax=axes, label=f"{headline} in %")


def _scatter(
  axes: Any,
  rows: Sequence[Row],
  headline: str,
  cost: Callable[[Row], float],
) -> None:
  import matplotlib
  from matplotlib import ticker

  sizes = _distinct(rows, _size_of)
  colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(sizes)))
  costs = [cost(row) for row in rows]
  values = [100 * row[headline] for row in rows]
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
    chosen = [i for i, row in enumerate(rows) if _size_of(row) == size]
    x, y = ([xs[i] for i in chosen] for xs in (costs, values))
    axes.plot(x, y, "o", color=color, label=f"patch size {size}")
  for index in best:
    axes.annotate(
      tokens_of(rows[index]),
      (costs[index], values[index]),
      textcoords="offset points",
      xytext=(0, 6),
      ha="center",
      fontsize=8,
    )
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  axes.margins(y=0.12)
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize=8)
