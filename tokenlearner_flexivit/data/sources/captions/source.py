"""The source of images with captions in a table: `captions:/path`."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.data import shared_examples, splits
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources import file_cache, image_header
from tokenlearner_flexivit.data.sources.captions import table as tables

PREFIX = "captions:"
# Headers of so many images are read in seconds; of others, files must exist.
_MOST_HEADERS = 100_000
# Images by which folders are tried.
_TRIED = 16


class CaptionsSource(sources.Source):
  """Images with captions, which a table lists.

  The path is a table, or a folder with a single one:

    a CSV or TSV file    whose first line names the columns;
    a JSONL file         with an object in each line;
    Karpathy's JSON      {"images": [{"filepath", "filename", "split",
                         "sentences": [{"raw"}]}]}, as dataset_coco.json.

  Columns, or keys, are called `file` or `image`, `caption` or `text`, or as
  `table.IMAGE` and `table.CAPTION` say, and perhaps `split`. Several rows of a
  file are several captions of it. Files are relative to the table's folder or
  absolute; those of Karpathy's may lie in `images`, and beside the folder of
  the table.

  The entries of an example are `image` (the file), `captions` (a list of
  texts) and `image/filename` (as in the table).
  """

  @classmethod
  def check_split(
    cls, name: str, split: str, data_dir: str | os.PathLike | None = None
  ) -> None:
    """Raises ValueError for a split that the table does not have."""
    del data_dir
    splits.select(split, find_splits(name.removeprefix(PREFIX)), name)

  def __init__(self, name: str, split: str):
    """Reads and checks the table, and looks for the images.

    Args:
      name: "captions:PATH".
      split: a split, a slice of it, a sum, or "all".

    Raises:
      ValueError: there is no table or no such split; or the table has lines
        that cannot be used, or names files that are missing or no images. The
        message names the first few.
    """
    self.name = f"{name} ({split})"
    path = tables.find(name.removeprefix(PREFIX))
    known = tables.read(path)
    asked = splits.select(split, known, name)
    self._parts, self.parts, self.notes, images = [], [], [], {}
    for known_name, text, part in asked:
      listed = known[known_name]
      if known_name not in images:
        images[known_name] = _find_images(path, listed)
        count = sum(map(len, listed.captions))
        self.notes.append(
          f"{name}: {known_name} has "
          f"{terminal.counted(len(listed.names), 'image')} with "
          f"{terminal.counted(count, 'caption')}."
        )
      size = len(listed.names)
      positions = splits.positions(part, size, f"{name} ({known_name})")
      self._parts.append(((listed, images[known_name]), positions))
      self.parts.append(shared_examples.Part(text, known_name, size, positions))

  def __len__(self) -> int:
    return sum(len(positions) for _, positions in self._parts)

  def __getitem__(self, index: int) -> dict[str, Any]:
    ((listed, images), _), i = sources.locate(self._parts, index)
    with open(images.paths[i], "rb", buffering=0) as file:
      image = file.read()
    return {
      "image": image,
      "captions": list(listed.captions[i]),
      "image/filename": os.fsencode(listed.names[i]),
      "id": np.int32(index),
    }

  def entries(self, key: str) -> Iterator[Any]:
    """Yields one entry of all examples; captions come from memory."""
    if key != "captions":
      yield from super().entries(key)
      return
    for (listed, _), positions in self._parts:
      for i in positions:
        yield listed.captions[i]

  def describe(self, index: int) -> str:
    """Returns the position, the image's path, and where the table has it."""
    ((listed, images), _), i = sources.locate(self._parts, index)
    return f"example {index}, {images.paths[i]} ({listed.wheres[i]})"

  def label_keys(self) -> list[str]:
    """Returns []: an example has no number but its position."""
    return []

  def digest(self) -> str:
    """Returns a hash of the names of images and of their captions."""
    state = hashlib.blake2b(digest_size=8)
    for (listed, _), positions in self._parts:
      chosen = slice(positions.start, positions.stop)
      texts = list(listed.names[chosen]), list(listed.captions[chosen])
      state.update(repr(texts).encode(errors="surrogateescape"))
    return state.hexdigest()


def find_splits(path: str | os.PathLike) -> dict[str, tables.Split]:
  """Returns the splits of a table by their names.

  Raises:
    ValueError: `table.find` or `table.read` raises it.
  """
  return tables.read(tables.find(path))


def choose_splits(
  path: str | os.PathLike, train: str = "", test: str = ""
) -> tuple[str, str]:
  """Returns the splits of a table to train on and to evaluate on.

  Args:
    path: the table or its folder. A missing one is treated as one without
      splits; opening it raises the error.
    train: the split that a person asked for to train on, or "".
    test: the split that a person asked for to evaluate on, or "".

  Raises:
    ValueError: the table cannot be read, or `splits.choose` raises it.
  """
  if not paths.local(path, "captions").exists():
    return train or "train[:90%]", test or "train[90%:]"
  known = find_splits(path)
  return splits.choose(list(known), f"{PREFIX}{path}", train, test)


@dataclasses.dataclass(frozen=True, eq=False)
class _Images:
  """The images of a split; unlike a list, a cache can keep it."""

  paths: Sequence[str]


_images: file_cache.FileCache[_Images] = file_cache.FileCache()


def _find_images(path: pathlib.Path, listed: tables.Split) -> _Images:
  """Returns the paths of images; raises ValueError if some are not there.

  While they are in use and no file has changed, they are not read again.
  """
  names = sources.hash_words(listed.names)
  return _images.get(
    (path, names), lambda stamp: _look_for_images(path, listed, stamp)
  )


def _look_for_images(
  path: pathlib.Path, listed: tables.Split, stamp: file_cache.Stamp
) -> _Images:
  """Returns the paths of images, or raises the error of `_find_images`."""
  folders = [path.parent]
  if path.suffix.lower() == ".json":
    folders += [f / "images" for f in (path.parent, path.parents[1])]
    folders += [path.parents[1]]
  sample = listed.names[:: max(1, len(listed.names) // _TRIED)]

  def hits(folder: pathlib.Path) -> int:
    return sum(os.path.isfile(folder / name) for name in sample)

  folder = max(folders, key=hits)
  images = [os.path.join(folder, name) for name in listed.names]
  times = stamp.add(images)
  count = len(images)
  chosen = range(count)
  if count > _MOST_HEADERS:
    chosen = np.linspace(0, count - 1, _MOST_HEADERS, dtype=int).tolist()
  headers = image_header.read_all([images[i] for i in chosen])
  problems = {
    i: f"{listed.wheres[i]}: {images[i]}: {header}"
    for i, header in zip(chosen, headers, strict=True)
    if isinstance(header, str)
  }
  if count > _MOST_HEADERS:
    for i, time in enumerate(times):
      if time == file_cache.MISSING:
        words = f"{listed.wheres[i]}: there is no file {images[i]}"
        problems.setdefault(i, words)
  sources.check(
    f"{path} does not fit the images in {folder}",
    [problems[i] for i in sorted(problems, key=lambda i: _line(listed, i))],
  )
  return _Images(images)


def _line(listed: tables.Split, i: int) -> int:
  """Returns the number in words such as "line 5"."""
  return int(listed.wheres[i].split()[-1])
