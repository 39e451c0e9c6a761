"""Matplotlib without a backend, for figures that are only written to files.

A notebook sets MPLBACKEND to its own backend for all programs that it starts,
and importing Matplotlib fails where that backend is not installed. So this
module alone imports Matplotlib, without the variable.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

_backend = os.environ.pop("MPLBACKEND", None)
try:
  import matplotlib
finally:
  if _backend is not None:
    os.environ["MPLBACKEND"] = _backend
if _backend:
  with contextlib.suppress(ValueError):  # Figures of other code may use it.
    matplotlib.rcParams["backend"] = _backend

from matplotlib import (  # noqa: E402
  cm,
  colormaps,
  colors,
  lines,
  patches,
  ticker,
)
from matplotlib.artist import Artist  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from tokenlearner_flexivit import paths, terminal  # noqa: E402

__all__ = [
  "Figure",
  "cm",
  "colormaps",
  "colors",
  "lines",
  "log_axis",
  "patches",
  "save",
]


def save(figure: Figure, path: str | os.PathLike, dpi: int) -> None:
  """Writes a figure, whole or not at all, in the format of the path's suffix.

  Texts are drawn as they are, not as formulas: names of folders and of classes
  may have dollar signs, and bytes that are not UTF-8. Numbers along an axis may
  be formulas, such as powers of ten.

  Args:
    figure: the figure to write.
    path: the file to write.
    dpi: pixels per inch.
  """
  path = pathlib.Path(path)
  kind = path.suffix.removeprefix(".") or "png"
  for text in _texts(figure):
    text.set_parse_math(False)
    text.set_text(terminal.encodable(text.get_text()))
  for axis in figure.findobj(Axis):
    _write_names_plainly(axis)
  with paths.whole(path) as partial:
    figure.savefig(partial, dpi=dpi, format=kind)


def _texts(artist: Artist) -> Iterator[Text]:
  """Yields the texts of a figure or a part of it, but not those of axes."""
  if isinstance(artist, Text):
    yield artist
  elif not isinstance(artist, Axis):
    for child in artist.get_children():
      yield from _texts(child)


def _write_names_plainly(axis: Axis) -> None:
  """Makes names along an axis texts that can be drawn as they are."""
  if isinstance(axis.get_major_formatter(), ticker.ScalarFormatter):
    return
  if isinstance(axis.get_major_formatter(), ticker.LogFormatter):
    return
  ticks = axis.get_ticklabels()
  names = [text.get_text() for text in ticks]
  if (plain := [terminal.encodable(name) for name in names]) != names:
    ticks = axis.set_ticklabels(plain)
  for text in ticks:
    text.set_parse_math(False)


def log_axis(axes: Any, values: Sequence[float]) -> None:
  """Makes the x axis logarithmic, with few plain numbers that do not overlap.

  Args:
    axes: Matplotlib axes.
    values: the values on the x axis, all above 0.
  """
  low, high = min(values), max(values)
  axes.set_xscale("log")
  # A short range may hold no power of ten and no 1, 2 or 5 times one.
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
