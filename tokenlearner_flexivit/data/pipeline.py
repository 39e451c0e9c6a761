"""Batches of preprocessed examples, for training and for evaluation.

The order of the training stream and all random numbers are functions of the
seed and of the position in the stream. They do not depend on restarts, nor on
the numbers of hosts, threads and processes.
"""

import dataclasses
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data import (
  alignment,
  batches,
  captions,
  examples,
  memory,
)
from tokenlearner_flexivit.data.settings import Settings
from tokenlearner_flexivit.data.sources.base import Source

with terminal.root_logger_unchanged():
  import grain

Batch = batches.Batch

# Random ops draw the same numbers for an example in every evaluation.
_EVAL_SEED = 0
# Examples of an evaluation that are read when it is set up: enough to notice
# that images have several sizes.
_SAMPLE = 8


def open_source(data_config: Mapping[str, Any], where: str = "data") -> Source:
  """Opens the dataset split that a data config names.

  Args:
    data_config: dict or ConfigDict with `name`, `split` and possibly other
      keys of a data config; see `Settings`.
    where: name of the section for errors, such as "config.data".

  Returns:
    The source.

  Raises:
    ValueError: the config has unknown keys, or the dataset or the split cannot
      be read; the message says what to do.
  """
  return Settings.from_config(data_config, where).open_source(where)


def check_section(
  data_config: Mapping[str, Any], where: str, split_key: str | None = None
) -> None:
  """Raises ValueError for wrong keys, preprocessing or split.

  It reads no examples, and lists no more than the names of the splits.

  Args:
    data_config: dict or ConfigDict; see `Settings`.
    where: name of the section for errors.
    split_key: key that names the split, if this is not `split` of the section.
  """
  settings = Settings.from_config(data_config, where)
  settings.preprocess(where)
  settings.check_split(split_key or f"{where}.split")


def peek(
  data_config: Mapping[str, Any],
  source: Source | None = None,
  where: str = "data",
  *,
  skip_device_ops: bool = False,
) -> dict[str, np.ndarray]:
  """Returns one preprocessed example, to check a config before the first step.

  Args:
    data_config: dict or ConfigDict; see `Settings`.
    source: the opened source, if there is one already.
    where: name of the section for errors.
    skip_device_ops: leaves out the ops of `device_ops`.

  Returns:
    The first example that is not corrupt, after all ops. All examples have the
    shapes and dtypes of its arrays.

  Raises:
    ValueError: the config is wrong, an entry of the example cannot be put into
      a batch of numbers, an op moves the image but not a mask or boxes that the
      example keeps, or mirrors an image whose caption then is false.
    ExampleError: the example cannot be read or preprocessed.
  """
  settings = Settings.from_config(data_config, where)
  make_example = settings.make_example(
    source, where, skip_device_ops=skip_device_ops
  )
  return _peek(make_example, where)


def _peek(
  make_example: examples.MakeExample, where: str
) -> dict[str, np.ndarray]:
  """Returns the first good example, or raises the errors of `peek`."""
  text = make_example.preprocess.text
  followed = alignment.Alignment(make_example.preprocess)
  example, _ = make_example(
    0, np.random.default_rng(_EVAL_SEED), followed.watch
  )
  for key, value in example.items():
    if np.asarray(value).dtype.kind not in "biuf":
      if isinstance(value, Mapping):
        remedy = "Make arrays of it by objects(...)"
      elif isinstance(value, bytes):
        remedy = "Decode an image; make tokens of a text by tokenize(...)"
      else:
        remedy = "Make tokens of texts by tokenize(...)"
      raise ValueError(
        f"{where}.pp: after the preprocessing {text!r} the example has "
        f"{key!r}, which is no array of numbers but {type(value).__name__}. "
        f"{remedy}, or leave it out with keep(...) or drop(...)."
      )
  try:
    followed.check(example)
    captions.check_mirrors(
      make_example.preprocess, make_example.source, example
    )
  except ValueError as error:
    raise ValueError(f"{where}.pp: {error}") from None
  return {key: np.asarray(value) for key, value in example.items()}


