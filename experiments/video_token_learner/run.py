r"""TokenLearner on videos, tested on rendered_scenes.

python -m experiments.video_token_learner.run --workdir=/tmp/videos --jobs=2

The same command goes on where it stopped; a run whose report is in the workdir
is not trained again. --cells trains some of them, without results; with
other --seeds the results go to WORKDIR/results.
"""

import functools
import pathlib
from collections.abc import Mapping

from experiments import seeds, study, training
from experiments.video_token_learner import config, pictures, positions
from tokenlearner_flexivit.analysis import video_maps
from tokenlearner_flexivit.figures import table

_GOAL = "this project's goal"
_PAPER = "TokenLearner (NeurIPS 2021), ablation on Charades"
_WHY = "this project, to explain the others"
SHOWN = ("learned8", "learned8_first")  # The cells whose maps are drawn.


def rows(done: study.Done) -> list[study.Row]:
  """Returns a row per cell; measures how many positions a token is of."""
  return [
    {
      "cell": name,
      "model": cell.text,
      "num_tokens": cell.num_tokens,
      "first": cell.first,
      "positions": _positions(done, name) if cell.num_tokens else None,
      **done.row(name, config.BASELINE),
    }
    for name, cell in config.CELLS.items()
  ]


def _positions(done: study.Done, cell: str) -> study.Row:
  runs = [done.folder(cell, seed) for seed in done.asked.seeds]
  return seeds.spread(
    training.stored(
      run / "positions.json",
      functools.partial(positions.effective_size_in_run, run),
    )
    for run in runs
  )


def claims(outcome: study.Outcome) -> list[study.Row]:
  """Returns what TokenLearner is to reach on videos, and whether it does."""
  rows = {row["cell"]: row for row in outcome.rows}
  near = seeds.between(rows, "learned8", config.BASELINE)
  share = rows["learned8"]["gmacs_ratio"]
  return [
    seeds.claim(
      "8 learned tokens per frame are within 1 point of all tokens, at most "
      "60 % of their multiply-adds",
      _GOAL,
      ">= -1 point, <= 60 %",
      f"{_shown(near)} points at {100 * share:.0f} %",
      [value + 1 for value in near],
      0.6 - share,
    ),
    _above(rows, "learned8", "frame", _PAPER, "59.6 against 58.6 mAP"),
    _above(rows, "learned8", "fixed8", _PAPER, "59.6 against 58.8 mAP"),
    _above(rows, "learned8_first", "frame_first", _WHY, "above 0"),
    _above(rows, "learned8_first", "fixed8_first", _WHY, "above 0"),
  ]


def _above(
  rows: Mapping[str, study.Row],
  over: str,
  under: str,
  source: str,
  expected: str,
) -> study.Row:
  """Judges whether one cell is more accurate than another."""
  points = seeds.between(rows, over, under)
  return seeds.claim(
    f"`{over}` is better than `{under}`",
    source,
    expected,
    f"{_shown(points)} points",
    points,
  )


def _shown(points: list[float]) -> str:
  return seeds.plus_minus(*seeds.mean_and_error(points), "+.2f")


def tables(outcome: study.Outcome) -> dict[str, str]:
  """Returns the README's tables, of cells and of claims, and its pictures."""
  cells = []
  for row in outcome.rows:
    positions_of_tokens = row["positions"]
    cells.append(
      {
        "cell": f"`{row['cell']}`",
        "test accuracy, mean ± std of seeds": seeds.percent(row["accuracy"], 2),
        "10⁶ multiply-adds per clip": f"{1000 * row['gmacs']:.1f}",
        "of all tokens'": f"{100 * row['gmacs_ratio']:.0f} %",
        "positions per token": (
          "-"
          if positions_of_tokens is None
          else f"{positions_of_tokens['mean']:.0f}"
        ),
      }
    )
  parts = [
    f"![Accuracy by cost](figure{outcome.suffix}.png)",
    table.markdown(cells),
    seeds.table_of_claims(outcome.claims),
  ]
  for cell in SHOWN:
    picture = f"token_maps_{cell}{outcome.suffix}.gif"
    parts.append(f"Where the tokens of `{cell}` look:\n\n![Maps]({picture})")
  return {f"results of {outcome.scale_name}": "\n\n".join(parts)}


def draw_maps(
  done: study.Done, outcome: study.Outcome, folder: pathlib.Path
) -> None:
  """Draws maps over time: a picture of each, and an animation beside it."""
  for cell in SHOWN:
    picture = folder / f"token_maps_{cell}{outcome.suffix}.png"
    video_maps.main(
      [
        f"--workdir={done.folder(cell)}",
        f"--output={picture}",
        "--num_videos=2",
      ]
    )


STUDY = study.Study(
  name="video_token_learner",
  scales=config.SCALES,
  cells=lambda asked, scale: dict.fromkeys(config.CELLS, ()),
  rows=rows,
  claims=claims,
  tables=tables,
  figures=pictures.figures,
  pictures=draw_maps,
)

if __name__ == "__main__":
  STUDY.start()
