"""The source of images in class folders: `folder:/path`."""

import functools
import os
import pathlib
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data import shared_examples, splits
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources import file_cache, image_listing


class FolderSource(sources.Source):
  """Images in class folders.

  Two layouts are read:

    PATH/SPLIT/CLASS/IMAGE   with the splits of these folders;
    PATH/CLASS/IMAGE         with "train" or "all".

  A split may be a slice or a sum, such as "train[:90%]" or "train+validation".
  "train", "validation" and "test" may have other names, such as Training, val
  and dev (see `splits.ALIASES`), and "all" means all three.

  Classes are numbered in alphabetical order. If there is a training folder, its
  classes are those of all splits. `image_listing.Listing` describes the order
  of the images, `splits.visible` the files that are ignored. Every other file
  in a class folder must be an image.
  """

  @classmethod
  def check_split(
    cls, name: str, split: str, data_dir: str | os.PathLike | None = None
  ) -> None:
    """Raises ValueError for a split that the folder does not have."""
    del data_dir
    path = name.removeprefix("folder:")
    _select(split, split_folders(path), _root(path), name)

  def __init__(self, path: str | os.PathLike, split: str):
    """Lists the files.

    Args:
      path: the folder.
      split: a split, a slice of it, a sum, or "all".

    Raises:
      ValueError: the folder does not exist, has no class folders or no such
        split, or holds a file that is not an image; the message names it.
    """
    self.name = f"folder:{path} ({split})"
    folders = split_folders(path)
    root = _root(path)
    if "all" in folders and "all" in dict(splits.parse(split)):
      raise ValueError(
        f"{root} has a folder 'all', but the split 'all' is train, validation "
        "and test together. Rename the folder, such as to 'everything'."
      )
    asked = [
      (folders[known], text, part)
      for known, text, part in _select(split, folders, root, f"folder:{path}")
    ]
    self.class_names = _class_names(folders, [folder for folder, *_ in asked])
    self.num_classes = len(self.class_names)
    numbers = {name: number for number, name in enumerate(self.class_names)}
    self.parts, self._parts, labels = [], [], []
    for folder, text, part in asked:
      listing = image_listing.list_images(folder)
      unknown = [name for name in listing.class_names if name not in numbers]
      if unknown:
        raise ValueError(
          f"{folder} holds classes that {folders['train']} lacks: "
          f"{_some(unknown)}.{_likely(unknown, self.class_names)}"
        )
      chosen = splits.positions(part, len(listing), str(folder))
      number = np.array([numbers[n] for n in listing.class_names], np.int32)
      self._parts.append((listing, chosen))
      self.parts.append(
        shared_examples.Part(text, str(folder), len(listing), chosen)
      )
      labels.append(number[listing.labels[chosen.start : chosen.stop]])
    self._labels = np.concatenate(labels)
    if len(self):  # Who opens the split refuses an empty one.
      self._warn_of_classes(path)

  def _warn_of_classes(self, path: str | os.PathLike) -> None:
    if self.num_classes == 1:
      warnings.warn(
        f"folder:{path} has a single class, {self.class_names[0]!r}, so there "
        "is nothing to tell apart. Expected PATH/CLASS/IMAGE or "
        "PATH/SPLIT/CLASS/IMAGE, with a folder for each class. Is the path one "
        "level off?",
        stacklevel=3,
      )
    counts = np.bincount(self._labels, minlength=self.num_classes)
    sources.warn_of_classes(self.name, self.class_names, counts, "image")

  def __len__(self) -> int:
    return len(self._labels)

  def __getitem__(self, index: int) -> dict[str, bytes | np.ndarray]:
    return {
      "image": self._read(index) if index else self._first_image,
      "label": self._labels[index],
      "id": np.int32(index),
    }

  @functools.cached_property
  def _first_image(self) -> bytes:
    # The first example is read to check a config, then again for a batch.
    return self._read(0)

  def _read(self, index: int) -> bytes:
    with open(self._path(index), "rb", buffering=0) as file:
      return file.read()

  def _path(self, index: int) -> str:
    (listing, _), position = sources.locate(self._parts, index)
    return listing.path(position)

  def describe(self, index: int) -> str:
    """Returns the position and the path of the file."""
    return f"example {index}, {self._path(index)}"

  def labels(self, key: str = "label") -> np.ndarray:
    """Returns the numbers of the classes, int64 [N], from memory."""
    self.check_label(key)
    return self._labels.astype(np.int64)

  def label_keys(self) -> list[str]:
    """Returns the only label of an example."""
    return ["label"]

  @property
  def has_labels_at_hand(self) -> bool:
    """Returns True: labels are in memory."""
    return True

  def digest(self) -> str:
    """Returns a hash of the classes and of the files' names in their order."""
    return sources.hash_words(
      self.class_names,
      [listing.digest(chosen) for listing, chosen in self._parts],
    )