def check_sample(
  data_config: Mapping[str, Any],
  source: Source,
  example: Mapping[str, np.ndarray],
  where: str = "data",
) -> None:
  """Raises ValueError if sampled examples do not fit a batch with the first.

  Without this check the first pass over the split would raise the error, hours
  after the start.

  Args:
    data_config: dict or ConfigDict; see `Settings`.
    source: the source that it names.
    example: the first example, as `peek` returns it.
    where: name of the section for errors.

  Raises:
    ExampleError: a sampled example cannot be read or preprocessed.
  """
  settings = Settings.from_config(data_config, where)
  make_example = settings.make_example(source, where)
  spec = batches.spec_of(example)
  sample = np.linspace(0, len(source) - 1, _SAMPLE, dtype=int)
  for index in np.unique(sample)[1:]:
    other, _ = make_example(index, np.random.default_rng(_EVAL_SEED))
    try:
      batches.check_fits(other, spec)
    except ValueError as error:
      raise ValueError(f"{where}.pp: {error}") from None


def device_ops(
  data_config: Mapping[str, Any], where: str = "data"
) -> Callable[[dict[str, Any]], dict[str, Any]]:
  """Returns the ops at the end of the preprocessing that a device may do.

  These are `value_range`, `standardize` and other ops registered with
  `on_device`, if no other op touches the image after them. The streams leave
  them out with `skip_device_ops`, so that images leave the host as uint8, in a
  quarter of the memory.

  Args:
    data_config: dict or ConfigDict; see `Settings`.
    where: name of the section for errors.

  Returns:
    A function that applies these ops to a batch and returns it. It takes NumPy
    and JAX arrays, also in a compiled program, and leaves out ops whose entries
    the batch lacks.

  Raises:
    ValueError: the config is wrong.
  """
  parsed = Settings.from_config(data_config, where).preprocess(where)
  _, on_device = parsed.split()

  def finish(batch: dict[str, Any]) -> dict[str, Any]:
    for step in on_device.steps:
      if batch.keys() >= set(step.entries):
        batch = step.fn(batch, *step.args, **step.kwargs)
    return batch

  return finish


def check_entries(
  example: Mapping[str, Any], needed: Iterable[str], where: str
) -> None:
  """Raises ValueError for an entry that an example lacks.

  Args:
    example: the example.
    needed: names of the entries.
    where: what gave the example, for errors.
  """
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
  skip_device_ops: bool = False,
  where: str = "data",
) -> Iterator[Batch]:
  """Returns this host's part of an endless stream of training batches.

  Each epoch has every example once, in its own order; batches run across the
  ends of epochs. Host h of n gets the rows [h * b, (h + 1) * b) of every global
  batch, b = batch_size / n.

  Up to data.max_corrupt different corrupt examples are skipped, each with a
  warning that names it. Another example, always the same one, replaces each,
  with the random numbers of its position, so batches still depend only on the
  seed and the position. Each host counts the corrupt examples of the batches
  that it has delivered since it started, over all its threads and processes: n
  hosts may skip up to n times as many, and a restart begins at 0.

  Args:
    data_config: dict or ConfigDict; see `Settings`.
    batch_size: examples per step on all hosts together.
    seed: seed of order and augmentation, not negative.
    start_step: number of batches to skip, at no cost.
    process_index: number of this host.
    process_count: number of hosts.
    source: the opened source, if there is one already.
    skip_device_ops: leaves the ops of `device_ops` to the caller.
    where: name of the section for errors.

  Returns:
    An iterator of dicts of arrays [batch_size / process_count, ...]. Its method
    `close` ends threads and processes; so does garbage collection.

  Raises:
    ValueError: the config is wrong or the hosts do not divide the batch size.
    ExampleError: an example cannot be read, or more than data.max_corrupt are
      corrupt; the message names them. The iterator raises it in place of the
      batch with that example.
  """
  settings = Settings.from_config(data_config, where)
  host_batch_size = _host_batch_size(batch_size, process_count)
  for value, name in ((seed, "seed"), (start_step, "start_step")):
    configuration.check_number(value, name, "[0, inf)", whole=True)
  make_example = settings.make_example(
    source, where, skip_device_ops=skip_device_ops
  )
  order_seed, ops_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
  dataset = (
    grain.MapDataset.range(len(make_example.source))
    .shuffle(seed=order_seed)
    .repeat()
    # Grain's generator depends on the seed and the position in this stream,
    # which is the same for any number of hosts.
    .random_map(make_example, seed=ops_seed)
  )
  # Host batches are consecutive parts of global ones. Slices of a MapDataset
  # are arithmetic on indices, so starting late costs nothing.
  part = slice(process_index + start_step * process_count, None, process_count)
  return settings.stream(
    dataset, _peek(make_example, where), host_batch_size, part, memory.Memory()
  )


