"""The source of images with masks of classes: `mask_folder:/path`."""

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.data import mask_classes, shared_examples, splits
from tokenlearner_flexivit.data.sources import array_cache
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources.mask_folder import (
  checks,
  class_list,
  colours,
  layout,
)

PREFIX = "mask_folder:"
_MASK = "semantic"
# It takes so long to read more masks that a person wonders.
_MANY = 1000


class MaskFolderSource(sources.Source):
  """Images with masks, whose pixels are the numbers of classes.

  `layout.find_places` describes the folders that are read, `layout.pair` which
  mask belongs to an image, `class_list.read` how classes are named. Without a
  list, all training masks are read once, and the classes are 0 to the largest
  number that occurs. 255 is never a class: pixels with it have no label.

  An example has the files `image` and `semantic` as they are stored, and the
  image's `file_name`; `decode(masks='semantic')` decodes both. A mask in
  colours, of which a `labelmap.txt` tells the classes, is int32 [H, W].

  All headers are checked when the source is opened, and the ids of some masks;
  `notes` say which.
  """

  @classmethod
  def check_split(
    cls, name: str, split: str, data_dir: str | os.PathLike | None = None
  ) -> None:
    """Raises ValueError for a split that the folder does not have."""
    del data_dir
    known = list(layout.find_places(name.removeprefix(PREFIX)))
    splits.select(split, known, name)

  def __init__(self, name: str, split: str):
    """Lists and checks the files.

    Args:
      name: "mask_folder:PATH".
      split: a split, a slice of it, a sum, or "all".

    Raises:
      ValueError: the folder has no such split; an image has no mask or one of
        another size; a mask cannot be decoded, has colours, or ids that are no
        classes; or the list of classes cannot be read. The message names the
        first few files.
    """
    self.name = f"{name} ({split})"
    path = name.removeprefix(PREFIX)
    root = pathlib.Path(os.path.abspath(paths.local(path, "mask_folder")))
    places = layout.find_places(path)
    asked = splits.select(split, list(places), name)
    pairs = {known: _pair(places[known], known, root) for known, *_ in asked}
    training = next(iter(places))  # "train", if it exists.
    trained = pairs.get(training) or layout.pair(places[training])
    listed = class_list.read(root, places[training], trained.kind)
    self.notes = []
    self._headers = {k: checks.check_headers(p) for k, p in pairs.items()}
    for known, part in pairs.items():
      _refuse(part, self._headers[known].problems)
      _warn(known, part, self._headers[known].unsure)
    self._legend = dict(listed.legend) if listed else {}
    if listed:
      self._names, self._count = listed.names, len(listed.names)
      file = listed.file
      source = f" by {file.relative_to(root)}" if file else " of Cityscapes"
    else:
      self._names, self._count = None, _count_ids(trained, name)
      source = f" by the ids in all masks of {training!r}"
    numbers = self._names or [str(i) for i in range(self._count)]
    classes = sources.hash_words(numbers, self._legend)
    for known, part in pairs.items():
      headers = self._headers[known]
      is_scanned = not listed and known == training
      if not is_scanned and classes not in headers.right:
        problems = checks.check_ids(part, headers.sample, numbers, self._legend)
        _refuse(part, problems)
        headers.right.add(classes)
      checked = len(part.masks if is_scanned else headers.sample)
      self.notes.append(
        f"{name}: {known} has {terminal.counted(len(part.images), 'image')} in "
        f"{part.place.images.relative_to(root)}/ and masks in "
        f"{part.place.masks.relative_to(root)}/; checked the sizes of all, and "
        f"the ids of {terminal.counted(checked, 'mask')}. There "
        f"are {terminal.counted(self._count, 'class')}{source}."
      )
    self.parts, self._parts = [], []
    for known, text, part in asked:
      size = len(pairs[known].images)
      chosen = splits.positions(part, size, f"{name} ({known})")
      self._parts.append((pairs[known], chosen))
      self.parts.append(shared_examples.Part(text, known, size, chosen))
    if len({part.known for part in self.parts}) > 1:
      # Lists of splits may have images in common.
      sources.check_read_once(
        self.name,
        [
          (part.known, [pairs.image(i) for i in chosen])
          for part, (pairs, chosen) in zip(self.parts, self._parts, strict=True)
        ],
      )
    if self._names:
      self.value_names = {_MASK: self._names}
      sources.warn_of_alike(self.name, self._names)

  def __len__(self) -> int:
    return sum(len(positions) for _, positions in self._parts)

  def __getitem__(self, index: int) -> dict[str, Any]:
    (pairs, _), position = sources.locate(self._parts, index)
    mask = _read(pairs.mask(position))
    if self._legend and colours.has_colours(mask):
      mask = colours.to_ids(mask, self._legend)
    return {
      "image": _read(pairs.image(position)),
      _MASK: mask,
      "file_name": os.fsencode(pairs.images[position]),
      "id": np.int32(index),
    }

  def describe(self, index: int) -> str:
    """Returns the position and the paths of both files."""
    (pairs, _), position = sources.locate(self._parts, index)
    return (
      f"example {index}, {pairs.image(position)} with {pairs.mask(position)}"
    )

  def classes(
    self, key: str = _MASK
  ) -> tuple[int | None, Sequence[str] | None]:
    """Returns the number of ids in masks, and their names if there is a list.

    Args:
      key: "semantic"; other entries have no classes.
    """
    return (self._count, self._names) if key == _MASK else (None, None)

  def label_keys(self) -> list[str]:
    """Returns []: no entry is one class for a whole image."""
    return []

  def digest(self) -> str:
    """Returns a hash of the classes and of the names of files in order."""
    files = [
      [(pairs.images[i], pairs.masks[i]) for i in chosen]
      for pairs, chosen in self._parts
    ]
    return sources.hash_words(self._count, self._names, self._legend, files)


