"""A heat map can be read, whatever the colour of a cell."""

import numpy as np
import pytest
from matplotlib import colors
from matplotlib import figure as mpl_figure

from tokenlearner_flexivit.figures import heat_map


def luminance(color):
  """Relative luminance as WCAG 2.1 defines it."""
  rgb = np.array(colors.to_rgb(color))
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return linear @ (0.2126, 0.7152, 0.0722)


@pytest.mark.parametrize("cmap", [heat_map.COLORS, "RdBu"])
def test_numbers_stand_out_from_their_cells(cmap):
  axes = mpl_figure.Figure().subplots()
  values = np.linspace(-1, 1, 60).reshape(4, 15)
  image = heat_map.draw(axes, values, range(4), range(15), "{:+.2f}", cmap=cmap)
  assert image.get_clim() == (-1, 1)
  texts = {text.get_position(): text for text in axes.texts}
  for (y, x), value in np.ndenumerate(values):
    assert texts[x, y].get_text() == f"{value:+.2f}"
    lights = luminance(texts[x, y].get_color()), luminance(image.to_rgba(value))
    # The least that WCAG 2.1 allows for small text.
    assert (max(lights) + 0.05) / (min(lights) + 0.05) >= 4.5