def eval_batches(
  data_config: Mapping[str, Any],
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  source: Source | None = None,
  skip_device_ops: bool = False,
  also: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
  where: str = "data",
) -> Iterable[Batch]:
  """Returns this host's part of one pass over a split, in order.

  All hosts get the same number of batches. Every example is in exactly one of
  them; zeros pad the last batch. Random ops draw the same numbers for an
  example in each pass.

  Args:
    data_config: dict or ConfigDict; see `Settings`.
    batch_size: examples per batch on all hosts together.
    process_index: number of this host.
    process_count: number of hosts.
    source: the opened source, if there is one already.
    skip_device_ops: leaves the ops of `device_ops` to the caller; these then
      change the padding as well.
    also: data configs of the same examples, which are read once, with another
      preprocessing; by what is put in front of the names of its entries.
    where: name of the section for errors.

  Returns:
    An iterable with a length; each iteration is a pass. Its elements are dicts
    of arrays [batch_size / process_count, ...], among them `mask`, float32
    [batch_size / process_count], 1 for examples and 0 for padding.

  Raises:
    ValueError: the config is wrong, the preprocessing leaves a `mask`, or the
      hosts do not divide the batch size.
    ExampleError: an example cannot be read or preprocessed; the message names
      it. The iteration raises this.
  """
  settings = Settings.from_config(data_config, where)
  if settings.max_corrupt:
    raise ValueError(
      f"{where}.max_corrupt={settings.max_corrupt} is for training only: an "
      f"evaluation, here on {settings.name!r}, counts every example, so a "
      "corrupt one stops it. Leave max_corrupt out."
    )
  host_batch_size = _host_batch_size(batch_size, process_count)
  make_example = settings.make_example(
    source, where, skip_device_ops=skip_device_ops
  )
  example = _peek(make_example, where)
  if "mask" in example:
    raise ValueError(
      f"{where}.pp={settings.pp!r} leaves a 'mask', but that is what eval "
      "batches call theirs."
    )
  parts = {"": make_example.preprocess}
  for prefix, other in also.items():
    makes_more = Settings.from_config(other, where).make_example(source, where)
    parts[prefix] = makes_more.preprocess
    more = _peek(makes_more, where)
    example |= {f"{prefix}{key}": value for key, value in more.items()}
  if also:
    make_example = dataclasses.replace(
      make_example, preprocess=examples.Several(parts)
    )
  padding = {key: np.zeros_like(value) for key, value in example.items()}
  num_batches = -(-len(make_example.source) // batch_size)
  dataset = grain.MapDataset.range(num_batches * batch_size).random_map(
    examples.MakeMaskedExample(make_example, padding), seed=_EVAL_SEED
  )
  part = slice(process_index, None, process_count)
  example["mask"] = np.float32(1)
  shared_memory = memory.Memory()

  def begin() -> batches.Delivery:
    return settings.stream(
      dataset, example, host_batch_size, part, shared_memory
    )

  return _Passes(begin, num_batches)


@dataclasses.dataclass(frozen=True)
class _Passes:
  """An iterable with a length whose iterations each begin anew."""

  begin: Callable[[], batches.Delivery]
  num_batches: int

  def __len__(self) -> int:
    return self.num_batches

  def __iter__(self) -> Iterator[Batch]:
    delivery = self.begin()
    try:
      yield from delivery
    finally:
      # An interrupted pass leaves no threads or processes behind.
      delivery.close()


def _host_batch_size(batch_size: int, process_count: int) -> int:
  """Returns the batch size of each host, or raises ValueError."""
  configuration.check_number(batch_size, "batch_size", "[1, inf)", whole=True)
  if batch_size % process_count:
    raise ValueError(
      f"The batch size {batch_size} cannot be divided over "
      f"{terminal.counted(process_count, 'host')}."
    )
  return batch_size // process_count
