"""What a run ended with, so that two runs can be compared to the last bit."""

import hashlib
import pathlib
from typing import Any

import numpy as np

from tokenlearner_flexivit.run import checkpoint, metric_log

# Parts of a result; a run that lost nothing agrees in all of them.
PARTS = (
  "parameters",
  "optimizer state",
  "EMA",
  "evaluation metrics",
  "training metrics",
)
_SAVED = {"params": PARTS[0], "opt_state": PARTS[1], "ema": PARTS[2]}
# The clock's business, not the run's.
_TIMES = {"img_per_s", "img_per_s_per_core", "train_seconds"}

Result = dict[str, dict[str, Any]]


def result(workdir: pathlib.Path) -> Result:
  """Returns what the run in `workdir` ended with.

  Returns:
    For each of `PARTS` the values by name: of arrays a digest of dtype, shape
    and bytes; of metrics, named "STEP NAME", all that were logged.
  """
  found = {part: {} for part in PARTS}
  found["parameters"]["step"] = checkpoint.newest_step(workdir)
  for name, array in checkpoint.read_state(workdir).items():
    if part := _SAVED.get(name.split("/")[0]):
      found[part][name] = _digest(array)
  for record in metric_log.read(workdir):
    for name in record.keys() - _TIMES - {"step"}:
      part = "evaluation metrics" if "/" in name else "training metrics"
      values = found[part].setdefault(f"{record['step']} {name}", [])
      values.append(record[name])
  return found


def differences(a: Result, b: Result) -> dict[str, list[str]]:
  """Returns the names of what differs, for each part that does."""
  differs = {
    part: sorted(
      name
      for name in a[part].keys() | b[part].keys()
      if a[part].get(name) != b[part].get(name)
    )
    for part in PARTS
  }
  return {part: names for part, names in differs.items() if names}


def _digest(array: np.ndarray) -> str:
  array = np.asarray(array)
  head = f"{array.dtype} {array.shape} "
  return hashlib.sha256(head.encode() + array.tobytes()).hexdigest()
