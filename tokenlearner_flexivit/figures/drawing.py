"""Matplotlib without a backend, for figures that are only written to files.

A notebook sets MPLBACKEND to its own backend for all programs that it starts,
and importing Matplotlib fails where that backend is not installed. So this
module alone imports Matplotlib, without the variable.
"""

import contextlib
import functools
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
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
  font_manager,
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
  "font_file",
  "lines",
  "log_axis",
  "patches",
  "save",
]


def save(figure: Figure, path: str | os.PathLike, dpi: int) -> None:
  """Writes a figure, whole or not at all, in the format of the path's suffix.

  Texts are drawn as they are, not as formulas: names of folders and of classes
  may have dollar signs, and bytes that are not UTF-8. Numbers along an axis may
  be formulas, such as powers of ten. Letters that Matplotlib's font lacks, such
  as Chinese ones, are drawn by another font if one is installed; a warning
  names letters that none has.

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
  texts = figure.findobj(Text)
  fonts, missing = _further_fonts("".join(text.get_text() for text in texts))
  for text in texts if fonts else ():
    names = [font.name for font in fonts]
    text.set_fontfamily([*text.get_fontfamily(), *names])
  with contextlib.ExitStack() as stack:
    if missing:
      _warn_of_missing(missing)
      stack.enter_context(warnings.catch_warnings())
      warnings.filterwarnings("ignore", "Glyph ", UserWarning)  # Matplotlib's.
    partial = stack.enter_context(paths.whole(path))
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


def font_file(texts: Iterable[str]) -> str:
  """Returns the file of the font that has the most letters of texts.

  A warning names the letters that it lacks.
  """
  text = "".join(texts)
  fonts, _ = _further_fonts(text)
  files = [_own_font(), *(font.fname for font in fonts)]
  best = max(files, key=lambda file: len(text) - len(_missing(text, file)))
  if missing := _missing(text, best):
    _warn_of_missing(sorted({*missing}))
  return best


def _own_font() -> str:
  return font_manager.findfont(font_manager.FontProperties())


def _further_fonts(
  text: str,
) -> tuple[list[font_manager.FontEntry], list[str]]:
  """Returns fonts with letters that Matplotlib's lacks, and what none has."""
  missing = {*_missing(text, _own_font())}
  fonts = []
  # Upright ones of usual weight come first.
  for font in sorted(
    font_manager.fontManager.ttflist if missing else (),
    key=lambda font: (font.style != "normal", font.weight != 400, font.name),
  ):
    left = {*_missing(missing, font.fname)}
    if left < missing:
      fonts.append(font)
      missing = left
  return fonts, sorted(missing)


def _missing(letters: Iterable[str], file: str) -> list[str]:
  """Returns the letters that a font lacks."""
  own = _letters(file)
  return [x for x in letters if ord(x) not in own and x.isprintable()]


@functools.cache
def _letters(file: str) -> frozenset[int]:
  """Returns the characters of a font; none if Matplotlib cannot draw them."""
  try:
    font = font_manager.get_font(file)
  except (OSError, RuntimeError):  # Such as one of coloured bitmaps.
    return frozenset()
  # "Last Resort" has a box for every letter.
  is_real = font.scalable and not font.family_name.startswith("Last Resort")
  return frozenset(font.get_charmap() if is_real else ())


def _warn_of_missing(letters: Sequence[str]) -> None:
  more = " and others" if len(letters) > 10 else ""
  warnings.warn(
    f"No installed font has the letters {' '.join(letters[:10])}{more}, so "
    "that pictures show boxes in their place. Install one that has them, such "
    "as Noto Sans CJK.",
    stacklevel=3,
  )


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
