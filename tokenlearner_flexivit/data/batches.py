"""Batches of examples, prepared ahead by threads or processes."""

import concurrent.futures
import math
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import flags, logging

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data import examples, memory

with terminal.root_logger_unchanged():
  import grain

Batch = dict[str, np.ndarray]
# Shape and dtype of each entry of an example.
Spec = Mapping[str, tuple[tuple[int, ...], np.dtype]]

# Memory of a host for batches that are ready or in progress.
_MAX_PREFETCH_BYTES = 2 << 30
_MAX_PREFETCH, _MIN_PREFETCH = 8, 2
# Decoding a JPEG spends a fifth to a quarter of its time in Python, where one
# thread runs at a time: more threads than these would wait for one another.
# Processes (data.num_workers) use more processors.
MAX_THREADS = 16
# Parts of a batch per thread. With smaller parts a thread waits less for the
# last part of a batch; with larger parts there are fewer to hand over.
_PARTS_PER_THREAD = 4


def spec_of(example: Mapping[str, np.ndarray]) -> Spec:
  """Returns the shape and dtype of each entry of an example."""
  return {key: (np.shape(v), np.asarray(v).dtype) for key, v in example.items()}


def check_fits(example: Mapping[str, Any], spec: Spec) -> None:
  """Raises ValueError for an example that does not fit a batch.

  Args:
    example: a preprocessed example.
    spec: the spec of the first example.
  """
  own = spec_of(example)
  if own == spec:
    return
  for key in sorted(spec.keys() | own.keys()):
    first, other = spec.get(key), own.get(key)
    if first != other:
      raise ValueError(
        "Examples of different shapes or types cannot be a batch: after the "
        f"preprocessing {key!r} is {_words(first)} in the first example, and "
        f"{_words(other)} in another. Does it lack a resize or a crop, or "
        "onehot where the number of labels varies?"
      )


def available_cpus(
  cgroups: pathlib.Path = pathlib.Path("/sys/fs/cgroup"),
  own: pathlib.Path = pathlib.Path("/proc/self/cgroup"),
) -> int:
  """Returns how many processors this process may use, rounded up.

  This is the number of processors that the scheduler allows, or a container's
  limit if that is lower, as Docker, Kubernetes and Slurm set it.

  Args:
    cgroups: folder in which Linux shows the limits.
    own: file in which Linux names this process's limits.
  """
  if hasattr(os, "sched_getaffinity"):
    count = len(os.sched_getaffinity(0))
  else:
    count = os.cpu_count() or 1
  limits = [count]
  try:
    for line in own.read_text(encoding="utf-8").splitlines():
      _, controllers, path = line.split(":", 2)
      if not controllers:  # Version 2: one tree for all controllers.
        root, names = cgroups, ("cpu.max",)
      elif "cpu" in controllers.split(","):
        root = cgroups / "cpu"
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
      else:
        continue
      folder = root / path.strip("/")
      # A container may see its own folder as the root. Limits of the folders
      # above hold as well.
      for place in {root, folder, *folder.parents}:
        if place.is_relative_to(root):
          limits.append(_read_limit(place, names))
  except (OSError, ValueError):
    pass  # The system is not Linux, or hides the limits.
  return max(1, math.ceil(min(limits)))


def _read_limit(folder: pathlib.Path, names: tuple[str, ...]) -> float:
  """Returns the number of processors that a control group may use."""
  try:
    words = " ".join(
      (folder / name).read_text(encoding="utf-8") for name in names
    ).split()
  except OSError:
    return math.inf
  if words[0] in ("max", "-1"):
    return math.inf
  return float(words[0]) / float(words[1])


def prefetch_of(spec: Spec, batch_size: int) -> int:
  """Returns how many batches to prepare ahead, so that they fit into memory.

  Args:
    spec: the spec of an example.
    batch_size: examples of a batch on this host.
  """
  num_bytes = batch_size * sum(
    math.prod(shape) * dtype.itemsize for shape, dtype in spec.values()
  )
  fit = _MAX_PREFETCH_BYTES // max(num_bytes, 1)
  return min(max(fit, _MIN_PREFETCH), _MAX_PREFETCH)


