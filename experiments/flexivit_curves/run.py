r"""FlexiViT's image-classification figures, made again.

python -m experiments.flexivit_curves.run --workdir=/tmp/curves --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells and --seeds train some of them (and what these
need), without results.
"""

import functools
import statistics
from collections.abc import Iterator, Mapping

from experiments import recipe, seeds, study, throughput, training
from experiments.flexivit_curves import (
  cells,
  claims,
  config,
  curves,
  letters,
  pictures,
  resized,
  scales,
)
from tokenlearner_flexivit import data, dials, models
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.models import cost


def rows(done: study.Done) -> list[study.Row]:
  """Returns all numbers: of each model and size, way to resize, and speed."""
  trained = [
    {"cell": name, "patch_size": size, "accuracy": seeds.spread(values)}
    for name, reports in done.reports.items()
    for size, values in curves.from_reports(reports).items()
  ]
  tried = [
    {
      "cell": cells.fixed(row["trained"]),
      "patch_size": row["size"],
      "resized_by": row["method"],
      "image_resized": row["scaled"],
      "accuracy": seeds.spread(row["accuracies"]),
    }
    for row in _trials(done)
  ]
  return trained + tried + [{"speed": row} for row in _speed(done.scale)]


def _trials(done: study.Done) -> Iterator[study.Row]:
  """Evaluates fixed models at other sizes, or reads what was found before."""
  asked = done.asked
  seeds_text = "_".join(map(str, asked.seeds))
  for trial in resized.trials(done.scale):
    along = "_along" if trial.scaled else ""
    name = f"{asked.scale}_{trial.trained}_at_{trial.size}{along}_{seeds_text}"
    cell = cells.fixed(trial.trained)
    rows = training.stored(
      asked.workdir / f"{name}.json",
      functools.partial(
        resized.evaluate,
        trial,
        done.scale,
        [done.folder(cell, seed) for seed in asked.seeds],
      ),
    )
    yield from rows
    shown = (
      f"{row['method']} {100 * statistics.fmean(row['accuracies']):.1f}"
      for row in rows
    )
    print(f"{name}: {', '.join(shown)} %", flush=True)


def _speed(scale: scales.Scale) -> list[study.Row]:
  """Measures FlexiViT's forward pass at each trained size, by turns."""
  section = recipe.model_section(scale, *cells.own_buffers(scale))
  num_classes = data.open_source(config.test_data(scale)).num_classes
  model = models.ViT(**section, num_classes=num_classes)
  images_per_s = throughput.measure(
    {size: (model, dials.Setting((size, size))) for size in scale.sizes},
    scale.side,
  )
  return [
    {
      "size": size,
      "gmacs": cost.macs(model, (scale.side, scale.side, 3), size) / 1e9,
      "images_per_s": statistics.median(speeds),
    }
    for size, speeds in images_per_s.items()
  ]


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's results: claims, then a section per item."""
  measured = curves.from_rows(outcome.rows)
  parts = [seeds.table_of_claims(outcome.claims)]
  for letter in letters.letters(outcome.scale, measured):
    heading = letter.title
    if len(letter.key) <= 2:
      heading = f"({', '.join(letter.key)}) {heading}"
    file = pictures.file_name(outcome, letter.key)
    parts += [
      f"### {heading}",
      f"The paper: {letter.published}",
      f"![{letter.title}]({file})",
      _accuracies(letter.curves),
    ]
  speed = table.markdown(
    [
      {
        "patch size": row["size"],
        "10⁶ multiply-adds": f"{1000 * row['gmacs']:.1f}",
        "images/s": f"{row['images_per_s']:.0f}",
      }
      for row in measured.speed
    ]
  )
  parts += [
    "### Accuracy by measured speed",
    f"![Accuracy by speed]({pictures.file_name(outcome, 'speed')})",
    speed,
  ]
  return {f"results of {outcome.scale_name}": "\n\n".join(parts)}


def _accuracies(series: Mapping[str, curves.Curve]) -> str:
  sizes = sorted({s for curve in series.values() for s in curve}, reverse=True)
  return table.markdown(
    [
      {
        "test accuracy in %, mean ± std of seeds": label,
        **{
          f"/{size}": seeds.percent(seeds.spread(curve[size]), 1, "")
          if size in curve
          else ""
          for size in sizes
        },
      }
      for label, curve in series.items()
    ]
  )


STUDY = study.Study(
  name="flexivit_curves",
  scales=scales.SCALES,
  cells=lambda asked, scale: {
    name: cell.needs for name, cell in cells.cells_by_name(scale).items()
  },
  arguments=study.in_workdir,
  rows=rows,
  claims=claims.claims,
  tables=tables,
  figures=pictures.figures,
  dpi=110,
)

if __name__ == "__main__":
  STUDY.start()
