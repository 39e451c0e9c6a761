"""Functions that write datasets to TFDS's folder, one process at a time."""

import contextlib
import os
import pathlib
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from absl import logging

try:
  import fcntl
except ImportError:  # Windows.
  fcntl = None

_NEW = ".new-"
_ABANDONED = 24 * 3600  # s


def prepare(
  target: pathlib.Path,
  make_builder: Callable[[str], tfds.core.DatasetBuilder],
) -> None:
  """Writes the dataset unless it exists.

  Args:
    target: `data_dir` of the builder, the final folder of the files.
    make_builder: returns the builder that writes to a folder.

  Raises:
    OSError: the folder cannot be written.
  """
  if target.exists():
    return
  with (
    alone(target) as is_alone,
    scratch(target.parent, is_alone) as folder,
  ):
    if target.exists():
      return
    # TFDS warns of configs that it does not know, announces a download and
    # draws its own progress bars.
    with _filtered(logging.get_absl_logger(), "custom data configuration"):
      builder = make_builder(str(folder))
    with _muted("stdout"), _muted("stderr"):
      builder.download_and_prepare()
    try:
      pathlib.Path(builder.data_dir).rename(target)
    except OSError:  # Another host may have been faster.
      if not target.exists():
        raise
  logging.info("Prepared %s in %s.", builder.info.full_name, target)


@contextlib.contextmanager
def alone(target: pathlib.Path) -> Iterator[bool]:
  """Lets one process at a time write to `target`; others log that they wait.

  This holds for the processes of one machine, and for those of several machines
  if the file system has locks for all of them. Without locks each process
  writes by itself.

  Args:
    target: the folder; a lock file is beside it while the context lasts.

  Yields:
    Whether no other process of this machine can be in the context.

  Raises:
    OSError: the folder of `target` cannot be written.
  """
  path = target.parent / f".lock-{target.name}"
  with contextlib.ExitStack() as stack:
    while True:
      target.parent.mkdir(parents=True, exist_ok=True)
      try:
        file = stack.enter_context(open(path, "a+", encoding="utf-8"))
      except FileNotFoundError:  # The last owner has removed the folder.
        continue
      is_alone = _lock(file, target)
      if not is_alone:
        break
      # The last owner has removed the file, and others may lock a new one.
      with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
          break
    stack.callback(_clean_up, path)
    yield is_alone


def _clean_up(path: pathlib.Path) -> None:
  """Removes a file, and its folder if that is empty then."""
  path.unlink(missing_ok=True)
  with contextlib.suppress(OSError):
    path.parent.rmdir()


def _lock(file: Any, target: pathlib.Path) -> bool:
  """Locks a file, waiting for other owners, and tells whether it could."""
  if fcntl is None:
    return False
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      logging.warning("Another process prepares %s; waiting for it.", target)
      fcntl.flock(file, fcntl.LOCK_EX)
  except OSError as error:
    logging.warning(
      "%s has no locks (%s): each process prepares %s by itself.",
      target.parent,
      error.strerror,
      target,
    )
    return False
  return True


@contextlib.contextmanager
def scratch(parent: pathlib.Path, is_alone: bool) -> Iterator[pathlib.Path]:
  """Creates a folder in `parent` for as long as the context lasts.

  Folders that killed processes left behind are removed; if their process may
  still live, after a day.

  Args:
    parent: the folder to create it in.
    is_alone: whether no other process of this machine uses `parent`.
  """
  parent.mkdir(parents=True, exist_ok=True)
  mine = f"{_NEW}{socket.gethostname()}-"
  for leftover in parent.glob(f"{_NEW}*"):
    is_dead = is_alone and leftover.name.startswith(mine)
    if is_dead or _age(leftover) > _ABANDONED:
      logging.info("Removing %s, which was broken off.", leftover)
      shutil.rmtree(leftover, ignore_errors=True)
  with tempfile.TemporaryDirectory(
    prefix=mine, dir=parent, ignore_cleanup_errors=True
  ) as folder:
    yield pathlib.Path(folder)


def _age(folder: pathlib.Path) -> float:
  """Returns the seconds since anything in the folder was written."""
  times = [0.0]
  for path in (folder, *folder.rglob("*")):
    with contextlib.suppress(OSError):  # Another process is removing it.
      times.append(path.stat().st_mtime)
  return time.time() - max(times)


@contextlib.contextmanager
def _filtered(logger: Any, words: str) -> Iterator[None]:
  """Drops a logger's messages that contain some words."""

  def is_shown(record: Any) -> bool:
    return words not in record.getMessage()

  logger.addFilter(is_shown)
  try:
    yield
  finally:
    logger.removeFilter(is_shown)


@contextlib.contextmanager
def _muted(name: str) -> Iterator[None]:
  """Drops the text that this thread writes to a stream of `sys`."""
  stream = getattr(sys, name)
  muted = _Muted(stream, threading.get_ident())
  setattr(sys, name, muted)
  try:
    yield
  finally:
    # Another thread may have replaced the stream.
    if getattr(sys, name) is muted:
      setattr(sys, name, stream)


class _Muted:
  """A stream that drops the text of one thread."""

  def __init__(self, stream: Any, thread: int):
    self._stream, self._thread = stream, thread

  def write(self, text: str) -> int:
    drawn_late = isinstance(threading.current_thread(), tqdm.TMonitor)
    is_mine = threading.get_ident() == self._thread
    if is_mine or drawn_late or self._stream is None:
      return len(text)
    return self._stream.write(text)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)