def split_folders(path: str | os.PathLike) -> dict[str, pathlib.Path]:
  """Returns the splits of a folder of images, with the folders of each.

  Args:
    path: the folder.

  Returns:
    Folders of class folders by split: "train", "validation" and "test" if they
    exist under any alias, then others by their own names. Without splits,
    {"train": PATH}.

  Raises:
    ValueError: the folder does not exist or holds no folders, or `splits.find`
      raises it.
  """
  root = _root(path)
  return _known.get(root, lambda stamp: _split_folders(root, stamp))


# A start asks for the splits many times, and folders may be large.
_known: file_cache.FileCache[dict[str, pathlib.Path]] = file_cache.FileCache(
  most=8
)


def _split_folders(
  root: pathlib.Path, stamp: file_cache.Stamp
) -> dict[str, pathlib.Path]:
  """Returns the splits, or raises the errors of `split_folders`."""
  stamp.add([root])
  names = image_listing.class_folders(root)
  stamp.add(root / n for n in names if n == names[0] or splits.role(n))
  if not names:
    hint = f" Did you mean {root.parent}?" if _holds_images(root) else ""
    raise ValueError(
      f"{root} holds no class folders: expected one folder per class, with "
      f"images ({', '.join(image_listing.EXTENSIONS)}) in it.{hint}"
    )
  folders = splits.find(root, image_listing.is_image, has_tables=False)
  first = root / names[0]
  # A stray folder among the images of a class makes no split of it.
  if not folders and (not splits.holds_folders(first) or _holds_images(first)):
    return {"train": root}
  taken = [folder.name for folder in folders.values()]
  stamp.add(root / name for name in names)
  return folders | {
    name: root / name
    for name in names
    if name not in taken and splits.holds_folders(root / name)
  }


def choose_splits(
  path: str | os.PathLike, train: str = "", test: str = ""
) -> tuple[str, str]:
  """Returns the splits of a folder of images to train on and to evaluate on.

  Args:
    path: the folder. A missing folder is treated as one without splits; opening
      it raises the error.
    train: the split that a person asked for to train on, or "".
    test: the split that a person asked for to evaluate on, or "".

  Raises:
    ValueError: `split_folders` or `splits.choose` raises it.
  """
  if not paths.local(path, "folder").is_dir():
    return train or "train[:90%]", test or "train[90%:]"
  folders = split_folders(path)
  try:
    return splits.choose(list(folders), f"folder:{path}", train, test)
  except ValueError as error:
    raise ValueError(f"{error}{_hint(folders, _root(path))}") from None


def _holds_images(folder: pathlib.Path) -> bool:
  """Tells whether images lie in a folder itself."""
  return any(image_listing.is_image(e.name) for e in splits.visible(folder))


def _root(path: str | os.PathLike) -> pathlib.Path:
  """Returns the folder, or raises ValueError if it does not exist."""
  root = paths.local(path, "folder").absolute()
  if not root.is_dir():
    raise ValueError(f"folder:{path}: there is no such folder.")
  return root


def _select(
  split: str, folders: dict[str, pathlib.Path], root: pathlib.Path, where: str
) -> list[tuple[str, str, str]]:
  """Returns the result of `splits.select` for the splits of a folder.

  Raises:
    ValueError: no split has a name; the message says how the folder was read.
  """

  def resolve(name: str, known: Iterable[str], _: str) -> str:
    try:
      return splits.resolve(name, list(known), str(root))
    except ValueError as error:
      raise ValueError(f"{error}{_hint(folders, root, name)}") from None

  return splits.select(split, folders, where, resolve)


def _hint(
  folders: dict[str, pathlib.Path], root: pathlib.Path, asked: str = ""
) -> str:
  """Returns in words how a folder was read, for errors about its splits."""
  if folders == {"train": root}:
    classes = _some(image_listing.class_folders(root))
    return (
      f" Its folders were read as classes: {classes}. If these are classes, "
      "use 'train' or slices such as 'train[:90%]' and 'train[90%:]'."
    )
  if asked and (root / asked).is_dir():
    return f" {root / asked} is there, but holds no class folders."
  if not any(map(splits.role, folders)):
    return (
      " Its folders hold folders. If these are classes of images, give the "
      f"path one level down, such as {root / next(iter(folders))}."
    )
  return ""


def _class_names(
  folders: dict[str, pathlib.Path], asked: Sequence[pathlib.Path]
) -> list[str]:
  """Returns the classes that all splits of a folder have."""
  if "train" in folders:
    counted = [folders["train"]]
  else:
    parts = [folder for name, folder in folders.items() if splits.role(name)]
    counted = {*parts, *asked} if set(parts) & set(asked) else asked
  return sorted({n for f in counted for n in image_listing.class_folders(f)})


def _likely(unknown: Sequence[str], known: Sequence[str]) -> str:
  """Returns in words which unknown names may be known ones."""
  alike = sources.spelt_alike([*known, *unknown])
  if not alike:
    return ""
  return (
    f" Of {_some(alike)}, some differ only in case, in blanks or in how their "
    "letters are encoded: give a class the same name in all splits."
  )


def _some(names: Sequence[str], limit: int = 10) -> str:
  """Returns the first few names as words."""
  shown = ", ".join(repr(name) for name in names[:limit])
  more = f" and {len(names) - limit} more" if len(names) > limit else ""
  return (shown or "none") + more
