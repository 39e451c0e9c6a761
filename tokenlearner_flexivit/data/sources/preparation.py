"""Writes datasets of this project to TFDS's folder, one process at a time."""

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
  """Writes the dataset unless it is there.

  Args:
    target: `data_dir` of the builder, where the files are to be in the end.
    make_builder: given a folder, returns the builder that writes there.

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
    # draws progress bars of its own.
    with _filtered(logging.get_absl_logger(), "custom data configuration"):
      builder = make_builder(str(folder))
    with _muted("stdout"), _muted("stderr"):
      builder.download_and_prepare()
    try:
      pathlib.Path(builder.data_dir).rename(target)
    except OSError:  # Perhaps another host was faster.
      if not target.exists():
        raise
  logging.info("Prepared %s in %s.", builder.info.full_name, target)


@contextlib.contextmanager
def alone(target: pathlib.Path) -> Iterator[bool]:
  """Lets one process at a time write to `target`; others wait, and say so.

  Processes of one machine see each other, and those of several where the file
  system has locks for all of them. Elsewhere each writes by itself.

  Args:
    target: the folder; there is a file beside it as long as this lasts.

  Yields:
    Whether no other process of this machine can be there.

  Raises:
    OSError: the folder of `target` cannot be written.
  """
  path = target.parent / f".lock-{target.name}"
  with contextlib.ExitStack() as stack:
    while True:
      target.parent.mkdir(parents=True, exist_ok=True)
      try:
        file = stack.enter_context(open(path, "a+", encoding="utf-8"))
      except FileNotFoundError:  # Who had the lock left nothing behind.
        continue
      is_alone = _lock(file, target)
      if not is_alone:
        break
      # Who had the lock has removed the file, and others may lock a new one.
      with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
          break
    stack.callback(_clean_up, path)
    yield is_alone


def _clean_up(path: pathlib.Path) -> None:
  """Removes a file, and its folder if nothing is left in it."""
  path.unlink(missing_ok=True)
  with contextlib.suppress(OSError):
    path.parent.rmdir()


def _lock(file: Any, target: pathlib.Path) -> bool:
  """Returns whether the file is locked now; waits where others have it."""
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
  """Makes a folder in `parent` that is gone afterwards.

  Those that killed processes have left there are removed; of processes that may
  still live, after a day.

  Args:
    parent: where to make it.
    is_alone: whether no other process of this machine is using `parent`.
  """
  parent.mkdir(parents=True, exist_ok=True)
  mine = f"{_NEW}{socket.gethostname()}-"
  for left in parent.glob(f"{_NEW}*"):
    is_dead = is_alone and left.name.startswith(mine)
    if is_dead or _age(left) > _ABANDONED:
      logging.info("Removing %s, which was broken off.", left)
      shutil.rmtree(left, ignore_errors=True)
  with tempfile.TemporaryDirectory(
    prefix=mine, dir=parent, ignore_cleanup_errors=True
  ) as folder:
    yield pathlib.Path(folder)


def _age(folder: pathlib.Path) -> float:
  """Returns the seconds since anything in the folder was written."""
  times = [0.0]
  for path in (folder, *folder.rglob("*")):
    with contextlib.suppress(OSError):  # It is being removed.
      times.append(path.stat().st_mtime)
  return time.time() - max(times)


@contextlib.contextmanager
def _filtered(logger: Any, words: str) -> Iterator[None]:
  """Drops what a logger would say with these words in it."""

  def is_shown(record: Any) -> bool:
    return words not in record.getMessage()

  logger.addFilter(is_shown)
  try:
    yield
  finally:
    logger.removeFilter(is_shown)


@contextlib.contextmanager
def _muted(name: str) -> Iterator[None]:
  """Drops what this thread writes to a stream of `sys`, and nothing else."""
  stream = getattr(sys, name)
  muted = _Muted(stream, threading.get_ident())
  setattr(sys, name, muted)
  try:
    yield
  finally:
    # Another thread may have put its own in place.
    if getattr(sys, name) is muted:
      setattr(sys, name, stream)


class _Muted:
  """A stream that drops what one thread writes."""

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
