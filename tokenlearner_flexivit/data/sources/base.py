"""The interface of a source of examples."""

import abc
import collections
import concurrent.futures
import hashlib
import itertools
import os
import types
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data import shared_examples, splits

# Threads that read labels; they wait for the disk or the network.
_READERS = 32

# Lines of an error or a warning that lists what is wrong.
_MOST_LINES = 5

# Examples whose labels are read in seconds, from any disk.
_FEW = 10_000


class Source(abc.ABC):
  """A split of a dataset with random access.

  An example is a dict with `image` (encoded bytes, or uint8 [H, W, C]) or
  `video` (a sequence of encoded frames, or uint8 [T, H, W, C]), `label`
  (np.int32; if an example may have several classes, float32 [num_classes] with
  1 at each of its classes), `id` (np.int32, the position in the source) and
  the other entries of the dataset. Sources are pickled to worker processes.

  Attributes:
    name: name of the source in errors.
    num_classes: number of classes, or None if `label` holds no classes.
    class_names: names of the classes in order, or None without names.
    has_several: whether an example may have several classes.
    value_names: by feature, names of its values 0, 1, ..., if they have names.
    stuff: by feature, the names of classes that are no things, such as sky;
      empty if that is not known.
    parts: what is read of the dataset's splits; empty if that is not known.
    notes: what was read and checked, in words, for the start of a run.
    mirror_error: why captions are false for mirrored images; "" if they are
      not known to be.
    options: arguments of the constructor after the name and the split.
  """

  name: str
  num_classes: int | None = None
  class_names: list[str] | None = None
  has_several: bool = False
  value_names: Mapping[str, list[str]] = types.MappingProxyType({})
  stuff: Mapping[str, Sequence[str]] = types.MappingProxyType({})
  parts: Sequence[shared_examples.Part] = ()
  notes: Sequence[str] = ()
  mirror_error: str = ""
  options: Sequence[str] = ()

  @classmethod
  def check_split(
    cls, name: str, split: str, data_dir: str | os.PathLike | None = None
  ) -> None:
    """Raises ValueError for a split that a dataset is known not to have.

    It lists no examples and stores nothing. If nothing is known yet, such as of
    a dataset that is still to be prepared, opening the split raises the error.

    Args:
      name: the dataset, as in a config.
      split: a split, perhaps with a slice, or a sum.
      data_dir: folder of prepared datasets; None for the default.
    """
    del data_dir
    splits.parse(split, name)

  @abc.abstractmethod
  def __len__(self) -> int:
    """Returns the number of examples."""

  @abc.abstractmethod
  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns the example at `index`, an int in [0, len)."""

  def describe(self, index: int) -> str:
    """Returns words that let a person find the example at `index`."""
    return f"example {index}"

  def labels(self, key: str = "label") -> np.ndarray:
    """Returns one whole number per example, without decoding images.

    Args:
      key: the entry of an example that is the number. A negative one means that
        the example has no label.

    Returns:
      int64 [len(self)].

    Raises:
      ValueError: examples have no such entry, or it is no whole number.
    """
    self.check_label(key)
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
      # In chunks: futures of a million examples would fill the memory.
      parts = [
        np.fromiter(pool.map(lambda i: int(self[i][key]), part), np.int64)
        for part in _chunks(len(self), 32 * _READERS)
      ]
    return np.concatenate(parts)

  def entries(self, key: str) -> Iterator[Any]:
    """Yields one entry of all examples in order, without decoding images.

    Args:
      key: the entry of an example, such as "captions".

    Raises:
      ValueError: examples have no such entry.
    """
    for i in range(len(self)):
      example = self[i]
      if key not in example:
        raise self.no_entry(key, example)
      yield example[key]

  def no_entry(self, key: str, known: Iterable[str]) -> ValueError:
    """Returns the error about an entry that examples do not have."""
    return ValueError(
      f"Examples of {self.name} have no {key!r}, only "
      f"{', '.join(sorted(known))}."
    )

  def classes(
    self, key: str = "label"
  ) -> tuple[int | None, Sequence[str] | None]:
    """Returns the number and the names of the classes of an entry.

    Args:
      key: the entry of an example.

    Returns:
      The number and the names, each None if the source does not know it.
    """
    if key == "label" and self.num_classes is not None:
      return self.num_classes, self.class_names
    names = self.value_names.get(key)
    return None if names is None else len(names), names

  @property
  def has_labels_at_hand(self) -> bool:
    """Tells whether `labels` takes no more than seconds."""
    return len(self) <= _FEW

  def label_keys(self) -> list[str]:
    """Returns the entries of an example that are one whole number."""
    return [key for key, value in self[0].items() if is_whole_number(value)]

  def check_label(self, key: str) -> None:
    """Raises ValueError unless `labels` can return this entry of examples."""
    known = self.label_keys()
    if key not in known:
      names = ", ".join(name for name in known if name != "id")
      raise ValueError(
        f"{key!r} is no entry of {self.name} that is one whole number per "
        f"example. Such are: {names or 'none'}."
      )

  def digest(self) -> str:
    """Returns a short digest of the data, to notice that they have changed.

    It is the same on every host, wherever the data are stored.
    """
    return hash_words(len(self), self.num_classes, self.class_names)


def check(claim: str, problems: Iterable[str]) -> None:
  """Raises ValueError with the first problems, if there are any.

  Args:
    claim: what is then wrong, such as "/data cannot be read".
    problems: in words; each names its file.
  """
  problems = list(problems)
  if problems:
    raise ValueError(f"{claim}:{listed(problems)}")


def check_read_once(
  name: str, files: Iterable[tuple[str, Collection[str]]]
) -> None:
  """Raises ValueError if two parts of a split have a file in common.

  Args:
    name: of the source.
    files: of each part, by the name of the split that it takes.
  """
  for (one, own), (two, others) in itertools.combinations(files, 2):
    if common := {*own} & {*others}:
      raise ValueError(
        f"{name} has {terminal.counted(len(common), 'image')} twice, such as "
        f"{min(common)}: {one} and {two} both list it. Name splits that share "
        "none."
      )


def listed(lines: Sequence[str]) -> str:
  """Returns the first of many lines, and how many more there are."""
  more = len(lines) - _MOST_LINES
  return "".join(f"\n  {line}" for line in lines[:_MOST_LINES]) + (
    f"\n  ... and {more} more" if more > 0 else ""
  )


def hash_words(*values: Any) -> str:
  """Returns a hash of values' `repr` in 16 hexadecimal digits."""
  return hashlib.blake2b(repr(values).encode(), digest_size=8).hexdigest()


