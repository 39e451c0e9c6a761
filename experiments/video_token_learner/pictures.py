"""The study's figure, and maps of the tokens of a trained model."""

import pathlib
from collections.abc import Mapping

from matplotlib import figure as mpl_figure

from experiments import study
from experiments.video_token_learner import cells
from tokenlearner_flexivit.analysis import video_maps

# By what makes the tokens.
_COLORS = {"1.1": "#0072b2", "average": "#d55e00"}
_GREY = "#777777"


def draw(rows: Mapping[str, study.Row], path: pathlib.Path) -> None:
  """Draws accuracy against cost, each seed as a point and their mean."""
  figure = mpl_figure.Figure(figsize=(7, 4.2), layout="constrained")
  axes = figure.subplots()
  for name, row in rows.items():
    cell = cells.CELLS[name]
    color = _GREY if cell.num_tokens is None else _COLORS[cell.version]
    cost = 1000 * row["gmacs"]
    seeds = [100 * value for value in row["accuracy"]["by_seed"]]
    axes.plot([cost] * len(seeds), seeds, "o", color=color, alpha=0.35, ms=4)
    mean = 100 * row["accuracy"]["mean"]
    axes.plot([cost], [mean], "_", color=color, ms=18, mew=2.5)
    axes.annotate(
      name,
      (cost, mean),
      textcoords="offset points",
      xytext=(12, 0),
      va="center",
      color=color,
    )
  baseline = 100 * rows[cells.BASELINE]["accuracy"]["mean"]
  axes.axhline(baseline, color=_GREY, ls=":")
  axes.set_xlabel("multiply-adds per clip in 10⁶")
  axes.set_ylabel("test accuracy in %")
  axes.margins(x=0.2)
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path, dpi=120)


def draw_maps(workdir: pathlib.Path, path: pathlib.Path) -> None:
  """Draws the maps of a run over time, a picture and an animation beside it.

  Args:
    workdir: of the run.
    path: of the picture; see `video_maps.draw`.
  """
  video_maps.main(
    [f"--workdir={workdir}", f"--output={path}", "--num_videos=2"]
  )