def choose_splits(
  path: str | os.PathLike, train: str = "", test: str = ""
) -> tuple[str, str]:
  """Returns the splits of a folder to train on and to evaluate on.

  Args:
    path: the folder. A missing folder is treated as one without splits; opening
      it raises the error.
    train: the split that a person asked for to train on, or "".
    test: the split that a person asked for to evaluate on, or "".

  Raises:
    ValueError: `layout.find_places` or `splits.choose` raises it.
  """
  if not paths.local(path, "mask_folder").is_dir():
    return train or "train[:90%]", test or "train[90%:]"
  places = layout.find_places(path)
  return splits.choose(
    list(places),
    f"{PREFIX}{path}",
    train,
    test,
    has_labels=lambda split: bool(places[split].masks),
  )


def _pair(place: layout.Place, split: str, root: pathlib.Path) -> layout.Pairs:
  """Returns the images and masks of a split, or raises ValueError."""
  if place.masks is None:
    raise ValueError(
      f"The split {split!r} of {root} has images in {place.images}, but no "
      "folder of masks."
    )
  pairs = layout.pair(place)
  _refuse(pairs, pairs.problems)
  if not pairs.images:
    raise ValueError(
      f"{place.images} has no images with masks in {place.masks}."
      + (f" {pairs.spare[0]} has no image." if pairs.spare else "")
    )
  return pairs


def _refuse(pairs: layout.Pairs, problems: Sequence[str]) -> None:
  where = f"{pairs.place.images} and {pairs.place.masks}"
  sources.check(f"{where} cannot be read as images and masks", problems)


def _warn(split: str, pairs: layout.Pairs, unsure: Sequence[int]) -> None:
  """Warns of masks without an image or of an unknown orientation."""
  if pairs.spare:
    warnings.warn(
      f"{split}: {terminal.counted(len(pairs.spare), 'mask')} in "
      f"{pairs.place.masks} without an image:{sources.listed(pairs.spare)}",
      stacklevel=3,
    )
  if unsure:
    files = [pairs.image(i) for i in unsure]
    warnings.warn(
      f"{split}: EXIF data turn {terminal.counted(len(files), 'image')}, and "
      "the sizes of the masks do not tell whether these are turned: say so in "
      f"decode(masks='{_MASK}', masks_exif=...).{sources.listed(files)}",
      stacklevel=3,
    )


def _count_ids(pairs: layout.Pairs, name: str) -> int:
  """Returns the number of classes by the ids in all masks of a split.

  The ids are cached for the next start.
  """
  stamps = []
  for i in range(len(pairs.masks)):
    status = os.stat(pairs.mask(i))
    stamps.append((pairs.masks[i], status.st_size, status.st_mtime_ns))
  folder = os.path.abspath(pairs.place.masks)

  def count_ids() -> np.ndarray:
    if len(stamps) > _MANY:
      terminal.say(
        f"{name}: reading the ids of {len(stamps):,} masks, once, since there "
        "is no list of classes."
      )
    return checks.occurring(pairs, lambda found: _refuse(pairs, found))

  occur = array_cache.load_or_compute(
    "masks", sources.hash_words(folder, stamps), count_ids
  )
  ids = np.flatnonzero(occur[: mask_classes.IGNORE]).tolist()
  count = len(pairs.masks)
  if not ids:
    raise ValueError(
      f"All pixels of {count} masks in {folder} are {mask_classes.IGNORE}, "
      "which is no class."
    )
  unused = sorted(set(range(ids[-1] + 1)) - set(ids))
  says = (
    f"{name} has no list of classes (classes.txt); the ids in "
    f"{terminal.counted(count, 'mask')} give {ids[-1] + 1} classes"
  )
  if unused:
    warnings.warn(
      f"{says}, of which {', '.join(map(str, unused[:10]))}"
      f"{', ...' if len(unused) > 10 else ''} do not occur.",
      stacklevel=3,
    )
  elif ids == [0] and occur[mask_classes.IGNORE]:
    warnings.warn(
      f"{says}: there are only 0 and {mask_classes.IGNORE}, and "
      f"{mask_classes.IGNORE} means that a pixel has no class. If it is one, "
      f"put map_labels({{{mask_classes.IGNORE}: 1}}) into the preprocessing.",
      stacklevel=3,
    )
  return ids[-1] + 1


def _read(path: str) -> bytes:
  with open(path, "rb", buffering=0) as file:
    return file.read()
