"""Arrays that take long to compute and are kept for the next start."""

import contextlib
import uuid
from collections.abc import Callable

import numpy as np

from tokenlearner_flexivit import paths


def load_or_compute(
  folder: str, name: str, compute: Callable[[], np.ndarray]
) -> np.ndarray:
  """Returns the array stored under a name, or computes and stores it.

  Args:
    folder: the folder in `paths.cache_dir`.
    name: a name for the content, such as a hash of what it depends on.
    compute: returns the array.
  """
  path = paths.cache_dir() / folder / f"{name}.npy"
  # A power cut may leave an empty file.
  with contextlib.suppress(OSError, ValueError, EOFError):
    return np.load(path)
  array = compute()
  # On a full or read-only disk it is computed again next time.
  with contextlib.suppress(OSError):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{uuid.uuid4().hex}.partial.npy")
    try:
      np.save(partial, array)
      partial.rename(path)
    finally:
      partial.unlink(missing_ok=True)
  return array
