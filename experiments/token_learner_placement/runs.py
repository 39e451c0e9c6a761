"""The trainings of the study."""

import dataclasses
import pathlib

from experiments import study, training
from experiments.token_learner_placement import config

HERE = pathlib.Path(__file__).parent


def of(
  cell: str, seed: int, scale: str, steps: int | None = None
) -> training.Run:
  """Returns the training of a cell.

  Args:
    cell: its name.
    seed: of parameters and batches.
    scale: its name.
    steps: how long; None for the scale's.
  """
  if steps in (None, config.SCALES[scale].steps):
    return training.run_of(HERE, cell, seed, scale)
  run = training.run_of(HERE, cell, seed, scale, steps=steps)
  return dataclasses.replace(run, name=f"{run.name}_{steps}")


def accuracy(report: study.Report) -> float:
  """The test accuracy in [0, 1]."""
  return report["settings"][0]["accuracy"]


def in_words(report: study.Report) -> str:
  """The result of a run."""
  return f"{100 * accuracy(report):.2f} %"
