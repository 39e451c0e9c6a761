"""The images and annotations of a split in COCO's JSON, checked."""

import collections
import dataclasses
import hashlib
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data.ops import decode, exif
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources import file_cache, image_header
from tokenlearner_flexivit.data.sources.coco import annotations, files

# Entries of an example by the kind of annotations that they need; the last of
# objects has their labels.
ENTRIES = {
  annotations.BOXES: ("objects",),
  annotations.PANOPTIC: ("panoptic_image", "panoptic_objects"),
  annotations.CAPTIONS: ("captions",),
}
# PNGs of panoptic annotations whose ids are compared with those listed.
_SAMPLE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
  """The objects of images, those of each image one after another.

  Attributes:
    key: the entry of an example.
    starts: position of the first object of each image, and M; int64 [N + 1].
    columns: arrays [M, ...] by name.
  """

  key: str
  starts: np.ndarray
  columns: Mapping[str, np.ndarray]

  def of_images(self, images: range) -> dict[str, np.ndarray]:
    """Returns the objects of consecutive images by column."""
    rows = slice(self.starts[images.start], self.starts[images.stop])
    return {name: column[rows] for name, column in self.columns.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """The images of a split and what is known of them, in a fixed order.

  Attributes:
    names: names of the images' files.
    images: their paths.
    ids: their ids in the annotations, int64 [N].
    as_stored: images that must not be turned upright by EXIF data.
    objects: boxes, and segments of panoptic annotations.
    masks: paths of PNGs of panoptic annotations; empty without.
    captions: the captions of each image; empty without.
  """

  names: Sequence[str]
  images: Sequence[str]
  ids: np.ndarray
  as_stored: frozenset[int]
  objects: Sequence[Objects]
  masks: Sequence[str]
  captions: Sequence[Sequence[str]]


_splits: file_cache.FileCache[Split] = file_cache.FileCache()


def number_classes(names: Sequence[str], file: pathlib.Path) -> dict[str, int]:
  """Returns the number of each class by its name."""
  numbers = {name: i for i, name in enumerate(names)}
  if len(numbers) < len(names):
    repeated = sorted({n for n in names if names.count(n) > 1})
    raise ValueError(
      f"{file} has several categories with the same name: "
      f"{', '.join(map(repr, repeated))}."
    )
  if not names:
    raise ValueError(f"{file} lists no categories.")
  return numbers


def read_split(
  root: pathlib.Path,
  split: str,
  kinds: files.Kinds,
  numbers: Mapping[str, Mapping[str, int]],
) -> Split:
  """Returns the images of a split with their annotations.

  While a split is in use and no file has changed, the same split is returned
  again.

  Args:
    root: the folder of the dataset.
    split: name of the split for errors.
    kinds: its annotations.
    numbers: for each kind with classes, their numbers by name.

  Raises:
    ValueError: the annotations, the images or the PNGs do not fit one another.
  """
  key = str(root), repr(sorted(kinds.items())), repr(sorted(numbers.items()))
  return _splits.get(
    key, lambda stamp: _read_split(root, split, kinds, numbers, stamp)
  )


def _read_split(
  root: pathlib.Path,
  split: str,
  kinds: files.Kinds,
  numbers: Mapping[str, Mapping[str, int]],
  stamp: file_cache.Stamp,
) -> Split:
  """Returns the images of a split, or raises the errors of `read_split`."""
  stamp.add(kinds.values())
  read = [annotations.read(file, kind) for kind, file in kinds.items()]
  if not read:
    raise ValueError(
      f"The split {split!r} of {root} has no annotations with the features."
    )
  first = read[0]
  # The images that all files list, by their ids.
  places = [
    {number: i for i, number in enumerate(part.image_ids.tolist())}
    for part in read
  ]
  shared = [i for i in places[0] if all(i in place for place in places)]
  if rest := len(set().union(*places)) - len(shared):
    warnings.warn(
      f"{terminal.counted(rest, 'image')} of the split {split!r} of {root} are "
      "left out: not all of "
      f"{', '.join(part.path.name for part in read)} list them.",
      stacklevel=4,
    )
  if {part.kind for part in read} == {annotations.CAPTIONS}:
    shared = _with_captions(first, shared, places[0])
  rows = [places[0][number] for number in shared]
  order = sorted(rows, key=lambda i: _hash(first.names[i]))
  names = [first.names[i] for i in order]
  twice = [name for name, n in collections.Counter(names).items() if n > 1]
  if twice:
    warnings.warn(
      f"{first.path} lists {terminal.counted(len(twice), 'image')} under "
      "several ids, each with a part of the annotations, so that each is an "
      "example with things missing. Give an image one id:"
      f"{sources.listed(twice)}",
      stacklevel=4,
    )
  folder = files.image_folder(root, first.path, names)
  images = [files.join(folder, name) for name in names]
  _check_one_file_each(first.path, names, images)
  stamp.add(images)
  ids = first.image_ids[order]
  told = [
    part.sizes[[place[number] for number in ids.tolist()]]
    for part, place in zip(read, places, strict=True)
  ]
  sizes, as_stored = _check_images(first, told, images, str(folder[0]))
  objects, masks, captions = [], [], []
  for part, place in zip(read, places, strict=True):
    own = [place[number] for number in ids.tolist()]
    if part.kind == annotations.CAPTIONS:
      captions = [part.captions[i] for i in own]
      continue
    own_sizes = np.ones_like(part.sizes)
    own_sizes[own] = sizes
    objects.append(_objects(part, own, own_sizes, numbers[part.kind]))
    if part.kind == annotations.PANOPTIC:
      masks = _check_masks(root, part, own, sizes, stamp)
  return Split(names, images, ids, as_stored, objects, masks, captions)


def _check_one_file_each(
  file: pathlib.Path, names: Sequence[str], images: Sequence[str]
) -> None:
  """Raises ValueError if several names of images mean the same file."""
  first = {}
  sources.check(
    f"{file} cannot be read",
    [
      f"{other} and {name} are both {image}: put images where their folders "
      "tell them apart"
      for name, image in zip(names, images, strict=True)
      if (other := first.setdefault(image, name)) != name
    ],
  )


def _with_captions(
  read: annotations.Annotations,
  ids: Sequence[int],
  place: Mapping[int, int],
) -> list[int]:
  """Returns the images that have a caption; warns of the others.

  Raises:
    ValueError: none has one.
  """
  kept = [number for number in ids if read.captions[place[number]]]
  if not kept:
    raise ValueError(f"{read.path} has no image with a caption.")
  if len(kept) < len(ids):
    without = sorted({*ids} - {*kept})
    names = sources.listed([read.names[place[number]] for number in without])
    warnings.warn(
      f"{terminal.counted(len(without), 'image')} of {read.path} have no "
      f"caption and are left out:{names}",
      stacklevel=5,
    )
  return kept


def _check_images(
  read: annotations.Annotations,
  told: Sequence[np.ndarray],
  images: Sequence[str],
  folder: str,
) -> tuple[np.ndarray, frozenset[int]]:
  """Returns the images' sizes, and which must not be turned upright.

  Args:
    read: the first of the files.
    told: the sizes of the images in each file, [N, 2]; 0 where it tells none.
    images: their paths.
    folder: of the images, for errors.

  Raises:
    ValueError: an image is missing, is none, or has another size, or two files
      tell different ones.
  """
  headers = image_header.read_all(images)
  problems, as_stored, unsure = [], [], []
  sizes = np.max(told, axis=0)
  for i, image in enumerate(images):
    several = {tuple(part[i].tolist()) for part in told if part[i].all()}
    if len(several) > 1:
      shown = " and ".join(f"{w} x {h}" for h, w in sorted(several))
      problems.append(f"{image}: files of annotations say {shown}")
  sources.check(f"{read.path} does not fit the others of its split", problems)
  has_upright = False
  for i, header in enumerate(headers):
    size = tuple(sizes[i].tolist())
    if isinstance(header, str):
      problems.append(f"{images[i]}: {header}")
    elif 0 in size:
      sizes[i] = header.upright
      if header.orientation > 1:
        unsure.append(i)
    elif size == header.stored == header.upright:
      if header.orientation > 1:
        unsure.append(i)
    elif size == header.upright:
      has_upright = True
    else:
      if size == header.stored:
        as_stored.append(i)
      else:
        problems.append(
          f"{images[i]}: has {header.width} x {header.height} pixels (width x "
          f"height), the annotations say {size[1]} x {size[0]}"
        )
  sources.check(f"{read.path} does not fit the images in {folder}", problems)
  if as_stored and not has_upright:
    # Who ignored the EXIF data of some images has ignored those of all.
    as_stored += unsure
    for i in unsure:
      sizes[i] = headers[i].stored
  elif unsure and not has_upright:
    listed = sources.listed([images[i] for i in unsure])
    advice = "say decode(exif=False)"
    if any(headers[i].stored != headers[i].upright for i in unsure):
      # Boxes were divided by the sides of the turned images.
      advice = "give each image there its height and width as stored"
    warnings.warn(
      f"EXIF data turn {terminal.counted(len(unsure), 'image')}, and the sizes "
      f"in {read.path} do not tell whether the annotations are turned, too. "
      "They are read as turned; if they are of the pixels as stored, "
      f"{advice}.{listed}",
      stacklevel=5,
    )
  sources.check(
    f"{read.path} has annotations of images as they are stored",
    [
      f"{images[i]}: its orientation always turns a {headers[i].format}. "
      "Convert it to PNG"
      for i in as_stored
      if headers[i].format not in exif.FORMATS
    ],
  )
  if as_stored:
    listed = sources.listed([images[i] for i in as_stored])
    warnings.warn(
      f"EXIF data turn {terminal.counted(len(as_stored), 'image')} whose "
      f"annotations in {read.path} are not turned. These images are read as "
      f"they are stored:{listed}",
      stacklevel=5,
    )
  return sizes, frozenset(as_stored)


def _objects(
  read: annotations.Annotations,
  order: Sequence[int],
  sizes: np.ndarray,
  numbers: Mapping[str, int],
) -> Objects:
  """Returns the objects of images, or raises ValueError about them."""
  boxes, has_area, outside, cut = annotations.relative_boxes(read, sizes)
  unknown = {
    name: number
    for number, name in read.categories.items()
    if name not in numbers
  }
  used = set(read.category_ids.tolist())
  sources.check(
    f"{read.path} cannot be read",
    [
      *(f"{words}: is outside of the image" for words in outside),
      *(
        f"the category {number}, {name!r}, is none of the training annotations"
        for name, number in unknown.items()
        if number in used
      ),
    ],
  )
  if cut:
    warnings.warn(
      f"{read.path} has {terminal.counted(len(cut), 'annotation')} whose boxes "
      f"are cut at the edges of the images:{sources.listed(cut)}",
      stacklevel=5,
    )
  if flat := int((~has_area).sum()):
    which = [f"the annotation {i}" for i in read.ids[~has_area].tolist()]
    warnings.warn(
      f"{read.path} has {terminal.counted(flat, 'annotation')} whose boxes "
      f"have no area, which are left out:{sources.listed(which)}",
      stacklevel=5,
    )
  labels = {
    category: numbers[name]
    for category, name in read.categories.items()
    if name in numbers
  }
  everything = np.arange(len(boxes))
  rows = [everything[read.starts[i] : read.starts[i + 1]] for i in order]
  rows = [part[has_area[part]] for part in rows]
  chosen = np.concatenate([everything[:0], *rows])
  columns = {
    "id": read.ids,
    "area": read.areas.astype(np.float32),
    "bbox": boxes,
    "label": np.array([labels.get(c, -1) for c in read.category_ids.tolist()]),
    "is_crowd": read.crowds,
  }
  columns["label"] = columns["label"].astype(np.int64)
  return Objects(
    key=ENTRIES[read.kind][-1],
    starts=np.cumsum([0, *map(len, rows)]),
    columns={name: column[chosen] for name, column in columns.items()},
  )


def _check_masks(
  root: pathlib.Path,
  read: annotations.Annotations,
  order: Sequence[int],
  sizes: np.ndarray,
  stamp: file_cache.Stamp,
) -> list[str]:
  """Returns the paths of panoptic PNGs, or raises ValueError about them."""
  names = [read.masks[i] for i in order]
  folder = files.panoptic_folder(root, read.path, list(filter(None, names)))
  problems = [
    f"{read.names[i]}: has no segments" for i in order if not read.masks[i]
  ]
  masks = [str(folder / name) for name in names]
  stamp.add(masks)
  for path, name, size, header in zip(
    masks, names, sizes.tolist(), image_header.read_all(masks), strict=True
  ):
    if name and isinstance(header, str):
      problems.append(f"{path}: {header}")
    elif name and header.format != "PNG":
      problems.append(f"{path}: is no PNG, but a {header.format}")
    elif name and list(header.stored) != size:
      problems.append(
        f"{path}: has {header.width} x {header.height} pixels (width x height),"
        f" its image {size[1]} x {size[0]}"
      )
  if not problems:
    sample = np.linspace(0, len(masks) - 1, min(len(masks), _SAMPLE), dtype=int)
    for i in sample.tolist():
      try:
        ids = decode.decode_ids({"m": read_file(masks[i])}, rgb=True, key="m")
      except ValueError as error:
        problems.append(f"{masks[i]}: {error}")
        continue
      listed = {0, *read.ids[read.starts[order[i]] : read.starts[order[i] + 1]]}
      if unknown := sorted({*np.unique(ids["m"]).tolist()} - listed):
        problems.append(
          f"{masks[i]}: has the id {unknown[0]}, which is no segment of it"
        )
  sources.check(f"{read.path} does not fit the PNGs in {folder}", problems)
  return masks


def _hash(name: str) -> bytes:
  # Shuffled, so that a slice of a split is no single film.
  return hashlib.blake2b(os.fsencode(name), digest_size=8).digest()


def read_file(path: str) -> bytes:
  """Returns the content of a file."""
  with open(path, "rb", buffering=0) as file:
    return file.read()
