"""The source of images without labels: `images:/path`."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.data import shared_examples, splits
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources import file_cache, image_listing

PREFIX = "images:"
SPLIT = "train"
# Threads wait for the disk or the network, not for the processor.
_THREADS = 32


class ImagesSource(sources.Source):
  """All images below a folder, at any depth; names of folders mean nothing.

  There is one split, "train", in the order of a hash of the relative paths, so
  that every slice is a fair sample. Files that are no images are left out, and
  their number is told.

  An example has `image` (the file) and `id`.
  """

  @classmethod
  def check_split(
    cls, name: str, split: str, data_dir: str | os.PathLike | None = None
  ) -> None:
    """Raises ValueError for a split other than "train"."""
    del data_dir
    splits.select(split, [SPLIT], name)

  def __init__(self, name: str, split: str):
    """Lists the images.

    Args:
      name: "images:PATH".
      split: "train" or "all", or slices of it.

    Raises:
      ValueError: there is no such folder or split, or no image below it.
    """
    self.name = f"{name} ({split})"
    asked = splits.select(split, [SPLIT], name)
    self._root = paths.local(name.removeprefix(PREFIX), PREFIX)
    if not self._root.is_dir():
      raise ValueError(f"{name}: there is no folder {self._root}.")
    self._listing = _list_images(self._root)
    self._files, others = self._listing.files, self._listing.others
    if not self._files:
      raise ValueError(
        f"{name}: there is no image below {self._root}{_in_words(others)}. "
        f"Images are {', '.join(image_listing.EXTENSIONS)}."
      )
    size = len(self._files)
    self._parts, self.parts = [], []
    for known, text, part in asked:
      positions = splits.positions(part, size, name)
      self._parts.append((self._files, positions))
      self.parts.append(shared_examples.Part(text, known, size, positions))
    self.notes = [
      f"{name}: {terminal.counted(size, 'image')}{_in_words(others)}."
    ]

  def __len__(self) -> int:
    return sum(len(positions) for _, positions in self._parts)

  def __getitem__(self, index: int) -> dict[str, Any]:
    with open(self._path(index), "rb", buffering=0) as file:
      return {"image": file.read(), "id": np.int32(index)}

  def _path(self, index: int) -> pathlib.Path:
    (files, _), position = sources.locate(self._parts, index)
    return self._root / os.fsdecode(files[position])

  def describe(self, index: int) -> str:
    """Returns the position and the path of the file."""
    return f"example {index}, {self._path(index)}"

  def label_keys(self) -> list[str]:
    """Returns []: an example has no number but its position."""
    return []

  def digest(self) -> str:
    """Returns a hash of the relative paths in their order."""
    chosen = [
      b"".join(files[positions.start : positions.stop])
      for files, positions in self._parts
    ]
    return sources.hash_words(chosen)


@dataclasses.dataclass(frozen=True, eq=False)
class _Listing:
  """The images below a folder.

  Attributes:
    files: their paths relative to it, in the order of their hashes.
    others: how many other files there are, by suffix or in words.
  """

  files: list[bytes]
  others: collections.Counter[str]


_listings: file_cache.FileCache[_Listing] = file_cache.FileCache()


def _list_images(root: pathlib.Path) -> _Listing:
  """Returns the images below a folder.

  While a listing is in use and no folder has changed, it is returned again.
  """
  key = os.path.abspath(root)
  return _listings.get(key, lambda stamp: _list(root, stamp))


def _list(root: pathlib.Path, stamp: file_cache.Stamp) -> _Listing:
  """Returns a new listing."""
  images, unsure, entered = [], [], set()
  others = collections.Counter()
  for folder, folders, names in os.walk(root, followlinks=True):
    stamp.add([folder])
    real = os.path.realpath(folder)
    if real in entered:  # By a link, perhaps to a folder that it lies in.
      folders.clear()
      continue
    entered.add(real)
    folders[:] = sorted(n for n in folders if not splits.is_hidden(n))
    for name in names:
      path = pathlib.Path(folder, name)
      if splits.is_hidden(name):
        continue
      if path.is_file():
        (images if image_listing.is_image(name) else unsure).append(path)
      elif path.is_symlink():
        others["links that lead nowhere"] += 1
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    reasons = list(pool.map(image_listing.why_no_image, unsure))
  for path, reason in zip(unsure, reasons, strict=True):
    if reason is None:
      images.append(path)
    else:
      others[path.suffix.lower() or "without suffix"] += 1
  listed = [os.fsencode(path.relative_to(root).as_posix()) for path in images]
  return _Listing(sorted(listed, key=_hash), others)


def _hash(name: bytes) -> bytes:
  return hashlib.blake2b(name, digest_size=8).digest() + name


def _in_words(others: collections.Counter[str]) -> str:
  """Returns in words which files are left out; "" if there are none."""
  if not others:
    return ""
  kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
  return f", and other files that are not read ({kinds})"
