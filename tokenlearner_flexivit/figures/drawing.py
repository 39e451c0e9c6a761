"""Matplotlib for figures that need no backend: only files are drawn.

A notebook sets MPLBACKEND to a backend of its own for all programs that it
starts, and importing Matplotlib fails where that one is not installed. So it is
imported here, without, and nowhere else in this package.
"""

import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

_backend = os.environ.pop("MPLBACKEND", None)
try:
  import matplotlib
finally:
  if _backend is not None:
    os.environ["MPLBACKEND"] = _backend
if _backend:
  with contextlib.suppress(ValueError):  # It is for what others draw.
    matplotlib.rcParams["backend"] = _backend

from matplotlib import cm, colormaps, colors, lines, ticker  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from tokenlearner_flexivit import paths  # noqa: E402

__all__ = ["Figure", "cm", "colormaps", "colors", "lines", "log_axis", "save"]


def save(figure: Figure, path: str | os.PathLike, dpi: int) -> None:
  """Writes a figure, whole or not at all, as the kind that its name ends with.

  Args:
    figure: to write.
    path: of the file.
    dpi: pixels per inch.
  """
  path = pathlib.Path(path)
  kind = path.suffix.removeprefix(".") or "png"
  with paths.whole(path) as partial:
    figure.savefig(partial, dpi=dpi, format=kind)


def log_axis(axes: Any, values: Sequence[float]) -> None:
  """Makes the x axis logarithmic, with few plain numbers that do not overlap.

  Args:
    axes: of Matplotlib.
    values: what is drawn, all above 0.
  """
  low, high = min(values), max(values)
  axes.set_xscale("log")
  # Of less than a factor of two or so the powers and their parts show nothing.
  if high < 3 * low:
    locator = ticker.MaxNLocator(nbins=4, steps=(1, 2, 5, 10))
  elif high < 100 * low:
    locator = ticker.LogLocator(subs=(1, 2, 5))
  else:
    locator = ticker.LogLocator(subs=(1,))
  axes.xaxis.set_major_locator(locator)
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(_plain))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _plain(value: float, position: int | None) -> str:
  """Returns a number as people write it: "1,200", "0.5", "3e-05"."""
  del position
  return f"{value:,.0f}" if value >= 1000 else f"{value:.5g}"
