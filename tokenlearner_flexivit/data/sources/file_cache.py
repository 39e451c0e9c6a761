"""Keeps what was read from files while it is used and they do not change."""

import concurrent.futures
import functools
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

# Threads wait for the disk or the network, not for the processor.
_THREADS, _CHUNK = 32, 64
# A file that changed so shortly before it was read may change again within the
# resolution of the file system's clock.
_SAME_TIME_NS = 2 * 10**9
MISSING = -1


class Stamp:
  """The times at which files and folders changed, before they are read."""

  def __init__(self):
    self._start = time.time_ns()
    self._times: dict[str, int] = {}

  def add(self, paths: Iterable[str | os.PathLike]) -> list[int]:
    """Notes and returns when files, or the entries of folders, changed.

    Returns:
      Nanoseconds; `MISSING` where nothing is.
    """
    paths = list(map(os.fspath, paths))
    times = _times(paths)
    self._times.update(zip(paths, times, strict=True))
    return times

  def is_current(self) -> bool:
    """Tells whether nothing has changed since, or may have."""
    times = [*self._times.values()]
    if max(times, default=MISSING) > self._start - _SAME_TIME_NS:
      return False
    return _times([*self._times]) == times


class FileCache(Generic[T]):
  """Keeps results while they are in use and their files have not changed."""

  def __init__(self, most: int | None = None):
    """Makes an empty cache.

    Args:
      most: how many results are kept, in use or not; None keeps those that are
        in use.
    """
    self._most = most
    self._known: dict[Hashable, tuple[Callable[[], T | None], Stamp]] = {}
    self._lock = threading.Lock()

  def get(self, key: Hashable, read: Callable[[Stamp], T]) -> T:
    """Returns a result, the same object again while its stamp is current.

    Args:
      key: of the result.
      read: returns a new result; adds its files to a stamp before it reads
        them.
    """
    with self._lock:
      known, stamp = self._known.get(key, (None, None))
      result = known and known()
      if result is not None and stamp.is_current():
        return result
      stamp = Stamp()
      result = read(stamp)
      self._known.pop(key, None)
      self._known[key] = self._refer(key, result), stamp
      return result

  def _refer(self, key: Hashable, result: T) -> Callable[[], T | None]:
    """Returns a function that returns a result as long as it is kept."""
    if self._most is None:
      return weakref.ref(result, functools.partial(self._remove, key))
    while len(self._known) >= self._most:
      del self._known[next(iter(self._known))]
    return lambda: result

  def _remove(self, key: Hashable, dropped: weakref.ref) -> None:
    # Without the lock: any thread may come here at any time, also one that the
    # owner of the lock waits for. At worst a newer result is read again.
    if self._known.get(key, (None, None))[0] is dropped:
      self._known.pop(key, None)


def _times(paths: list[str]) -> list[int]:
  """Returns when each path changed, in nanoseconds."""
  if len(paths) <= _CHUNK:
    return _times_of_few(paths)
  chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    parts = pool.map(_times_of_few, chunks)
    return list(itertools.chain.from_iterable(parts))


def _times_of_few(paths: list[str]) -> list[int]:
  times = []
  for path in paths:
    try:
      times.append(os.stat(path).st_mtime_ns)
    except OSError:
      times.append(MISSING)
  return times
