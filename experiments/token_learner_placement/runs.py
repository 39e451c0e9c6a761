"""The trainings of the study."""

import pathlib

from experiments import study
from experiments.token_learner_placement import config

HERE = pathlib.Path(__file__).parent


def of(cell: str, seed: int, scale: str, steps: int | None = None) -> study.Run:
  """Returns the training of a cell.

  Args:
    cell: its name.
    seed: of parameters and batches.
    scale: its name.
    steps: how long; None for the scale's.
  """
  file = (HERE / "config.py").relative_to(study.ROOT)
  name = f"{scale}_{cell}_{seed}"
  argument = f"cell={cell},seed={seed},scale={scale}"
  if steps not in (None, config.SCALES[scale].steps):
    name += f"_{steps}"
    argument += f",steps={steps}"
  return study.Run(name, f"{file}:{argument}")


def accuracy(report: study.Report) -> float:
  """The test accuracy in [0, 1]."""
  return report["settings"][0]["accuracy"]


def in_words(report: study.Report) -> str:
  """The result of a run."""
  return f"{100 * accuracy(report):.2f} %"
