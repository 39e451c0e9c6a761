"""The images and masks of a folder, in the layouts that people use."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data import splits
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.data.sources import (
  file_cache,
  image_listing,
  text_files,
)

# Names of folders, in lower case; the first one that is there is taken.
IMAGES = (
  *("images", "image", "imgs", "img", "img_dir"),
  *("leftimg8bit", "jpegimages"),
)
MASKS = (
  *("masks", "mask", "labels", "label", "annotations", "annotation"),
  *("ann_dir", "gtfine", "gtcoarse", "segmentationclass"),
)
# What the names of masks have behind the names of their images.
_SUFFIX = re.compile(
  r"[_-](masks?|labels?|seg|segmentation|gt)$", re.IGNORECASE
)
# Cityscapes has several pictures of labels for each image.
_CITYSCAPES_IMAGE = "_leftImg8bit"
LABEL_IDS, TRAIN_IDS = "labelIds", "labelTrainIds"
_CITYSCAPES_MASK = re.compile(
  rf"(_gt(?:Fine|Coarse))_({LABEL_IDS}|{TRAIN_IDS})$"
)


@dataclasses.dataclass(frozen=True)
class Place:
  """The folders of a split.

  Attributes:
    images: the folder of its images.
    masks: the folder of its masks, which may be the same; None without masks.
    listed: names of the images of the split, without suffixes; None for all.
  """

  images: pathlib.Path
  masks: pathlib.Path | None
  listed: frozenset[str] | None = None


@dataclasses.dataclass(frozen=True)
class Pairs:
  """The images of a split and their masks.

  Attributes:
    place: their folders.
    images: paths of images, relative to their folder, in an order that depends
      on the names alone.
    masks: paths of the masks of these, relative to theirs.
    problems: what keeps the folder from being read, in words.
    spare: masks without an image.
    kind: "labelIds" or "labelTrainIds" for masks of Cityscapes, or "".
  """

  place: Place
  images: Sequence[str]
  masks: Sequence[str]
  problems: Sequence[str]
  spare: Sequence[str]
  kind: str

  def image(self, index: int) -> str:
    """Returns the path of an image."""
    return os.path.join(self.place.images, self.images[index])

  def mask(self, index: int) -> str:
    """Returns the path of the mask of an image."""
    return os.path.join(self.place.masks, self.masks[index])


def find_places(path: str | os.PathLike) -> dict[str, Place]:
  """Returns the splits of a folder of images and masks.

  These layouts are read; the names of folders are those of `IMAGES` and
  `MASKS`, in any case:

    PATH/images/SPLIT/IMAGE   PATH/masks/SPLIT/MASK    or PATH/masks/MASK
    PATH/SPLIT/images/IMAGE   PATH/SPLIT/masks/MASK
    PATH/images/IMAGE         PATH/masks/MASK          without splits
    PATH/SPLIT/IMAGE          PATH/SPLIT/IMAGE_mask    side by side

  As Pascal VOC and CVAT have them, lists PATH/ImageSets/Segmentation/SPLIT.txt
  may say which images are of a split.

  Args:
    path: the folder.

  Returns:
    By split: "train", "validation" and "test" if they exist under any alias,
    then others by their own names. Without splits, {"train": ...}.

  Raises:
    ValueError: the folder does not exist or has none of these layouts, or two
      folders mean the same split.
  """
  root = paths.local(path, "mask_folder")
  if not root.is_dir():
    raise ValueError(f"mask_folder:{path}: there is no such folder.")
  root = pathlib.Path(os.path.abspath(root))
  return _places.get(root, lambda stamp: _find_places(root, stamp))


# A start asks for the splits many times, and folders may be large.
_places: file_cache.FileCache[dict[str, Place]] = file_cache.FileCache(most=8)


def _find_places(
  root: pathlib.Path, stamp: file_cache.Stamp
) -> dict[str, Place]:
  """Returns the splits of a folder, or raises the errors of `find_places`."""
  place = _place(root, stamp)
  if place is None:
    known = {name: _place(root / name, stamp) for name in _folders(root, stamp)}
    known = {name: place for name, place in known.items() if place}
    if not known:
      raise ValueError(_unknown_layout(root, stamp))
    return _by_role(known, root)
  if place.masks in (None, place.images):
    return {"train": place}
  if lists := _lists(root, stamp):
    known = {
      name: dataclasses.replace(place, listed=stems)
      for name, stems in lists.items()
    }
    if len(known) == 1 and not any(map(splits.role, known)):
      return {"train": next(iter(known.values()))}
    return _by_role(known, root)
  inside = _folders(place.images, stamp)
  if not any(map(splits.role, inside)):
    return {"train": place}
  loose = [
    entry.name
    for entry in _visible(place.images, stamp)
    if image_listing.is_image(entry.name) and not splits.is_folder(entry)
  ]
  if loose:
    raise ValueError(
      f"{place.images / loose[0]} lies beside the folders of splits "
      f"{', '.join(inside)}, and would be in none: move it into one, or hide "
      "it with a leading dot."
    )
  if any(map(splits.role, _folders(place.masks, stamp))):
    known = {
      name: Place(place.images / name, _counterpart(place.masks, name, stamp))
      for name in inside
    }
    return _by_role(known, place.images)
  # All masks are in one folder.
  stems = {
    name: frozenset(map(_stem, _walk(place.images / name, stamp)))
    for name in inside
  }
  for one, two in itertools.combinations(stems, 2):
    if same := stems[one] & stems[two]:
      raise ValueError(
        f"{place.images} has {min(same)} in {one} and in {two}, and "
        f"{place.masks} one mask for both. Give the images different names, or "
        "put the masks into folders of the splits."
      )
  known = {
    name: Place(place.images / name, place.masks, listed)
    for name, listed in stems.items()
  }
  return _by_role(known, place.images)


def _by_role(known: Mapping[str, Place], where: pathlib.Path) -> dict:
  """Returns places by role, then those of other splits by their own names."""
  roles = splits.by_role(known, str(where))
  others = [name for name in known if name not in roles.values()]
  return {role: known[name] for role, name in roles.items()} | {
    name: known[name] for name in others
  }


def _place(root: pathlib.Path, stamp: file_cache.Stamp) -> Place | None:
  """Returns the folders of images and masks in `root`, or None."""
  images, masks = (_named(root, names, stamp) for names in (IMAGES, MASKS))
  if images and masks:
    return Place(images, masks)
  if images and splits.role(root.name):
    return Place(images, None)  # As a split for testing may be.
  names = [e.name for e in _visible(root, stamp) if e.is_file()]
  pictures = [name for name in names if image_listing.is_image(name)]
  if any(_SUFFIX.search(pathlib.Path(name).stem) for name in pictures):
    return Place(root, root)
  return None


def _named(
  root: pathlib.Path, names: Sequence[str], stamp: file_cache.Stamp
) -> pathlib.Path | None:
  """Returns the first folder with one of the names that holds pictures."""
  folders = {name.lower(): root / name for name in _folders(root, stamp)}
  known = [folders[name] for name in names if name in folders]
  with_pictures = (path for path in known if any(_walk(path, stamp)))
  return next(with_pictures, None)


def _lists(
  root: pathlib.Path, stamp: file_cache.Stamp
) -> dict[str, frozenset[str]]:
  """Returns the names of images that lists of splits hold."""
  folder = root / "ImageSets" / "Segmentation"
  stamp.add([folder.parent, folder])
  if not folder.is_dir():
    return {}
  lists = {}
  for entry in splits.visible(folder):
    path = pathlib.Path(entry.path)
    if path.suffix.lower() == ".txt":
      stamp.add([path])
      lines = text_files.read(path).splitlines()
      lists[path.stem] = frozenset(filter(None, map(str.strip, lines)))
  return lists


def _counterpart(
  masks: pathlib.Path, name: str, stamp: file_cache.Stamp
) -> pathlib.Path | None:
  """Returns the folder of the masks of a split."""
  folders = _folders(masks, stamp)
  if name in folders:
    return masks / name
  role = splits.role(name)
  same = [other for other in folders if role and splits.role(other) == role]
  return masks / same[0] if same else None


def _visible(
  path: pathlib.Path, stamp: file_cache.Stamp
) -> Sequence[os.DirEntry]:
  stamp.add([path])
  return splits.visible(path)


def _folders(path: pathlib.Path, stamp: file_cache.Stamp) -> list[str]:
  return [e.name for e in _visible(path, stamp) if splits.is_folder(e)]


def _walk(
  folder: pathlib.Path,
  stamp: file_cache.Stamp,
  prefix: str = "",
  above: tuple[str, ...] = (),
) -> Iterator[str]:
  """Yields the pictures below a folder, by their paths relative to it.

  Links to one of the folders `above` are passed over: they would never end.
  """
  above = (*above, os.path.realpath(folder))
  for entry in _visible(folder, stamp):
    if reason := splits.broken_link(entry):
      raise ValueError(
        f"{entry.path} {reason}. Mend it, or hide it with a leading dot."
      )
    if entry.is_dir():
      if os.path.realpath(entry.path) not in above:
        inside = f"{prefix}{entry.name}/"
        yield from _walk(folder / entry.name, stamp, inside, above)
    elif image_listing.is_image(entry.name):
      yield prefix + entry.name


def pair(place: Place) -> Pairs:
  """Returns the images of a split with their masks, by equal names.

  A mask has the name of its image, without the suffix ".jpg" or such, perhaps
  with "_mask" behind it, and lies in the same subfolder. Of Cityscapes, the
  masks called "labelIds" are taken, or without these "labelTrainIds".

  While pairs are in use and no folder has changed, the same are returned again.
  """
  return _pairs.get(place, lambda stamp: _pair(place, stamp))


_pairs: file_cache.FileCache[Pairs] = file_cache.FileCache()


def _pair(place: Place, stamp: file_cache.Stamp) -> Pairs:
  """Returns the images of a split with their masks, as `pair` does."""
  files = list(_walk(place.images, stamp))
  if place.masks == place.images:
    is_mask = [bool(_SUFFIX.search(_stem(name))) for name in files]
    masks = [name for name, yes in zip(files, is_mask, strict=True) if yes]
    files = [name for name, yes in zip(files, is_mask, strict=True) if not yes]
  else:
    masks = list(_walk(place.masks, stamp)) if place.masks else []
  masks, kind = _of_cityscapes(masks)
  problems, images, chosen = [], {}, {}
  if place.listed is not None:
    files = [name for name in files if _stem(name) in place.listed]
    masks = [
      (name, stem)
      for name, stem in masks
      if not place.listed.isdisjoint((stem, _SUFFIX.sub("", stem)))
    ]
    problems += [
      f"{place.images / stem}: is listed, but there is no image"
      for stem in sorted(place.listed - set(map(_stem, files)))
    ]
  for name in files:
    key = _stem(name).removesuffix(_CITYSCAPES_IMAGE)
    if key in images:
      problems.append(
        f"{place.images / name}: {images[key]} has the same name, so that a "
        "mask could belong to either"
      )
    images[key] = name
  spare = []
  for name, stem in masks:
    key = stem if stem in images else _SUFFIX.sub("", stem)
    if key not in images:
      spare.append(str(place.masks / name))
    elif key in chosen:
      problems.append(
        f"{place.masks / name}: {images[key]} has another mask, {chosen[key]}"
      )
    else:
      chosen[key] = name
  similar = {sources.spelling(_stem(os.path.basename(s))): s for s in spare}
  for key, name in images.items():
    if key in chosen:
      continue
    problem = f"{place.images / name}: has no mask"
    if place.masks:
      problem += f" {place.masks / key}.png"
    if other := similar.get(sources.spelling(os.path.basename(key))):
      problem += (
        f"; {other} differs in case, in blanks or in how letters are encoded, "
        "as Apple's file systems do it: give both the same name"
      )
    problems.append(problem)
  keys = sorted((k for k in images if k in chosen), key=_hash)
  return Pairs(
    place,
    [images[key] for key in keys],
    [chosen[key] for key in keys],
    problems,
    spare,
    kind,
  )


def share_images(place: Place, other: Place) -> bool:
  """Tells whether the lists of two splits have an image in common."""
  return (
    place.images == other.images
    and None not in (place.listed, other.listed)
    and not place.listed.isdisjoint(other.listed)
  )


def _of_cityscapes(
  masks: Sequence[str],
) -> tuple[list[tuple[str, str]], str]:
  """Returns masks with the names of their images, and the kind of the masks."""
  matches = [(name, _CITYSCAPES_MASK.search(_stem(name))) for name in masks]
  kinds = {match[2] for _, match in matches if match}
  if not kinds:
    return [(name, _stem(name)) for name in masks], ""
  kind = LABEL_IDS if LABEL_IDS in kinds else TRAIN_IDS
  return [
    (name, match.string[: match.start()])
    for name, match in matches
    if match and match[2] == kind
  ], kind


def _stem(name: str) -> str:
  """Returns a path without suffixes of pictures: "a.jpg.png" becomes "a"."""
  while image_listing.is_image(name):
    name = name[: name.rindex(".")]
  return name


def _hash(key: str) -> bytes:
  # Shuffled, so that a slice of a split is no single city or film.
  return hashlib.blake2b(os.fsencode(key), digest_size=8).digest()


def _unknown_layout(root: pathlib.Path, stamp: file_cache.Stamp) -> str:
  """Returns in words what was expected of a folder."""
  hint = ""
  names = _folders(root, stamp)
  if root.name.lower() in (*IMAGES, *MASKS):
    hint = f" Did you mean {root.parent}?"
  elif any(_named(root / name, IMAGES, stamp) for name in names):
    images = next(name for name in names if _named(root / name, IMAGES, stamp))
    hint = f" {root / images} has images, but no folder of masks beside them."
  elif _named(root, IMAGES, stamp):
    hint = f" Images are there, but no folder called {', '.join(MASKS)}."
  return (
    f"{root} is no folder of images and masks: expected PATH/images and "
    "PATH/masks, with a mask for each image by the same name, perhaps with "
    "folders such as train and val in them or above them. Other names of "
    f"these folders are {', '.join(IMAGES[1:])} and {', '.join(MASKS[1:])}."
    f"{hint}"
  )
