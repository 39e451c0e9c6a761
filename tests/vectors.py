"""The reference vectors of the published implementations, where there are any.

They are found through the environment variable TLFV_GOLDENS.
"""

import json
import os
import pathlib

import numpy as np
from flax import traverse_util

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = pathlib.Path(
  os.environ.get("TLFV_GOLDENS", ROOT / "../shared/goldens")
).resolve()
ABSENT = f"no reference vectors at {FOLDER} (TLFV_GOLDENS)"


class Vectors:
  """One file: `meta`, and arrays by name, flat or as trees by prefix."""

  def __init__(self, name):
    with np.load(FOLDER / f"{name}.npz") as file:
      self._arrays = {k: file[k] for k in file.files if k != "meta"}
      self.meta = json.loads(str(file["meta"]))

  def __getitem__(self, name):
    return self._arrays[name]

  def flat(self, prefix):
    """All arrays whose name begins so, without the beginning."""
    return {
      k.removeprefix(prefix): v
      for k, v in self._arrays.items()
      if k.startswith(prefix)
    }

  def tree(self, prefix):
    return traverse_util.unflatten_dict(self.flat(prefix), sep="/")
