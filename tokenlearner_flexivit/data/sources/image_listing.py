"""Listings of the images in class folders, compact for millions of files."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import importlib.util
import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from tokenlearner_flexivit.data import splits
from tokenlearner_flexivit.data.sources import file_cache

EXTENSIONS = (
  *(".avif", ".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".jfif", ".png"),
  *(".tif", ".tiff", ".webp"),
)
# Pictures that cannot be decoded; HEIC needs the package pillow-heif.
HEIC = (".heic", ".heif")
_FOREIGN = (
  *(".arw", ".cr2", ".cr3", ".dng", ".jp2", ".jxl", ".nef", ".pdf", ".psd"),
  *(".raw", ".svg"),
)
_HEADERS = (
  b"\xff\xd8\xff",
  b"\x89PNG\r\n\x1a\n",
  b"BM",
  b"GIF8",
  b"II*\0",
  b"MM\0*",
)
_HEADER_BYTES = 12
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
# Listing and opening wait for the disk or the network, not for the processor.
_THREADS = 32
# How many files a thread opens as one task.
_CHUNK = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
  """The images in the class folders of a folder.

  Their order is the same on every machine, and every slice has all classes in
  proportion: the n images of a class have the relative positions (i + 1/2) / n,
  in the order of a hash of "CLASS/IMAGE".

  Attributes:
    root: the folder.
    class_names: names of its class folders, in alphabetical order.
    names: the names of the files, one after another, in the order of the
      images. They are one object, because millions of strings take gigabytes,
      and long to be sent to processes.
    ends: position in `names` at which each name ends, int64 [N].
    labels: indices into `class_names`, int32 [N].
  """

  root: pathlib.Path
  class_names: list[str]
  names: bytes
  ends: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def path(self, index: int) -> str:
    """Returns the path of an image."""
    start = self.ends[index - 1] if index else 0
    name = os.fsdecode(self.names[start : self.ends[index]])
    return os.path.join(self.root, self.class_names[self.labels[index]], name)

  def digest(self, positions: range) -> str:
    """Returns a hash of names and classes of the images at `positions`."""
    state = hashlib.blake2b(digest_size=8)
    state.update(repr(self.class_names).encode(errors="surrogateescape"))
    if positions:
      first, last = positions[0], positions[-1]
      start = self.ends[first - 1] if first else 0
      state.update(memoryview(self.names)[start : self.ends[last]])
      state.update(np.diff(self.ends[first : last + 1]).tobytes())
      state.update(self.labels[first : last + 1].tobytes())
    return state.hexdigest()


_listings: file_cache.FileCache[Listing] = file_cache.FileCache()


def list_images(root: pathlib.Path) -> Listing:
  """Lists the images of the class folders in `root`.

  Files with an image's suffix are not opened; if they are not images, reading
  them raises an error. Other files are opened: they are images if they start
  with an image's header. While a listing is in use and the folders have not
  changed, the same listing is returned again.

  Args:
    root: folder of class folders.

  Returns:
    The listing.

  Raises:
    ValueError: a class has no images, or there are files that are not images or
      lie outside of the class folders; the message names the first few and says
      how many there are.
  """
  root = pathlib.Path(os.path.abspath(root))
  return _listings.get(str(root), lambda stamp: _list(root, stamp))


def is_image(name: str) -> bool:
  """Tells whether a file's name has an image's suffix."""
  return name.lower().endswith(EXTENSIONS)


def class_folders(path: pathlib.Path) -> list[str]:
  """Returns the names of the folders in `path`, in alphabetical order.

  Raises:
    ValueError: a link, perhaps to a class, leads nowhere.
  """
  entries = splits.visible(path)
  for entry in entries:
    if reason := splits.broken_link(entry):
      raise ValueError(
        f"{entry.path} {reason}. Mend it, or hide it with a leading dot."
      )
  return [entry.name for entry in entries if entry.is_dir()]


def _list(root: pathlib.Path, stamp: file_cache.Stamp) -> Listing:
  """Returns a new listing, or raises the errors of `list_images`."""
  stamp.add([root])
  classes = class_folders(root)
  stamp.add(root / name for name in classes)
  bad = []
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    parts = list(pool.map(_list_class, [root / name for name in classes]))
    for part in parts:
      bad += part.bad
    chunks = [
      (part, part.unsure[start : start + _CHUNK])
      for part in parts
      for start in range(0, len(part.unsure), _CHUNK)
    ]
    bad += itertools.chain.from_iterable(pool.map(_look_at, chunks))
  bad += [
    (part.path, "has no images")
    for part in parts
    if not (part.names or part.bad or part.unsure)
  ]
  # A README beside the class folders is harmless; a forgotten image is not.
  bad += [
    (root / entry.name, "lies outside of the class folders")
    for entry in splits.visible(root)
    if is_image(entry.name) and not splits.is_folder(entry)
  ]
  _check(root, bad)
  return Listing(root, classes, *_put_in_order(classes, parts))


@dataclasses.dataclass
class _Class:
  """The files of a class folder.

  Attributes:
    path: the folder.
    names: names of images.
    unsure: names of files that must be opened.
    bad: (path, reason) of entries that cannot be used.
  """

  path: pathlib.Path
  names: list[bytes] = dataclasses.field(default_factory=list)
  unsure: list[str] = dataclasses.field(default_factory=list)
  bad: list[tuple[pathlib.Path, str]] = dataclasses.field(default_factory=list)


def _list_class(path: pathlib.Path) -> _Class:
  """Returns the files of a class folder, without opening any."""
  content = _Class(path)
  with os.scandir(path) as entries:
    for entry in entries:
      name = entry.name
      if splits.is_hidden(name):
        continue
      if reason := splits.broken_link(entry):
        content.bad.append((path / name, reason))
      elif entry.is_dir():
        reason = "is a folder inside a class folder"
        content.bad.append((path / name, reason))
      elif not entry.is_file():
        content.bad.append((path / name, "is no file"))
      elif is_image(name):
        content.names.append(os.fsencode(name))
      else:
        content.unsure.append(name)
  return content


def _look_at(chunk: tuple[_Class, list[str]]) -> list[tuple[pathlib.Path, str]]:
  """Adds images among files to their class, and returns the other files."""
  part, names = chunk
  bad = []
  for name in names:
    reason = why_no_image(part.path / name)
    if reason:
      bad.append((part.path / name, reason))
    else:
      part.names.append(os.fsencode(name))
  return bad


def why_no_image(path: pathlib.Path) -> str | None:
  """Returns why a file is not an image, by its header and name, or None."""
  try:
    with open(path, "rb", buffering=0) as file:
      header = file.read(_HEADER_BYTES)
  except OSError as error:
    return f"cannot be read ({error.strerror})"
  if (
    header.startswith(_HEADERS)
    or (header[:4] == b"RIFF" and header[8:] == b"WEBP")
    or (header[4:8] == b"ftyp" and header[8:] in (b"avif", b"avis"))
  ):
    return None
  suffix = path.suffix.lower()
  is_heic = header[4:8] == b"ftyp" and header[8:] in _HEIC_BRANDS
  if is_heic and importlib.util.find_spec("pillow_heif"):
    return None
  if is_heic or suffix in (*HEIC, *_FOREIGN):
    package = " install the package pillow-heif, or" if is_heic else ""
    return (
      f"is a picture of a kind that is not read here;{package} convert it, "
      f"such as with ImageMagick: magick mogrify -format jpg {path.name}"
    )
  if not header:
    return "is empty"
  return (
    f"is no image: it starts with {header!r}, and its name ends with none of "
    f"{', '.join(EXTENSIONS)}"
  )


def _check(root: pathlib.Path, bad: Sequence[tuple[pathlib.Path, str]]) -> None:
  """Raises ValueError about entries that cannot be used, if there are any."""
  if not bad:
    return
  bad = sorted(bad)
  shown = "\n".join(f"  {path}: {reason}" for path, reason in bad[:5])
  more = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
  kinds = collections.Counter(path.suffix.lower() for path, _ in bad)
  kinds = ", ".join(
    f"{n} {kind or ('other' if n == 1 else 'others')}"
    for kind, n in kinds.items()
  )
  raise ValueError(
    f"{root} was read as PATH/CLASS/IMAGE, and {len(bad)} of what is in it "
    f"({kinds}) cannot be used. Remove it, or hide it with a leading dot:\n"
    f"{shown}{more}"
  )


def _put_in_order(
  class_names: Sequence[str], parts: Sequence[_Class]
) -> tuple[bytes, np.ndarray, np.ndarray]:
  """Returns `names`, `ends` and `labels` of a listing."""
  names, hashes, places = [], [], []
  for class_name, part in zip(class_names, parts, strict=True):
    prefix = hashlib.blake2b(os.fsencode(class_name + "/"), digest_size=8)
    listed = sorted(part.names)
    part.names.clear()
    digests = bytearray()
    for name in listed:
      state = prefix.copy()
      state.update(name)
      digests += state.digest()
    hashed = np.frombuffer(digests, ">u8")
    ranks = np.empty(len(listed))
    ranks[np.argsort(hashed, kind="stable")] = np.arange(len(listed))
    names += listed
    hashes.append(hashed)
    places.append((ranks + 0.5) / max(len(listed), 1))
  counts = [len(place) for place in places]
  labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
  order = np.lexsort(
    (np.concatenate(hashes or [[]]), np.concatenate(places or [[]]))
  )
  lengths = np.fromiter(map(len, names), np.int64, len(names))
  text = b"".join([names[i] for i in order.tolist()])
  return text, np.cumsum(lengths[order]), labels[order]
