"""How many positions of a frame a token is an average of."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from experiments import study, training
from experiments.video_token_learner import cells
from tokenlearner_flexivit.analysis import token_maps, video_maps
from tokenlearner_flexivit.inference import runs

NUM_VIDEOS = 100


def of_maps(maps: np.ndarray) -> float:
  """Returns the effective size of the samples that maps weigh (Kish, 1965).

  For weights w it is (sum of w)² / (sum of w²): n if they are even over n
  positions and 0 elsewhere.

  Args:
    maps: [..., h, w], weights of a sum.

  Returns:
    The mean over all maps, between 1 and h w.
  """
  weights = maps.reshape(*maps.shape[:-2], -1)
  sizes = weights.sum(axis=-1) ** 2 / np.square(weights).sum(axis=-1)
  return float(sizes.mean())


def of_run(workdir: pathlib.Path) -> float:
  """Returns that of a run's maps on test videos."""
  run = runs.open_run(workdir, "video")
  videos = video_maps.read_examples(run.data, NUM_VIDEOS)
  return of_maps(token_maps.token_maps(run.model, run.params, videos))


def of_cells(
  workdir: pathlib.Path, seeds: Sequence[int], scale: str
) -> dict[str, list[float]]:
  """Returns that of all trained models that make tokens fewer.

  Args:
    workdir: of the study; keeps the result of each run in its folder.
    seeds: of each cell.
    scale: of the runs.

  Returns:
    Those of the seeds, by cell.
  """
  found = {}
  for name, cell in cells.CELLS.items():
    if cell.num_tokens is None:
      continue
    runs_of_cell = [
      workdir / training.run_name(name, seed, scale) for seed in seeds
    ]
    found[name] = [
      study.stored(run / "positions.json", functools.partial(of_run, run))
      for run in runs_of_cell
    ]
  return found
