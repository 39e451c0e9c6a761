"""Batches of preprocessed examples, for training and for evaluation.

The order of the training stream and all random numbers are functions of the
seed and of the position in the stream. How often a job was restarted, on how
many hosts it runs, and how many threads or processes read, changes nothing.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags, logging

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import root_logger
from tokenlearner_flexivit.data import examples, memory, preprocess
from tokenlearner_flexivit.data.fake import FakeSource
from tokenlearner_flexivit.data.folder import FolderSource
from tokenlearner_flexivit.data.sources import Source

with root_logger.unchanged():
  import grain

Batch = dict[str, np.ndarray]

# The draws of random ops in evaluation: fixed for each example.
_EVAL_SEED = 0


@dataclasses.dataclass(frozen=True)
class _Settings:
  """The data part of a config.

  Attributes:
    name: dataset: "digits", a TFDS name, "folder:/path", "video_folder:/path"
      or "fake:...".
    split: split of it, perhaps a slice.
    pp: preprocessing string; only opening the source works without.
    data_dir: folder of TFDS datasets, and of videos made ready for reading.
    features: names of the features of a TFDS dataset that are read, None for
      all; the fewer, the faster.
    num_workers: processes that make batches; 0 means threads in this one.
    num_threads: threads that make batches, in each process; 0 means none.
    prefetch: batches that are ready or in the making.
    max_corrupt: how many different corrupt examples training may skip before
      it stops; see `train_batches`. 0 for evaluation.
  """

  name: str
  split: str
  pp: str | None = None
  data_dir: str | None = None
  features: Sequence[str] | None = None
  num_workers: int = 0
  num_threads: int = min(8, os.cpu_count() or 1)
  prefetch: int = 8
  max_corrupt: int = 0

  @classmethod
  def from_config(cls, data_config: Mapping[str, Any]) -> "_Settings":
    """Returns the settings or raises ValueError about the keys."""
    given = dict(data_config)
    known = [field.name for field in dataclasses.fields(cls)]
    configuration.check_keys(given, known, "The data config")
    missing = [key for key in ("name", "split") if not given.get(key)]
    if missing:
      raise ValueError(f"The data config {given} lacks {missing[0]!r}.")
    for key in ("num_workers", "num_threads", "prefetch", "max_corrupt"):
      # To Python True is an int.
      if key in given and not (type(given[key]) is int and given[key] >= 0):
        raise ValueError(
          f"data.{key} must be a whole number from 0 on, not {given[key]!r}."
        )
    return cls(**given)

  def make_example(self, source: Source | None) -> examples.MakeExample:
    """Returns what makes examples of the source, by default a new one."""
    if not self.pp:
      raise ValueError(f"The data config of {self.name!r} lacks 'pp'.")
    parsed = preprocess.parse(self.pp)
    source = self.source() if source is None else source
    return examples.MakeExample(source, parsed, self.max_corrupt)

  def source(self) -> Source:
    """Opens the source."""
    is_video_folder = self.name.startswith(("video_folder:", "video_folder/"))
    is_tfds = not (
      is_video_folder or self.name.split(":")[0] in ("folder", "fake")
    )
    if self.features is not None and not is_tfds:
      raise ValueError(
        f"data.features={self.features!r} is for TFDS datasets; {self.name!r} "
        "has no more than is used. Leave it out."
      )
    if self.name.startswith("folder:"):
      source = FolderSource(self.name.removeprefix("folder:"), self.split)
    elif self.name.split(":")[0] == "fake":
      source = FakeSource(self.name, self.split)
    elif is_video_folder:
      from tokenlearner_flexivit.data.video_folder import VideoFolderSource

      source = VideoFolderSource(self.name, self.split, self.data_dir)
    else:
      # TFDS is not needed by the others, and takes a while to import.
      from tokenlearner_flexivit.data.tfds_source import TfdsSource

      source = TfdsSource(self.name, self.split, self.data_dir, self.features)
    if not len(source):
      raise ValueError(f"The split is empty: {source.name}.")
    return source


def open_source(data_config: Mapping[str, Any]) -> Source:
  """Opens the dataset split that a data config names.

  Args:
    data_config: dict or ConfigDict with `name`, `split` and possibly other
      keys of a data config; see `_Settings`.

  Returns:
    The source.

  Raises:
    ValueError: the config has unknown keys, or the dataset or the split cannot
      be read; the message says what to do.
  """
  return _Settings.from_config(data_config).source()


def peek(
  data_config: Mapping[str, Any], source: Source | None = None
) -> dict[str, np.ndarray]:
  """Returns one preprocessed example, to check a config before the first step.

  Args:
    data_config: dict or ConfigDict; see `_Settings`.
    source: the opened source, if there is one already.

  Returns:
    The first example that is not corrupt. Its arrays have the shapes and
    dtypes of all.

  Raises:
    ValueError: the config is wrong, or something in the example cannot be put
      into a batch of numbers.
    ExampleError: it cannot be read or preprocessed.
  """
  settings = _Settings.from_config(data_config)
  make_example = settings.make_example(source)
  example, _ = make_example(0, np.random.default_rng(_EVAL_SEED))
  for key, value in example.items():
    if np.asarray(value).dtype.kind not in "biuf":
      raise ValueError(
        f"After the preprocessing {settings.pp!r} the example has {key!r}, "
        f"which is no array of numbers but {type(value).__name__}. Decode it, "
        "or leave it out with keep(...) or drop(...)."
      )
  return {key: np.asarray(value) for key, value in example.items()}


def check_entries(
  example: Mapping[str, Any], needed: Iterable[str], where: str
) -> None:
  """Raises ValueError for an entry that an example, made by `where`, lacks."""
  for key in needed:
    if key not in example:
      raise ValueError(f"{where} gives no {key!r}, only {', '.join(example)}.")


def train_batches(
  data_config: Mapping[str, Any],
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  source: Source | None = None,
) -> Iterator[Batch]:
  """Returns this host's part of an endless stream of training batches.

  Each epoch has every example once, in an order of its own; batches run across
  the ends of epochs. Host h of n gets the rows [h * b, (h + 1) * b) of every
  global batch, b = batch_size / n.

  Up to data.max_corrupt different corrupt examples are skipped, each with a
  warning that names it. Another example, with the random numbers of this place
  in the stream, takes the place: always the same, so the batches still depend
  on nothing but the seed and the position. Each host's process counts those in
  the batches it has delivered since it started, whichever of its threads or
  processes found them: n hosts may skip up to n times as many, and a restart
  begins at 0.

  Args:
    data_config: dict or ConfigDict; see `_Settings`.
    batch_size: examples per step on all hosts together.
    seed: seed of order and augmentation, not negative.
    start_step: number of batches to leave out, at no cost.
    process_index: number of this host.
    process_count: number of hosts.
    source: the opened source, if there is one already.

  Returns:
    An iterator of dicts of arrays [batch_size / process_count, ...]. Its method
    `close` ends threads and processes; so does garbage collection.

  Raises:
    ValueError: the config is wrong or the hosts do not divide the batch size.
    ExampleError: from the iterator, when an example cannot be read, or when
      more than data.max_corrupt are corrupt; names them.
  """
  settings = _Settings.from_config(data_config)
  host_batch_size = _host_batch_size(batch_size, process_count)
  if start_step < 0:
    raise ValueError(f"start_step must not be negative, got {start_step}.")
  make_example = settings.make_example(source)
  order_seed, ops_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
  dataset = (
    grain.MapDataset.range(len(make_example.source))
    .shuffle(seed=order_seed)
    .repeat()
    # The generator that Grain gives depends on the seed and the position in
    # this stream, which is the same for any number of hosts.
    .random_map(make_example, seed=ops_seed)
  )
  dataset = _Batches(dataset, host_batch_size)
  # Host batches are consecutive parts of global ones. Slices of a MapDataset
  # are arithmetic on indices, so starting late costs nothing.
  dataset = dataset[process_index::process_count][start_step:]
  return _Delivery(_prefetch(dataset, settings), settings.max_corrupt)


def eval_batches(
  data_config: Mapping[str, Any],
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  source: Source | None = None,
) -> Iterable[Batch]:
  """Returns this host's part of one pass over a split, in order.

  All hosts get the same number of batches. Every example is in exactly one of
  them; the rest of the last is filled with zeros. Random ops draw the same
  numbers for an example in each pass.

  Args:
    data_config: dict or ConfigDict; see `_Settings`.
    batch_size: examples per batch on all hosts together.
    process_index: number of this host.
    process_count: number of hosts.
    source: the opened source, if there is one already.

  Returns:
    An iterable with a length, each iteration of which is a pass. Its elements
    are dicts of arrays [batch_size / process_count, ...], among them `mask`,
    float32 [batch_size / process_count], 1 for examples and 0 for filling.

  Raises:
    ValueError: the config is wrong, the preprocessing leaves a `mask`, or the
      hosts do not divide the batch size.
    ExampleError: from the iteration, when an example cannot be read or
      preprocessed; names it.
  """
  settings = _Settings.from_config(data_config)
  if settings.max_corrupt:
    raise ValueError(
      f"data.max_corrupt={settings.max_corrupt} is for training only: an "
      f"evaluation, here on {settings.name!r}, counts every example, so a "
      "corrupt one stops it. Leave max_corrupt out."
    )
  host_batch_size = _host_batch_size(batch_size, process_count)
  make_example = settings.make_example(source)
  source = make_example.source
  filling = {
    key: np.zeros_like(value)
    for key, value in peek(data_config, source).items()
  }
  if "mask" in filling:
    raise ValueError(
      f"The preprocessing {settings.pp!r} leaves a 'mask', but that is what "
      "eval batches call theirs."
    )
  num_batches = -(-len(source) // batch_size)
  dataset = grain.MapDataset.range(num_batches * batch_size).random_map(
    examples.MakeMaskedExample(make_example, filling), seed=_EVAL_SEED
  )
  dataset = _Batches(dataset, host_batch_size)[process_index::process_count]
  return _EvalBatches(_prefetch(dataset, settings), num_batches)


@dataclasses.dataclass(frozen=True)
class _EvalBatches:
  """An iterable with a length."""

  dataset: grain.IterDataset
  num_batches: int

  def __len__(self) -> int:
    return self.num_batches

  def __iter__(self) -> Iterator[Batch]:
    iterator = _Delivery(self.dataset, max_corrupt=0)
    try:
      yield from iterator
    finally:
      # A pass that is broken off leaves no threads or processes behind.
      iterator.close()


class _Delivery(Iterator[Batch]):
  """Hands out batches, and counts and names the corrupt examples skipped."""

  def __init__(self, dataset: grain.IterDataset, max_corrupt: int):
    self._batches = iter(dataset)
    self._max_corrupt = max_corrupt
    self._corrupt: dict[int, str] = {}

  def __next__(self) -> Batch:
    try:
      batch, corrupt = next(self._batches)
      self._count(corrupt)
    except Exception:
      # Else garbage collection would end the threads, and might run in one.
      self.close()
      raise
    return batch

  def _count(self, corrupt: examples.Corrupt) -> None:
    # Counted here rather than where they are found, because batches arrive
    # here in order and from all threads and processes.
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


class _Batches(grain.MapDataset):
  """Consecutive examples of a dataset, `batch_size` at a time.

  Grain's own `batch` holds all examples of a batch before it stacks them. Here
  each is copied into the batch as soon as it is made, so that the next one uses
  the same memory again: fresh memory costs more than what is written there.
  With each batch come the corrupt examples that others stand in for.
  """

  def __init__(self, examples: grain.MapDataset, batch_size: int):
    super().__init__(examples)
    self._batch_size = batch_size
    self._memory = memory.Memory()

  def __len__(self) -> int:
    return len(self.parents[0]) // self._batch_size

  def __getitem__(
    self, index: int | slice
  ) -> "tuple[Batch, examples.Corrupt] | grain.MapDataset":
    if isinstance(index, slice):
      return self.slice(index)
    start = index * self._batch_size
    batch, first, corrupt = {}, {}, ()
    for row in range(self._batch_size):
      example, skipped = self.parents[0][start + row]
      corrupt += skipped
      example = {key: np.asarray(value) for key, value in example.items()}
      spec = {key: (v.shape, v.dtype) for key, v in example.items()}
      if row == 0:
        first = spec
        batch = {
          key: self._memory.empty((self._batch_size, *value.shape), value.dtype)
          for key, value in example.items()
        }
      elif spec != first:
        raise ValueError(
          "Examples of different shapes or types cannot be a batch; does the "
          f"preprocessing lack a resize? There are {first} and {spec}."
        )
      for key, value in example.items():
        batch[key][row] = value
    return batch, corrupt


def _host_batch_size(batch_size: int, process_count: int) -> int:
  """Returns the batch size per host."""
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f"{process_count} hosts do not divide the batch size {batch_size}."
    )
  return batch_size // process_count


def _prefetch(
  dataset: grain.MapDataset, settings: _Settings
) -> grain.IterDataset:
  """Returns the batches in order, made ahead by threads or processes."""
  workers = settings.num_workers
  # Each process has a share of the batches in the making.
  buffer = -(-settings.prefetch // max(workers, 1))
  iter_dataset = dataset.to_iter_dataset(
    grain.ReadOptions(
      num_threads=min(settings.num_threads, buffer),
      prefetch_buffer_size=buffer,
    )
  )
  if workers:
    # Grain looks at absl's flags, which are parsed only in programs that absl
    # started; tests and notebooks are others.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    # Grain spawns its workers (a fork would copy JAX's threads and locks), and
    # deals the batches out in turn, so that the order stays.
    iter_dataset = iter_dataset.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=1
      )
    )
  return iter_dataset
