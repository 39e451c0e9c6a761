"""The data section of a config, and the source that it names."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data import (
  batches,
  examples,
  memory,
  preprocess,
  shared_examples,
)
from tokenlearner_flexivit.data import vocabulary as vocabulary_lib
from tokenlearner_flexivit.data.ops import text as text_ops
from tokenlearner_flexivit.data.sources.base import Source
from tokenlearner_flexivit.data.sources.captions.source import CaptionsSource
from tokenlearner_flexivit.data.sources.coco.source import CocoSource
from tokenlearner_flexivit.data.sources.fake import FakeSource
from tokenlearner_flexivit.data.sources.folder import FolderSource
from tokenlearner_flexivit.data.sources.images import ImagesSource
from tokenlearner_flexivit.data.sources.mask_folder.source import (
  MaskFolderSource,
)

with terminal.root_logger_unchanged():
  import grain


@dataclasses.dataclass(frozen=True)
class Settings:
  """The data section of a config.

  Attributes:
    name: the dataset: "digits", a TFDS name, "folder:/path",
      "images:/path", "mask_folder:/path", "coco:/path", "captions:/path",
      "video_folder:/path" or "fake:...".
    split: a split of the dataset, perhaps a slice.
    pp: preprocessing string; not needed to open the source.
    data_dir: folder of TFDS datasets, and of stored frames of videos.
    features: names of the features of a TFDS dataset, or a COCO folder, that
      are read, None for all; the fewer, the faster.
    num_workers: processes that prepare batches; 0 means threads in this
      process. Each holds the library, some 200 MB. An evaluation starts them
      anew for each pass, so that none waits during training: this takes two
      seconds of a processor each, little for a pass of minutes, but more than
      a small split takes with threads. When the program ends, Python may warn
      of leaked shared memory: it then frees batches that were still in use.
    num_threads: threads that prepare examples, in each process; 0 means none.
      None: as many, in all processes, as this process may use processors, but
      up to 16 in each. More would only wait for Python's lock, so that a
      machine with more processors needs processes.
    prefetch: batches that are ready or in progress. None: as many as take 2 GB,
      at least 2 and at most 8.
    max_corrupt: how many different corrupt examples training may skip before
      it stops; see `train_batches`. 0 for evaluation, which counts every
      example: a corrupt example stops the run, after its state is saved.
    vocabulary: what numbers the texts of `pp` where it names the vocabulary
      `words`, which a run makes of its training captions: in a config a list of
      words or what `Vocabulary.describe` returns; None without.
  """

  name: str
  split: str
  pp: str | None = None
  data_dir: str | None = None
  features: Sequence[str] | None = None
  num_workers: int = 0
  num_threads: int | None = None
  prefetch: int | None = None
  max_corrupt: int = 0
  vocabulary: vocabulary_lib.Vocabulary | None = None

  @classmethod
  def from_config(
    cls, data_config: Mapping[str, Any], where: str
  ) -> "Settings":
    """Returns the settings of a data section.

    Args:
      data_config: the data section of a config.
      where: name of the section for errors.

    Raises:
      ValueError: a key is unknown or its value impossible.
    """
    values = dict(data_config)
    known = [field.name for field in dataclasses.fields(cls)]
    configuration.check_keys(values, known, where)
    for key in ("name", "split"):
      if not values.get(key) or not isinstance(values[key], str):
        raise ValueError(
          f"{where}.{key} must name what to read, not {values.get(key)!r}."
        )
    if not isinstance(values.get("pp"), str | None):
      raise ValueError(
        f"{where}.pp={values['pp']!r} must be a string of ops, such as "
        "'decode|resize(224)|value_range(-1,1)'."
      )
    if (features := values.get("features")) is not None:
      configuration.check_list(features, f"{where}.features")
      for feature in features:
        configuration.check_text(feature, f"{where}.features")
      if not features:
        raise ValueError(
          f"{where}.features is empty, so there is nothing to read. Leave it "
          "out to read all."
        )
    data_dir = values.get("data_dir")
    if data_dir is not None and not (
      isinstance(data_dir, str | os.PathLike) and os.fspath(data_dir)
    ):
      raise ValueError(
        f"{where}.data_dir={data_dir!r} must be a folder, or None for "
        "$TFDS_DATA_DIR or ~/tensorflow_datasets."
      )
    for key in ("num_workers", "num_threads", "prefetch", "max_corrupt"):
      if values.get(key) is None:
        values.pop(key, None)  # The default.
      else:
        configuration.check_number(
          values[key], f"{where}.{key}", "[0, inf)", whole=True
        )
    if values.get("vocabulary") is not None:
      try:
        values["vocabulary"] = vocabulary_lib.from_json(values["vocabulary"])
      except ValueError as error:
        raise ValueError(f"{where}.vocabulary: {error}") from None
    return cls(**values)

  def make_example(
    self, source: Source | None, where: str, *, skip_device_ops: bool = False
  ) -> examples.MakeExample:
    """Returns the function that reads and preprocesses an example.

    Args:
      source: the opened source; None opens it.
      where: name of the section for errors.
      skip_device_ops: leaves out the ops that a device may do.
    """
    parsed = self.preprocess(where)
    try:
      text_ops.open_vocabularies(parsed, with_words=True)
    except ValueError as error:
      raise ValueError(f"{where}.pp: {error}") from None
    if skip_device_ops:
      parsed, _ = parsed.split()
    source = self.open_source(where) if source is None else source
    return examples.MakeExample(source, parsed, self.max_corrupt)

  def preprocess(self, where: str) -> preprocess.Preprocess:
    """Returns the parsed preprocessing string, with the vocabulary.

    Args:
      where: name of the section for errors.

    Raises:
      ValueError: the string is wrong, or names a vocabulary that cannot be
        read. `words` may be missing until examples are prepared.
      ImportError: a vocabulary needs a package that is not installed.
    """
    if not self.pp:
      raise ValueError(
        f"{where}.pp must be a preprocessing string, not {self.pp!r}."
      )
    try:
      parsed = preprocess.parse(self.pp)
      if self.vocabulary is not None:
        parsed = text_ops.bind(parsed, self.vocabulary)
      text_ops.open_vocabularies(parsed, with_words=False)
      return parsed
    except ValueError as error:
      raise ValueError(f"{where}.pp: {error}") from None

  def stream(
    self,
    dataset: grain.MapDataset,
    example: Mapping[str, np.ndarray],
    batch_size: int,
    part: slice,
    shared_memory: memory.Memory,
  ) -> batches.Delivery:
    """Returns batches of a dataset of examples.

    Args:
      dataset: dataset of (an example, the corrupt examples that it replaces).
      example: an example, for shapes and dtypes.
      batch_size: examples of a batch.
      part: the slice of the batches to return.
      shared_memory: memory of the batches.
    """
    spec = batches.spec_of(example)
    threads, prefetch = self.num_threads, self.prefetch
    if threads is None:
      threads = -(-batches.available_cpus() // max(self.num_workers, 1))
      threads = min(threads, batches.MAX_THREADS)
    if prefetch is None:
      prefetch = batches.prefetch_of(spec, batch_size)
    return batches.Delivery(
      batches.Batches(dataset, spec, batch_size, threads, shared_memory),
      part,
      prefetch=prefetch,
      num_workers=self.num_workers,
      max_corrupt=self.max_corrupt,
    )

  def check_split(self, where: str) -> None:
    """Raises ValueError for a split that the dataset is known not to have.

    Args:
      where: name of the split for errors, such as "config.data.split".
    """
    try:
      self._source_class.check_split(self.name, self.split, self.data_dir)
    except ValueError as error:
      raise ValueError(f"{where}={self.split!r}: {error}") from error

  @property
  def _source_class(self) -> type[Source]:
    if self.name.startswith("folder:"):
      return FolderSource
    if self.name.split(":")[0] == "fake":
      return FakeSource
    if self.name.startswith("images:"):
      return ImagesSource
    if self.name.startswith("mask_folder:"):
      return MaskFolderSource
    if self.name.startswith("coco:"):
      return CocoSource
    if self.name.startswith("captions:"):
      return CaptionsSource
    if self.name.startswith(("video_folder:", "video_folder/")):
      from tokenlearner_flexivit.data.sources.video_folder.source import (
        VideoFolderSource,
      )

      return VideoFolderSource
    # Only this source needs TFDS, which takes a while to import.
    from tokenlearner_flexivit.data.sources.tfds import TfdsSource

    return TfdsSource

  def open_source(self, where: str) -> Source:
    """Opens the source, or raises ValueError."""
    shared_examples.check_disjoint(self.split, f"{where}.split")
    cls = self._source_class
    if self.features is not None and "features" not in cls.options:
      raise ValueError(
        f"{where}.features={self.features!r} is for TFDS datasets and COCO "
        f"folders; {self.name!r} has no more than is used. Leave it out."
      )
    if self.data_dir is not None and "data_dir" not in cls.options:
      raise ValueError(
        f"{where}.data_dir={self.data_dir!r} is where prepared datasets are; "
        f"{self.name!r} needs none. Leave it out."
      )
    options = {key: getattr(self, key) for key in cls.options}
    source = cls(self.name.removeprefix("folder:"), self.split, **options)
    shared_examples.check_parts(
      source.parts, self.split, self.name, f"{where}.split"
    )
    if not len(source):
      raise ValueError(
        f"{where}.split={self.split!r}: {self.name} has no example in it."
      )
    return source
