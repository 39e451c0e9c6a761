"""Writes metrics to `metrics.jsonl` and to TensorBoard event files."""

import json
import pathlib
from collections.abc import Mapping

import jax
from tensorboard.summary import Writer

METRICS_FILE = "metrics.jsonl"


def read(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns the records of `metrics.jsonl`, [] if there is none."""
  path = workdir / METRICS_FILE
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


class MetricLog:
  """Appends records of scalars; host 0 writes, the others only remember.

  Attributes:
    history: all records, those of earlier programs included.
  """

  def __init__(self, workdir: pathlib.Path, first_step: int):
    """Opens the files.

    Args:
      workdir: where they lie.
      first_step: what was written for later steps is dropped: those steps are
        done again.
    """
    self.history = [r for r in read(workdir) if r["step"] <= first_step]
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    path = workdir / METRICS_FILE
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(r) + "\n" for r in self.history))
    partial.rename(path)
    self._file = path.open("a", buffering=1)
    # Not TensorFlow: tensorboard's own writer.
    self._events = Writer(str(workdir / "tensorboard"))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds one record: `{"step": step, **scalars}`."""
    record = {"step": step, **scalars}
    self.history.append(record)
    if not self._writes:
      return
    self._file.write(json.dumps(record) + "\n")
    for name, value in scalars.items():
      self._events.add_scalar(name, value, step)

  def find(self, step: int, prefix: str) -> dict[str, float]:
    """Returns what was logged for `step` under names with `prefix`, cut off."""
    return {
      name.removeprefix(prefix): value
      for record in self.history
      if record["step"] == step
      for name, value in record.items()
      if name.startswith(prefix)
    }

  def last(self, name: str, default: float) -> float:
    """Returns the newest value of a scalar."""
    values = (r[name] for r in reversed(self.history) if name in r)
    return next(values, default)

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._writes:
      self._file.close()
      self._events.close()