def spelling(name: str) -> str:
  """Returns a name as names that probably mean the same have it in common.

  These differ only in case, in blanks at the ends, or in the encoding of
  letters: Apple's file systems write an accent as a separate character.
  """
  return unicodedata.normalize("NFKC", name).strip().casefold()


def spelt_alike(names: Iterable[str]) -> list[str]:
  """Returns the names that have a `spelling` in common with another name."""
  groups = collections.defaultdict(list)
  for name in names:
    groups[spelling(name)].append(name)
  alike = [group for group in groups.values() if len(group) > 1]
  return list(itertools.chain.from_iterable(alike))


def warn_of_classes(
  name: str, class_names: Sequence[str], counts: Sequence[int], kind: str
) -> None:
  """Warns of classes without an example and of names that are spelt alike.

  Args:
    name: name of the source.
    class_names: names of its classes.
    counts: number of examples of each class.
    kind: the kind of the examples, such as "image".
  """
  missing = [
    class_name
    for class_name, count in zip(class_names, counts, strict=True)
    if not count
  ]
  if missing:
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    warnings.warn(
      f"{name} has no {kind} of {len(missing)} of the "
      f"{terminal.counted(len(class_names), 'class')}: "
      f"{', '.join(map(repr, missing[:10]))}{more}.",
      stacklevel=4,
    )
  warn_of_alike(name, class_names)


def warn_of_alike(name: str, class_names: Iterable[str]) -> None:
  """Warns of names of classes that are equal or spelt alike.

  Args:
    name: name of the source.
    class_names: names of its classes.
  """
  if alike := spelt_alike(class_names):
    warnings.warn(
      f"{name} has classes whose names differ only in case, in blanks or in "
      f"how their letters are encoded: {', '.join(map(repr, alike[:10]))}. If "
      "they are one class, join them.",
      stacklevel=5,
    )


def is_path(text: str) -> bool:
  """Tells whether a file can have a name, which JSON may write in any way."""
  try:
    return b"\0" not in os.fsencode(text)
  except UnicodeEncodeError:
    return False


def similar_names(folder: str | os.PathLike) -> dict[str, str]:
  """Returns the names in a folder by their `spelling`; {} if it is missing."""
  try:
    with os.scandir(folder) as entries:
      return {spelling(entry.name): entry.name for entry in entries}
  except OSError:
    return {}


def is_whole_number(value: Any) -> bool:
  """Tells whether an entry of an example is one whole number."""
  return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biu"


def _chunks(length: int, size: int) -> Iterator[range]:
  for start in range(0, length, size):
    yield range(start, min(start + size, length))


def locate(
  parts: Sequence[tuple[Any, range]], index: int
) -> tuple[tuple[Any, range], int]:
  """Returns the part that holds the example at `index`, and its position there.

  Args:
    parts: pairs of a listing and the positions that are used of it.
    index: index into all positions, one part after another.
  """
  for part in parts:
    if index < len(part[1]):
      return part, part[1][index]
    index -= len(part[1])
  raise IndexError(f"There is no example {index} after the last.")
