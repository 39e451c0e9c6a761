"""The folder of a run: its lock and its files."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.parallel import hosts

CONFIG_FILE = "config.json"
ABOUT_DATA_FILE = "about_data.json"
REPORT_FILE = "report.json"
JSON_FILES = (CONFIG_FILE, ABOUT_DATA_FILE, REPORT_FILE)
CHECKPOINTS = "checkpoints"
LOCK_FILE = "lock"
# A network file system may show a new file late.
_SHARED_WITHIN_SECONDS = 15


def check_shared(workdir: pathlib.Path) -> None:
  """Creates `workdir` and checks that it is one folder for all hosts.

  Raises:
    ValueError: this process sees another folder than process 0.
    RuntimeError: another process does.
  """
  if jax.process_count() == 1:
    workdir.mkdir(parents=True, exist_ok=True)
    return
  error, first = None, jax.process_index() == 0
  drawn = np.frombuffer(os.urandom(8), np.uint32)
  drawn = np.asarray(multihost_utils.broadcast_one_to_all(drawn), np.uint32)
  token = workdir / f".seen-by-all-{drawn.tobytes().hex()}"
  try:
    if first:
      try:
        workdir.mkdir(parents=True, exist_ok=True)
        token.touch()
      except OSError as raised:
        error = raised
    hosts.raise_together(error)
    end = time.monotonic() + _SHARED_WITHIN_SECONDS
    while not token.exists() and time.monotonic() < end:
      time.sleep(0.1)
    if not token.exists():
      error = ValueError(
        f"--workdir={workdir} is not shared: what process 0 writes there, "
        f"process {jax.process_index()} on {socket.gethostname()} does not "
        "see. Give a folder on a file system that all hosts mount, such as NFS "
        "or a bucket."
      )
    hosts.raise_together(error)
  finally:
    if first:
      token.unlink(missing_ok=True)


class Lock:
  """A context manager that keeps a second run out of a workdir.

  The operating system holds the lock (`flock` of `WORKDIR/lock`) for as long
  as the process lives, so however it dies, nothing is left that stops the
  next start. The file itself is never removed. If a run has several processes,
  process 0 holds the lock for all.

  On NFS, Linux turns it into a lock of the server, which other hosts respect
  unless it is mounted with `nolock` or `local_lock`; after a host dies the
  server frees it only when it notices. On buckets (gcsfuse) it keeps out only
  runs of the same host. Where a file system has no locks, a warning says so.
  """

  def __init__(self, workdir: pathlib.Path):
    """Takes the lock, or raises at once; all hosts must call it.

    Args:
      workdir: exists (see `check_shared`).

    Raises:
      ValueError: another run holds it; names its host, process and start.
      RuntimeError: process 0 could not take it; in the other processes.
    """
    self._file, error = None, None
    if jax.process_index() == 0:
      try:
        self._take(workdir)
      except (OSError, ValueError) as raised:
        error = raised
    hosts.raise_together(error)

  def _take(self, workdir: pathlib.Path) -> None:
    file = os.open(workdir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      holder = os.read(file, 1000).decode(errors="replace")
      os.close(file)
      raise ValueError(
        f"--workdir={workdir} is in use by another run: {holder.strip()}. Stop "
        "that one, or use another workdir."
      ) from None
    except OSError as error:
      os.close(file)
      terminal.say(
        f"WARNING: {workdir} cannot be locked ({error}): take care that no "
        "second run is started there."
      )
      return
    self._file = file
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    holder = f"host {socket.gethostname()}, process {os.getpid()}, since {now}"
    # The holder's name only helps people; a full disk must not stop a restart.
    with contextlib.suppress(OSError):
      os.ftruncate(file, 0)
      os.pwrite(file, f"{holder}\n".encode(), 0)

  def close(self) -> None:
    """Releases the lock; may be called again."""
    if self._file is not None:
      os.close(self._file)
      self._file = None

  def __enter__(self) -> "Lock":
    return self

  def __exit__(self, *unused: Any) -> None:
    self.close()


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Writes a file as a whole; if that fails, the previous file stays.

  `paths.whole` describes what happens to links and streams.

  Raises:
    OSError: the file cannot be written; unlike the system's, names the file.
  """
  with paths.whole(path) as partial:
    partial.write_bytes(content)


def as_json(values: Any, indent: int | None = None) -> str:
  """Returns values as JSON, with null for NaN and infinity."""
  # Python's reader, unlike others, takes the NaN that its writer writes.
  values = json.loads(json.dumps(values), parse_constant=lambda _: None)
  return json.dumps(values, indent=indent, allow_nan=False)


def write_json(path: pathlib.Path, values: Any) -> None:
  """Writes the values as a JSON file, by `as_json` and `write_whole`."""
  write_whole(path, f"{as_json(values, indent=2)}\n".encode())


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the config of the run in `workdir` as plain dicts and lists.

  Raises:
    ValueError: there is none, or its file is damaged.
  """
  path = workdir / CONFIG_FILE
  if not path.exists():
    raise ValueError(f"--workdir={workdir} holds no run: {path} is missing.")
  try:
    return json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(
      f"{path} is damaged ({error}). Every folder in {workdir}/checkpoints has "
      "a copy: config/metadata."
    ) from None


def read_about_data(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns what the run in `workdir` noted about its data.

  Raises:
    ValueError: the file is not there, or damaged.
  """
  path = workdir / ABOUT_DATA_FILE
  try:
    return json.loads(path.read_bytes())
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{path}, which holds the classes and the image size of the run's data, "
      f"cannot be read: {error}. Bring it back, or start the run's training "
      "again in this workdir without it, which writes it anew."
    ) from None


def read_notes(checkpoint: pathlib.Path) -> Any:
  """Returns the notes that the run has saved with a checkpoint."""
  return json.loads((checkpoint / "notes" / "metadata").read_bytes())["notes"]


def read_report(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the report of the run in `workdir`, None before its end.

  A result that is no finite number is None.

  Raises:
    ValueError: the file is damaged.
  """
  path = workdir / REPORT_FILE
  if not path.exists():
    return None
  try:
    # Older versions wrote NaN.
    return json.loads(path.read_bytes(), parse_constant=lambda _: None)
  except ValueError as error:
    raise ValueError(
      f"{path} is damaged ({error}). Write it anew: python -m "
      f"tokenlearner_flexivit.main --mode=eval --workdir={workdir}"
    ) from None