class Batches(grain.MapDataset):
  """Consecutive examples of a dataset, `batch_size` at a time.

  Threads share the work on a batch: each prepares some of its examples and
  copies every example into the batch at once, so that the next example uses
  the same memory again: fresh memory costs more than the copy. An element is a
  batch, and the corrupt examples that other examples replace in it.
  """

  def __init__(
    self,
    parent: grain.MapDataset,
    spec: Spec,
    batch_size: int,
    num_threads: int,
    shared_memory: memory.Memory,
  ):
    """Sets up the batches; no example is read yet.

    Args:
      parent: dataset of (an example, the corrupt examples that it replaces).
      spec: the spec of its examples.
      batch_size: examples of a batch.
      num_threads: how many threads prepare examples; 0 uses the caller's.
      shared_memory: memory of the batches.
    """
    super().__init__(parent)
    self._spec = spec
    self._batch_size = batch_size
    self._num_threads = num_threads
    self._memory = shared_memory
    self._pool = None
    self._is_closed = False
    self._lock = threading.Lock()

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_pool": None, "_lock": None}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state, _lock=threading.Lock())

  def __len__(self) -> int:
    return len(self.parents[0]) // self._batch_size

  def __getitem__(
    self, index: int | slice
  ) -> "tuple[Batch, examples.Corrupt] | grain.MapDataset":
    if isinstance(index, slice):
      return self.slice(index)
    start, size = index * self._batch_size, self._batch_size
    batch = {
      key: self._memory.empty((size, *shape), dtype)
      for key, (shape, dtype) in self._spec.items()
    }

    def fill(rows: range) -> examples.Corrupt:
      corrupt = ()
      for row in rows:
        example, skipped = self.parents[0][start + row]
        corrupt += skipped
        check_fits(example, self._spec)
        for key, value in example.items():
          batch[key][row] = value
      return corrupt

    if not self._num_threads:
      return batch, fill(range(size))
    step = -(-size // (_PARTS_PER_THREAD * self._num_threads))
    pool = self._open_pool()
    parts = [
      pool.submit(fill, range(first, min(first + step, size)))
      for first in range(0, size, step)
    ]
    try:
      # In order, so that any number of threads raises the same error.
      return batch, sum((part.result() for part in parts), ())
    finally:
      for part in parts:
        part.cancel()

  def num_at_once(self, limit: int) -> int:
    """Returns how many batches to work on at a time, to keep all threads busy.

    Args:
      limit: the largest number allowed.
    """
    if not self._num_threads:
      return 0
    # The next batch is begun while the last examples of one are prepared.
    return min(limit, 1 + -(-self._num_threads // self._batch_size))

  def _open_pool(self) -> concurrent.futures.ThreadPoolExecutor:
    """Returns the threads; each worker process starts its own."""
    with self._lock:
      if self._is_closed:
        raise RuntimeError("The batches are closed.")
      if self._pool is None:
        self._pool = concurrent.futures.ThreadPoolExecutor(
          self._num_threads, thread_name_prefix="examples"
        )
      return self._pool

  def close(self) -> None:
    """Ends the threads; further access raises RuntimeError."""
    with self._lock:
      self._is_closed = True
      if self._pool is not None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _words(spec: tuple[tuple[int, ...], np.dtype] | None) -> str:
  return "not there" if spec is None else f"{spec[1]} {list(spec[0])}"


class Delivery(Iterator[Batch]):
  """An iterator of batches that counts and logs skipped corrupt examples.

  An error is raised in place of the batch that it belongs to.
  """

  def __init__(
    self,
    batches: Batches,
    part: slice,
    *,
    prefetch: int,
    num_workers: int,
    max_corrupt: int,
  ):
    """Starts the threads or processes.

    Args:
      batches: the batches of all hosts.
      part: the slice of them that this host gets.
      prefetch: number of batches that are ready or in progress.
      num_workers: processes that prepare batches; with 0 threads of this
        process do.
      max_corrupt: how many different corrupt examples may be skipped.
    """
    self._source = batches
    self._max_corrupt = max_corrupt
    self._corrupt: dict[int, str] = {}
    self._batches = iter(_make_ahead(batches, part, prefetch, num_workers))

  def __next__(self) -> Batch:
    try:
      batch, corrupt = next(self._batches)
      self._count(corrupt)
    except Exception:
      # Otherwise garbage collection would end the threads, perhaps in one of
      # them.
      self.close()
      raise
    return batch

  def _count(self, corrupt: examples.Corrupt) -> None:
    # Counted here, because here batches arrive in order and from all threads
    # and processes.
    for index, words in corrupt:
      if index in self._corrupt:
        continue
      self._corrupt[index] = words
      count = len(self._corrupt)
      if count > self._max_corrupt:
        raise examples.ExampleError(
          examples.too_many(self._corrupt.values(), self._max_corrupt)
        )
      logging.warning(
        "Skipped a corrupt example, the %d. of at most %d (data.max_corrupt): "
        "%s",
        count,
        self._max_corrupt,
        words,
      )

  def close(self) -> None:
    """Ends the threads and processes."""
    self._batches.close()
    self._source.close()


def _make_ahead(
  batches: Batches, part: slice, prefetch: int, num_workers: int
) -> grain.IterDataset:
  """Returns a part of the batches in order, prepared ahead."""
  # Each process has a share of the batches in progress.
  buffer = -(-prefetch // max(num_workers, 1))
  dataset = batches[part].to_iter_dataset(
    grain.ReadOptions(
      num_threads=batches.num_at_once(buffer), prefetch_buffer_size=buffer
    )
  )
  if num_workers:
    # Grain reads absl's flags, which are parsed only in programs that absl
    # started, not in tests and notebooks.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    # Grain spawns its workers (a fork would copy JAX's threads and locks) and
    # deals the batches out in turn, which keeps their order.
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=1
      ),
      worker_init_fn=_begin_worker,
    )
  return dataset


def _begin_worker(index: int, count: int) -> None:
  """Ties the life of a process that prepares batches to that of the program.

  Whoever kills the program alone (SIGKILL, out of memory) would leave it behind
  for ever, with its memory. Ctrl-C reaches it, too, but the program may need
  batches until it has saved, and ends it then.
  """
  del index, count
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def end_with_program() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # The main thread waits for a queue that nobody empties.

  threading.Thread(target=end_with_program, daemon=True).start()
