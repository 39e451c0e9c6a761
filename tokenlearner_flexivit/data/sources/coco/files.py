"""The files with COCO annotations in a folder, as tools export them."""

import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from tokenlearner_flexivit import paths
from tokenlearner_flexivit.data import splits
from tokenlearner_flexivit.data.sources import file_cache
from tokenlearner_flexivit.data.sources.coco import annotations

# COCO's own names of files begin so. Where a split has boxes twice, the first
# of these is taken.
_PREFIXES = {
  "instances_": annotations.BOXES,
  "person_keypoints_": annotations.BOXES,
  "panoptic_": annotations.PANOPTIC,
  "captions_": annotations.CAPTIONS,
}
# Files of COCO's that have no annotations, or boxes around parts of a lawn.
_UNUSED = ("image_info_", "stuff_")
_ROBOFLOW = "_annotations.coco.json"
_YEAR = re.compile(r"[_-]?\d{4}$")

# Where other programs put boxes.
_OTHER_FORMS = {
  "labels/**/*.txt": "YOLO",
  "*/labels/*.txt": "YOLO",
  "[Aa]nnotations/*.xml": "Pascal VOC",
  "*/*.xml": "Pascal VOC",
}

# Paths of annotations by kind.
Kinds = Mapping[str, pathlib.Path]


def find(path: str | os.PathLike) -> dict[str, Kinds]:
  """Returns the annotations of each split of a folder.

  Files are told by the keys in them. These layouts are read:

    PATH/annotations/instances_train2017.json   PATH/train2017/IMAGE     (COCO)
    PATH/annotations/instances_default.json     PATH/images/default/IMAGE (CVAT)
    PATH/train/_annotations.coco.json           PATH/train/IMAGE     (Roboflow)
    PATH/result.json                            PATH/images/...  (Label Studio)

  Args:
    path: the folder.

  Returns:
    Paths by split and kind. Splits are "train", "validation" and "test" if
    there are names that mean these, also behind or before other words and with
    a year, then others by their own names. A single file without the name of a
    split is "train".

  Raises:
    ValueError: the folder does not exist or has no annotations, or a split has
      several files of a kind.
  """
  root = paths.local(path, "coco").absolute()
  if not root.is_dir():
    raise ValueError(f"coco:{path}: there is no such folder.")
  return _known.get(root, lambda stamp: _find(root, stamp))


# A start asks for the splits many times, and folders may be large.
_known: file_cache.FileCache[dict[str, Kinds]] = file_cache.FileCache(most=8)


def _find(root: pathlib.Path, stamp: file_cache.Stamp) -> dict[str, Kinds]:
  """Returns the annotations, or raises the errors of `find`."""
  named: dict[str, dict[str, pathlib.Path]] = {}
  for file, token in _candidates(root, stamp):
    stamp.add([file])
    prefix = next((p for p in _PREFIXES if file.name.startswith(p)), None)
    kind = _PREFIXES[prefix] if prefix else annotations.kind_of(file)
    if kind is None:
      continue
    known = named.setdefault(token, {})
    other = known.setdefault(kind, file)
    if other == file:
      continue
    orders = [
      next((i for i, p in enumerate(_PREFIXES) if f.name.startswith(p)), None)
      for f in (other, file)
    ]
    if None in orders or orders[0] == orders[1]:
      raise ValueError(
        f"{other} and {file} both hold {kind} of the same split. Put one of "
        "them elsewhere, or name them by their splits, as in instances_val.json"
      )
    known[kind] = other if orders[0] < orders[1] else file
  if not named:
    raise ValueError(
      f"{root} has no annotations in COCO's form: expected a JSON file with "
      "'images' and 'annotations', such as annotations/instances_train.json, "
      f"train/_annotations.coco.json or result.json.{_other_form(root)}"
    )
  return _by_role(named, root)


def _other_form(root: pathlib.Path) -> str:
  """Returns in words which other form of boxes a folder has; "" if none."""
  for pattern, form in _OTHER_FORMS.items():
    if file := next(root.glob(pattern), None):
      return (
        f" {file} seems to be in the form of {form}, which is not read: export "
        "the boxes in COCO's form, as CVAT, Roboflow and Label Studio can."
      )
  return ""


def resolve(asked: str, known: Mapping[str, Kinds], where: str) -> str:
  """Returns the split that a name means, such as "val" or "val2017".

  Raises:
    ValueError: there is no such split, or two could be meant.
  """
  short = _YEAR.sub("", asked)
  if asked not in known and short != asked:
    for split, kinds in known.items():
      if any(asked in _words(path) for path in kinds.values()):
        return split
  return splits.resolve(asked, list(known), where)


def _by_role(
  named: Mapping[str, Kinds], root: pathlib.Path
) -> dict[str, Kinds]:
  """Returns annotations by role, then those of others by their own names."""
  if len(named) == 1 and not any(splits.role(_YEAR.sub("", n)) for n in named):
    return {"train": next(iter(named.values()))}
  if "" in named:
    (file, *_) = named[""].values()
    raise ValueError(
      f"{file} names no split, but other annotations in {root} do. Put it "
      "elsewhere, or name it by its split, as in instances_val.json."
    )
  roles: dict[str, list[str]] = {}
  for token in named:
    roles.setdefault(splits.role(_YEAR.sub("", token)) or token, []).append(
      token
    )
  known = {
    # train2014 beside train2017 keep their names.
    role if len(tokens) == 1 else token: named[token]
    for role, tokens in roles.items()
    for token in tokens
  }
  order = [*splits.ALIASES, *known]
  return {
    split: known[split] for split in dict.fromkeys(order) if split in known
  }


