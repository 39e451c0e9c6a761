"""Joins what was trained and tried: results, and the text of the README."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence

from experiments import study, throughput
from experiments.flexivit_curves import (
  cells,
  config,
  curves,
  pictures,
  scales,
)
from experiments.flexivit_curves.letters import Letter
from tokenlearner_flexivit import data, dials, models
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.models import cost


def speed(scale: scales.Scale, rounds: int = 15) -> list[study.Row]:
  """Measures FlexiViT's forward pass at each trained size, by turns.

  Returns:
    Rows of `size`, `gmacs`, and `images_per_s`, the median.
  """
  section = config.model_section(scale, *cells.own_buffers(scale))
  num_classes = data.open_source(config.test_data(scale)).num_classes
  model = models.ViT(**section, num_classes=num_classes)
  found = throughput.measure(
    {size: (model, dials.Setting((size, size))) for size in scale.sizes},
    scale.side,
    rounds,
  )
  return [
    {
      "size": size,
      "gmacs": cost.macs(model, (scale.side, scale.side, 3), size) / 1e9,
      "images_per_s": statistics.median(speeds),
    }
    for size, speeds in found.items()
  ]


def rows(
  trained: curves.Curves, tried: Sequence[study.Row], fast: Sequence[study.Row]
) -> list[study.Row]:
  """All numbers, one row for each model, size and way to resize."""
  found = [
    {"cell": name, "patch_size": size, "accuracy": study.spread(values)}
    for name, curve in trained.items()
    for size, values in curve.items()
  ]
  for row in tried:
    found.append(
      {
        "cell": cells.fixed(row["trained"]),
        "patch_size": row["size"],
        "resized_by": row["method"],
        "image_resized": row["scaled"],
        "accuracy": study.spread(row["accuracies"]),
      }
    )
  return found + [{"speed": row} for row in fast]


def sections(
  letters: Sequence[Letter],
  claims: Sequence[study.Row],
  fast: Sequence[study.Row],
  figures: pathlib.PurePath,
) -> str:
  """The README's results: claims, then a section per item.

  Args:
    letters: the items.
    claims: see `claims.claims`.
    fast: see `speed`.
    figures: folder of the pictures, relative to the README.
  """
  parts = [study.table_of_claims(claims)]
  for letter in letters:
    parts += [
      f"### {_heading(letter)}",
      f"The paper: {letter.published}",
      f"![{letter.title}]({figures / pictures.file_name(letter)})",
      _accuracies(letter.curves),
    ]
  parts += [
    "### Accuracy by measured speed",
    f"![Accuracy by speed]({figures / 'speed.png'})",
    table.markdown(
      [
        {
          "patch size": row["size"],
          "10⁶ multiply-adds": f"{1000 * row['gmacs']:.1f}",
          "images/s": f"{row['images_per_s']:.0f}",
        }
        for row in fast
      ]
    ),
  ]
  return "\n\n".join(parts)


def _heading(letter: Letter) -> str:
  if len(letter.key) > 2:
    return letter.title
  return f"({', '.join(letter.key)}) {letter.title}"


def _accuracies(series: Mapping[str, curves.Curve]) -> str:
  sizes = sorted({s for curve in series.values() for s in curve}, reverse=True)
  return table.markdown(
    [
      {
        "test accuracy in %, mean ± std of seeds": label,
        **{
          f"/{size}": study.plus_minus(
            curves.points(curve, size), curves.spread(curve, size), ".1f"
          )
          if size in curve
          else ""
          for size in sizes
        },
      }
      for label, curve in series.items()
    ]
  )
