"""Images in class folders: `folder:/path`."""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from tokenlearner_flexivit.data import sources

_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_HEADER_BYTES = 12


class FolderSource(sources.Source):
  """Images in class folders.

  Two layouts are read:

    PATH/SPLIT/CLASS/IMAGE   with any split that is there, or a slice of it;
    PATH/CLASS/IMAGE         with "train" or "all", or a slice such as
                             "train[:90%]" and "train[90%:]".

  Classes are numbered in alphabetical order; those of PATH/train, where it
  exists, are the classes of all splits. Files are put in the order of a hash of
  "CLASS/IMAGE", so that a slice has all classes and is the same on every
  machine. Hidden files are ignored. Every other file in a class folder must be
  an image: the first bytes of each are read when the source is opened, because
  a bad file is better found now than in the middle of an epoch.
  """

  def __init__(self, path: str | os.PathLike, split: str):
    """Lists and checks the files.

    Args:
      path: the folder.
      split: see above.

    Raises:
      ValueError: the folder does not exist, has no class folders or no such
        split, or holds something that is no image; the message names it.
    """
    root = pathlib.Path(path).expanduser()
    self.name = f"folder:{path} ({split})"
    if not root.is_dir():
      raise ValueError(f"folder:{path}: there is no such folder.")
    split_name, _ = sources.parse_split(split)
    if (root / split_name).is_dir():
      self._root = root / split_name
      self.class_names = _folders(root / "train") or _folders(self._root)
    else:
      self._root = root
      self.class_names = _folders(root)
      if self.class_names and split_name not in ("train", "all"):
        raise ValueError(
          f"folder:{path} has no split {split_name!r}. Its folders are "
          f"{_some(self.class_names)}. If these are classes, use 'train' or "
          "slices such as 'train[:90%]' and 'train[90%:]'."
        )
    if not self.class_names:
      raise ValueError(
        f"{self._root} holds no class folders: expected one folder per class, "
        f"with images ({', '.join(_EXTENSIONS)}) in it."
      )
    self.num_classes = len(self.class_names)

    unknown = sorted(set(_folders(self._root)) - set(self.class_names))
    if unknown:
      raise ValueError(
        f"{self._root} holds classes that {root / 'train'} lacks: "
        f"{_some(unknown)}."
      )
    labels = {name: label for label, name in enumerate(self.class_names)}
    files = list(_list_and_check(self._root))
    files.sort(key=lambda f: hashlib.blake2b(os.fsencode(f)).digest())
    _, chosen = sources.parse_split(split, len(files))
    self._files = [files[i] for i in chosen]
    self._labels = np.array(
      [labels[file.partition("/")[0]] for file in self._files], np.int32
    )

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> dict[str, bytes | np.ndarray]:
    return {
      "image": (self._root / self._files[index]).read_bytes(),
      "label": self._labels[index],
      "id": np.int32(index),
    }

  def describe(self, index: int) -> str:
    """Returns the position and the path of the file."""
    return f"example {index}, {self._root / self._files[index]}"

  def labels(self, key: str = "label") -> np.ndarray:
    """Returns the numbers of the classes, int64 [N], from memory."""
    if key != "label":
      raise ValueError(self._no_such_label(key, ["label"]))
    return self._labels.astype(np.int64)

  def digest(self) -> str:
    """Returns a hash of the classes and of the files' names in their order."""
    return sources.hash_words(self.class_names, self._files)


def _some(names: list[str], limit: int = 10) -> str:
  """Returns the first few names as words."""
  shown = ", ".join(repr(name) for name in names[:limit])
  more = f" and {len(names) - limit} more" if len(names) > limit else ""
  return (shown or "none") + more


def _visible(path: pathlib.Path) -> list[os.DirEntry]:
  """Returns what is in the folder and not hidden, in alphabetical order."""
  with os.scandir(path) as entries:
    shown = [entry for entry in entries if not entry.name.startswith(".")]
  return sorted(shown, key=lambda entry: entry.name)


def _folders(path: pathlib.Path) -> list[str]:
  """Returns the names of the folders in `path`, if it exists."""
  if not path.is_dir():
    return []
  return [entry.name for entry in _visible(path) if entry.is_dir()]


def _list_and_check(root: pathlib.Path) -> Iterator[str]:
  """Yields "CLASS/IMAGE" for all files of all classes.

  Raises:
    ValueError: a class is empty, or files are not images; names the first few
      and says how many there are.
  """
  bad = []
  # Opening a file waits for the disk or the network, not for the processor.
  with concurrent.futures.ThreadPoolExecutor(32) as pool:
    classes = _folders(root)
    for name, (good, wrong) in zip(
      classes,
      pool.map(_check_class, [root / name for name in classes]),
      strict=True,
    ):
      bad += wrong
      yield from (f"{name}/{file}" for file in good)
  # A README beside the class folders does no harm; a forgotten image does.
  bad += [
    (entry.path, "lies outside of the class folders")
    for entry in _visible(root)
    if entry.name.lower().endswith(_EXTENSIONS) and not entry.is_dir()
  ]
  if bad:
    shown = "\n".join(f"  {path}: {reason}" for path, reason in bad[:5])
    more = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise ValueError(
      f"{len(bad)} of the files in {root} cannot be used; remove them, or hide "
      f"them with a leading dot:\n{shown}{more}"
    )


def _check_class(path: pathlib.Path):
  """Returns the image files of one class and the (path, reason) of others."""
  entries = _visible(path)
  if not entries:
    return [], [(str(path), "has no images")]
  good, bad = [], []
  for entry in entries:
    reason = _why_no_image(entry)
    if reason:
      bad.append((entry.path, reason))
    else:
      good.append(entry.name)
  return good, bad


def _why_no_image(entry: os.DirEntry) -> str | None:
  """Returns why the file is no image, judged by its name and first bytes."""
  if entry.is_dir():
    return "is a folder inside a class folder (is its parent a split?)"
  if not entry.name.lower().endswith(_EXTENSIONS):
    return f"is none of {', '.join(_EXTENSIONS)}"
  try:
    with open(entry.path, "rb", buffering=0) as file:
      header = file.read(_HEADER_BYTES)
  except OSError as error:
    return f"cannot be read ({error.strerror})"
  if not header:
    return "is empty"
  is_image = header.startswith(
    (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")
  ) or (header[:4] == b"RIFF" and header[8:12] == b"WEBP")
  return None if is_image else f"is no image: it starts with {header!r}"