def _candidates(
  root: pathlib.Path, stamp: file_cache.Stamp
) -> Iterator[tuple[pathlib.Path, str]]:
  """Yields JSON files that may hold annotations, with their splits' names."""
  stamp.add([root])
  for entry in splits.visible(root):
    path = root / entry.name
    if not splits.is_folder(entry):
      if _is_json(path):
        yield path, _token(path)
      continue
    stamp.add([path])
    is_split = bool(splits.role(_YEAR.sub("", entry.name)))
    for file in map(pathlib.Path, map(os.fspath, splits.visible(path))):
      if entry.name.lower() == "annotations" and _is_json(file):
        yield file, _token(file)
      elif _is_json(file) and (is_split or file.name == _ROBOFLOW):
        yield file, entry.name


def _is_json(path: pathlib.Path) -> bool:
  unused = path.name.startswith(_UNUSED)
  return path.suffix.lower() == ".json" and path.is_file() and not unused


def _words(path: pathlib.Path) -> list[str]:
  """Returns the words of a file's name and the name of its folder."""
  return [*re.split(r"[^A-Za-z0-9]+", path.stem), path.parent.name]


def _token(path: pathlib.Path) -> str:
  """Returns the word of a file's name that names a split; "" without it."""
  for prefix in _PREFIXES:
    if path.name.startswith(prefix):
      return path.stem.removeprefix(prefix)
  words = _words(path)[:-1]
  return next((w for w in words if splits.role(_YEAR.sub("", w))), "")


def image_folder(
  root: pathlib.Path, file: pathlib.Path, names: Sequence[str]
) -> tuple[pathlib.Path, bool]:
  """Returns the folder that the names of images are relative to.

  Args:
    root: the folder of the dataset.
    file: the annotations.
    names: names of images in it.

  Returns:
    The folder with most of some of the images; and whether only the last part
    of each name counts, as where annotations name folders of another machine.
  """
  word = _token(file) or file.parent.name
  role = splits.role(_YEAR.sub("", word))
  folders = [file.parent, root / "images" / word, root / word]
  for parent in (root / "images", root):
    if parent.is_dir():
      folders += [
        parent / entry.name
        for entry in splits.visible(parent)
        if splits.is_folder(entry)
        and role
        and splits.role(_YEAR.sub("", entry.name)) == role
      ]
  folders += [root / "images", root]
  sample = names[:: max(1, len(names) // 16)]

  def hits(choice: tuple[pathlib.Path, bool]) -> int:
    return sum(os.path.isfile(join(choice, name)) for name in sample)

  choices = [
    (f, last) for last in (False, True) for f in dict.fromkeys(folders)
  ]
  return max(choices, key=hits)


def panoptic_folder(
  root: pathlib.Path, file: pathlib.Path, names: Sequence[str]
) -> pathlib.Path:
  """Returns the folder of the PNGs that panoptic annotations name."""
  folders = [
    file.with_suffix(""),
    root / file.stem,
    file.parent / file.stem.removeprefix("panoptic_"),
    file.parent,
  ]
  sample = names[:: max(1, len(names) // 16)]
  return max(
    folders, key=lambda f: sum(os.path.isfile(f / name) for name in sample)
  )


def share_images(path: str | os.PathLike, kinds: Kinds, other: Kinds) -> bool:
  """Tells whether the annotations of two splits have an image in common.

  No annotations are read where each split has a folder of images by its name.

  Args:
    path: the folder of the dataset.
    kinds: the annotations of a split, a value of what `find` returns.
    other: those of another split.

  Raises:
    ValueError: annotations cannot be read.
  """
  root = paths.local(path, "coco").absolute()
  # Any kind lists the images.
  smallest = [
    min(known.items(), key=lambda item: item[1].stat().st_size)
    for known in (kinds, other)
  ]
  named = [_folder_by_name(root, file) for _, file in smallest]
  if None not in named and named[0] != named[1]:
    return False
  images = []
  for kind, file in smallest:
    names = annotations.read(file, kind).names
    folder = image_folder(root, file, names)
    images.append({os.path.normpath(join(folder, name)) for name in names})
  return not images[0].isdisjoint(images[1])


def _folder_by_name(
  root: pathlib.Path, file: pathlib.Path
) -> pathlib.Path | None:
  """Returns the folder of images that is called as a split is."""
  word = _token(file) or file.parent.name
  folders = (root / "images" / word, root / word)
  return next((folder for folder in folders if folder.is_dir()), None)


def join(folder: tuple[pathlib.Path, bool], name: str) -> str:
  """Returns the path of an image, by a result of `image_folder`."""
  return os.path.join(folder[0], name.rpartition("/")[2] if folder[1] else name)
