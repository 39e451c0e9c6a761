"""Digests of the weights that a config names, to recognise moved files."""

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from tokenlearner_flexivit.interop import download
from tokenlearner_flexivit.run import checkpoint as checkpoint_lib
from tokenlearner_flexivit.run import checksums

INIT = "config.init"


def of_config(config: Mapping[str, Any], *, begins: bool) -> dict[str, str]:
  """Returns the digests of weights by the keys that name them.

  Only local files have digests: an address or a released name identifies its
  weights itself.

  Args:
    config: complete, of an `Experiment`.
    begins: whether a training starts from the weights of `config.init`; whole
      files are read, so those that nothing needs are left out.
  """
  digests = {}
  for key, source in sources(config):
    if key == INIT and not begins:
      continue
    if isinstance(source, str) and pathlib.Path(source).expanduser().exists():
      with contextlib.suppress(OSError, ValueError):  # Loading reports these.
        digests[key] = _digest(download.fetch(source))
  return digests


def sources(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  """Yields the keys, with values, of weights to start or to learn from."""
  yield INIT, config["init"]
  sections = {"config.task": config["task"]}
  sections |= {f"config.evals.{k}": v for k, v in config["evals"].items()}
  for where, section in sections.items():
    teachers = section.get("teachers")
    if not isinstance(teachers, Mapping):
      continue
    for name, teacher in teachers.items():
      if isinstance(teacher, Mapping):
        yield f"{where}.teachers.{name}.init", teacher.get("init")


def _digest(path: pathlib.Path) -> str:
  """Returns the digest of a file and its metadata, or of a run."""
  if path.is_dir():
    step = checkpoint_lib.newest_step(path)
    noted = path / checkpoint_lib.CHECKPOINTS / str(step) / checksums.FILE
    return hashlib.sha256(noted.read_bytes()).hexdigest()
  parts = [download.sha256(path)]
  for name in download.ABOUT:
    beside = path.with_name(name)
    if beside.is_file():
      parts.append(hashlib.sha256(beside.read_bytes()).hexdigest())
  return hashlib.sha256(" ".join(parts).encode()).hexdigest()
