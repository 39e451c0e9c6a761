"""Figures: how they are written."""

from tokenlearner_flexivit.figures import drawing


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
