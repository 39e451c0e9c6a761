"""How many positions of a frame a token is an average of."""

import pathlib

import numpy as np
from jaxtyping import Float

from tokenlearner_flexivit.analysis import token_maps, video_maps
from tokenlearner_flexivit.inference import runs

NUM_VIDEOS = 100


def effective_size(maps: Float[np.ndarray, "*maps h w"]) -> float:
  """Returns the effective size of the samples that maps weigh (Kish, 1965).

  For weights w it is (sum of w)² / (sum of w²): n if they are even over n
  positions and 0 elsewhere.

  Args:
    maps: weights of sums over positions.

  Returns:
    The mean over all maps, between 1 and h w.
  """
  weights = maps.reshape(*maps.shape[:-2], -1)
  sizes = weights.sum(axis=-1) ** 2 / np.square(weights).sum(axis=-1)
  return float(sizes.mean())


def effective_size_in_run(workdir: pathlib.Path) -> float:
  """Returns the effective size of a run's maps on test videos."""
  run = runs.open_run(workdir, "video")
  videos = video_maps.read_examples(run.data, NUM_VIDEOS)
  return effective_size(token_maps.token_maps(run.model, run.params, videos))
