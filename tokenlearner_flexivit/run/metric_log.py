"""Writes metrics to `metrics.jsonl` and to TensorBoard event files."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Mapping

import jax
from tensorboard.summary import Writer

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.parallel import hosts
from tokenlearner_flexivit.run import workdir as workdir_lib

METRICS_FILE = "metrics.jsonl"


def read(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns the records of `metrics.jsonl`, [] if there is none.

  An incomplete last line is left out. A null, which stands for a number that
  is not finite, is returned as NaN.
  """
  return _read(workdir / METRICS_FILE)[0]


def train_seconds(workdir: pathlib.Path, step: int) -> float:
  """Returns how long the steps up to `step`, a checkpoint's, have taken.

  Checkpoints of older versions do not record it; then the last line of the log
  is used.
  """
  checkpoint = workdir / workdir_lib.CHECKPOINTS / str(step)
  with contextlib.suppress(OSError, ValueError, KeyError):
    return workdir_lib.read_notes(checkpoint)["seconds"]
  seconds = [
    record["train_seconds"]
    for record in read(workdir)
    if "train_seconds" in record and record["step"] <= step
  ]
  return seconds[-1] if seconds else 0.0


def _read(path: pathlib.Path) -> tuple[list[dict[str, float]], int]:
  """Returns the records, and the number of bytes that belong to no record."""
  if not path.exists():
    return [], 0
  records, broken = [], 0
  for line in path.read_bytes().splitlines(keepends=True):
    try:
      record = json.loads(line)
    except ValueError:
      record = None
    if isinstance(record, dict) and "step" in record:
      # As it was before JSON, which has no such number.
      records.append(
        {k: math.nan if v is None else v for k, v in record.items()}
      )
    else:
      broken += len(line)
  return records, broken


class MetricLog:
  """Appends records of scalars; host 0 reads and writes, the others remember.

  All hosts must open it.

  A full disk does not stop the training: records that could not be written are
  kept, and written as soon as possible.

  Attributes:
    history: all records, those of earlier programs included.
  """

  def __init__(self, workdir: pathlib.Path, first_step: int):
    """Opens the files.

    Args:
      workdir: where they lie.
      first_step: records of later steps are dropped, since those steps are done
        again. An incomplete line from a crash is dropped with a warning.
    """
    self._path = workdir / METRICS_FILE
    self._writes = jax.process_index() == 0
    records, broken = [], 0
    with hosts.together():
      if self._writes:
        records, broken = _read(self._path)
    # All hosts decide from the history what is done, so all need the same one.
    self.history = hosts.of_first_host(
      [r for r in records if r["step"] <= first_step]
    )
    self._file = self._events = None
    with hosts.together():
      if self._writes:
        self._open(broken)

  def _open(self, broken: int) -> None:
    if broken:
      terminal.say(
        f"WARNING: {self._path} held {terminal.counted(broken, 'byte')} of "
        "lines that were not written to their end; they are dropped."
      )
    self._write_all()
    try:
      # Not TensorFlow: tensorboard's own writer.
      self._events = Writer(str(self._path.parent / "tensorboard"))
    except OSError as error:
      self._give_up_events(error)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds one record: `{"step": step, **scalars}`."""
    record = {"step": step, **scalars}
    self.history.append(record)
    if not self._writes:
      return
    try:
      if self._file is None:
        self._write_all()
      else:
        self._append(_line(record))
    except OSError as error:
      self._give_up_file()
      terminal.say(
        f"WARNING: the metrics of step {step} are not in {self._path} "
        f"({error}). They are kept and written with the next ones."
      )
    self._write_events(step, scalars)

  def _append(self, line: bytes) -> None:
    written = self._file.write(line)
    if written < len(line):
      raise OSError(f"only {written} of {len(line)} bytes fitted in")

  def _write_all(self) -> None:
    """Writes the history to a new file, unless the file holds it already."""
    self._give_up_file()
    content = b"".join(map(_line, self.history))
    # A full disk is no reason to stop where nothing has changed.
    if not self._path.exists() or self._path.read_bytes() != content:
      workdir_lib.write_whole(self._path, content)
    # Unbuffered: each record is the system's at once, whatever kills this.
    self._file = self._path.open("ab", buffering=0)

  def _give_up_file(self) -> None:
    if self._file is not None:
      with contextlib.suppress(OSError):
        self._file.close()
    self._file = None

  def _write_events(self, step: int, scalars: Mapping[str, float]) -> None:
    try:
      if self._events is not None:
        for name, value in scalars.items():
          self._events.add_scalar(terminal.encodable(name), value, step)
    except Exception as error:  # Whatever its thread met.
      self._give_up_events(error)

  def _give_up_events(self, error: Exception) -> None:
    self._events = None
    terminal.say(
      f"WARNING: no more TensorBoard events of this run ({error}); "
      f"{self._path.name} has all metrics."
    )

  def sync(self) -> None:
    """Waits until the records are on disk, lest a checkpoint outlive them."""
    if not self._writes:
      return
    try:
      if self._file is None or not self._is_in_place():
        self._write_all()
      os.fsync(self._file.fileno())
    except OSError:
      self._give_up_file()  # Writing the next record will report it.

  def _is_in_place(self) -> bool:
    """Tells whether the open file is still the one of that name."""
    if not self._path.exists():
      return False
    return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())

  def find(self, step: int, prefix: str) -> dict[str, float]:
    """Returns the scalars of `step` under names with `prefix`, removing it."""
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
    if not self._writes:
      return
    try:
      if self._file is None:
        self._write_all()
      self._file.close()
    except OSError as error:
      terminal.say(f"WARNING: {self._path} lacks the last metrics: {error}")
    if self._events is not None:
      with contextlib.suppress(Exception):
        self._events.close()


def _line(record: Mapping[str, float]) -> bytes:
  return workdir_lib.as_json(record).encode() + b"\n"
