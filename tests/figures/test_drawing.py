"""Figures: how they are written."""

import warnings

import numpy as np
import pytest
from fontTools import fontBuilder
from fontTools.pens import ttGlyphPen
from PIL import Image

from tokenlearner_flexivit.figures import drawing


def write_font(path, letters):
  """Writes a font of filled squares for letters."""
  pen = ttGlyphPen.TTGlyphPen(None)
  for move, point in zip(
    (pen.moveTo, pen.lineTo, pen.lineTo, pen.lineTo),
    ((0, 0), (0, 900), (900, 900), (900, 0)),
    strict=True,
  ):
    move(point)
  pen.closePath()
  square = pen.glyph()
  names = [".notdef", *(f"uni{ord(x):04X}" for x in letters)]
  builder = fontBuilder.FontBuilder(1000, isTTF=True)
  builder.setupGlyphOrder(names)
  builder.setupCharacterMap({ord(x): f"uni{ord(x):04X}" for x in letters})
  builder.setupGlyf(dict.fromkeys(names, square))
  builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
  builder.setupHorizontalHeader(ascent=900, descent=-100)
  builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
  builder.setupOS2(sTypoAscender=900)
  builder.setupPost()
  builder.save(path)


def test_letters_that_the_font_lacks(tmp_path, monkeypatch):
  """Another font draws them, and a warning names those that none has."""
  manager = drawing.font_manager.fontManager
  own = [font for font in manager.ttflist if font.name == "DejaVu Sans"]
  monkeypatch.setattr(manager, "ttflist", own)

  def save(name):
    figure = drawing.Figure(figsize=(2, 2), layout="constrained")
    axes = figure.subplots()
    axes.set_title("犬", fontsize=30)
    axes.set_xticks([0, 1], ["é", "犬"])
    drawing.save(figure, tmp_path / name, dpi=50)
    return (np.asarray(Image.open(tmp_path / name).convert("L")) < 50).mean()

  with pytest.warns(
    UserWarning, match="No installed font has .* 犬, so"
  ) as told:
    boxes = save("boxes.png")
  assert len(told) == 1  # Matplotlib's own, one per text, are not shown.
  with pytest.warns(UserWarning, match="犬"):
    drawing.font_file(["dog 犬"])
  file = tmp_path / "squares.ttf"
  write_font(file, "犬dog ")
  monkeypatch.setattr(manager, "ttflist", own)
  manager.addfont(file)
  with warnings.catch_warnings(action="error"):
    assert save("squares.png") > boxes + 0.02
    assert drawing.font_file(["dog 犬"]) == str(file)
    assert drawing.font_file(["dog é"]) != str(file)


def test_names_are_no_formulas_but_powers_of_ten_are(tmp_path):
  """Of the first, Matplotlib could draw neither the formula nor the byte."""
  figure = drawing.Figure()
  axes = figure.subplots()
  axes.loglog([1, 1000], [1, 1000], label="$1_2_3$")
  named = [
    axes.set_title("c$/1_2_3$"),
    figure.suptitle("caf\udce9"),
    axes.text(1, 1, "$\\y$"),
    *axes.legend().get_texts(),
  ]
  other = figure.add_subplot()
  other.set_xticks([1, 2], ["caf\udce9", "$1_2_3$"])
  drawing.save(figure, tmp_path / "a.png", dpi=50)
  assert (tmp_path / "a.png").stat().st_size
  assert not any(text.get_parse_math() for text in named)
  assert named[1].get_text() == r"caf\udce9"
  ticks = other.get_xticklabels()
  assert [text.get_text() for text in ticks] == [r"caf\udce9", "$1_2_3$"]
  assert not any(text.get_parse_math() for text in ticks)
  powers = axes.get_xticklabels()
  assert "10^{2}" in "".join(text.get_text() for text in powers)
  assert all(text.get_parse_math() for text in powers)
