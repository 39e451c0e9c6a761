"""Annotations in COCO's JSON, as compact arrays, and what is wrong in them."""

import collections
import dataclasses
import functools
import gc
import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data.sources import base as sources

# Kinds of annotations.
BOXES, PANOPTIC, CAPTIONS = "boxes", "panoptic segments", "captions"
# A box may reach so many pixels beyond its image, by rounding.
_ROUNDING = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
  """The annotations of a file. M objects of all images lie one after another.

  Attributes:
    path: the file.
    kind: `BOXES`, `PANOPTIC` or `CAPTIONS`.
    image_ids: int64 [N].
    names: the names of the images' files.
    sizes: height and width, int32 [N, 2]; 0 where the file does not tell.
    categories: names by category id, in the order of the ids.
    stuff: the names of those that are no things (`isthing` is 0).
    starts: position of the first object of each image, and M; int64 [N + 1].
    ids: of the objects, int64 [M].
    boxes: x, y, width and height in pixels, float64 [M, 4].
    category_ids: int64 [M].
    areas: in pixels, float64 [M].
    crowds: whether an object is a crowd, bool [M].
    masks: names of the PNGs of panoptic annotations, "" without one.
    captions: the captions of each image.
  """

  path: pathlib.Path
  kind: str
  image_ids: np.ndarray
  names: Sequence[str]
  sizes: np.ndarray
  categories: Mapping[int, str]
  stuff: Sequence[str]
  starts: np.ndarray
  ids: np.ndarray
  boxes: np.ndarray
  category_ids: np.ndarray
  areas: np.ndarray
  crowds: np.ndarray
  masks: Sequence[str]
  captions: Sequence[Sequence[str]]


def kind_of(path: pathlib.Path) -> str | None:
  """Returns the kind of a file's annotations, None if it has none."""
  return _kind_of(path, *_stamp(path))


@functools.lru_cache(maxsize=64)
def _kind_of(path: pathlib.Path, *stamp: int) -> str | None:
  content = _load(path, *stamp)
  if not isinstance(content, dict) or not {"images", "annotations"} <= {
    *content
  }:
    return None
  notes = content["annotations"]
  first = notes[0] if isinstance(notes, list) and notes else {}
  if not isinstance(first, dict):
    return None
  if "segments_info" in first:
    return PANOPTIC
  return CAPTIONS if "caption" in first else BOXES


def read(path: pathlib.Path, kind: str) -> Annotations:
  """Returns the annotations of a file; the last few files are kept in memory.

  Raises:
    ValueError: the file is no JSON or lacks a key of COCO's; an id is there
      twice or no whole number; or an annotation has no box, or names an image
      or a category that is not listed.
  """
  return _read(path, kind, *_stamp(path))


def _stamp(path: pathlib.Path) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=1)
def _load(path: pathlib.Path, *stamp: int) -> Any:
  del stamp  # Another one is another file.
  is_collecting = gc.isenabled()
  # The collector would look at millions of new lists again and again.
  gc.disable()
  try:
    return json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f"{path} is no JSON: {error}") from None
  finally:
    if is_collecting:
      gc.enable()


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path, kind: str, *stamp: int) -> Annotations:
  content = _load(path, *stamp)
  _load.cache_clear()  # Polygons may take gigabytes.
  try:
    return _parse(path, kind, content)
  except (KeyError, TypeError, AttributeError, OverflowError) as error:
    what = f"{error} is missing" if isinstance(error, KeyError) else error
    raise ValueError(
      f"{path} has no annotations in COCO's form: {what}."
    ) from error


def _parse(
  path: pathlib.Path, kind: str, content: Mapping[str, Any]
) -> Annotations:
  """Returns the annotations; raises KeyError or TypeError for other forms."""
  images, notes = content["images"], content["annotations"]
  listed = content.get("categories") or []
  problems = [
    *_unfit(path, "images", [image["id"] for image in images]),
    *_unfit(path, "categories", [category["id"] for category in listed]),
    *(
      f"{path}: the category {category['id']} has no name, but "
      f"{category.get('name')!r}"
      for category in listed
      if category.get("name") is None or not str(category["name"]).strip()
    ),
    *(
      f"{path}: the image {image['id']} has the name {name!r}, which no file "
      "can have"
      for image in images
      if not sources.is_path(name := _file_name(image))
    ),
  ]
  sources.check(f"{path} cannot be read", problems)
  position = {image["id"]: i for i, image in enumerate(images)}
  per_image: list[list[Any]] = [[] for _ in images]
  for note in notes:
    i = position.get(note["image_id"])
    if i is None:
      problems.append(
        f"{path}: the annotation {note.get('id')} is of the image "
        f"{note['image_id']}, which is not listed"
      )
    else:
      per_image[i].append(note)
  masks, captions = [""] * len(images), []
  if kind == CAPTIONS:
    captions = _captions(path, per_image)
    per_image = [[] for _ in images]
  else:
    problems += _unfit(path, "annotations", [n.get("id") for n in notes])
  if kind == PANOPTIC:
    problems += [
      f"{path}: the image {ns[0]['image_id']} has {len(ns)} panoptic PNGs"
      for ns in per_image
      if len(ns) > 1
    ]
    for i, ns in enumerate(per_image):
      masks[i] = ns[0]["file_name"] if ns else ""
      per_image[i] = [segment for n in ns for segment in n["segments_info"]]
  objects = [note for notes in per_image for note in notes]
  categories = _categories(listed, objects)
  boxes = np.array([_box(note) for note in objects], float).reshape(-1, 4)
  problems += [
    f"{path}: the annotation {note.get('id')} has no bbox of four numbers"
    for note, box in zip(objects, boxes, strict=True)
    if not np.isfinite(box).all()
  ]
  problems += [
    f"{path}: the annotation {note.get('id')} has the category "
    f"{note.get('category_id')}, which is not listed"
    for note in objects
    if note.get("category_id") not in categories
  ]
  problems += [
    f"{path}: the annotation {note.get('id')} has iscrowd="
    f"{note['iscrowd']!r}, which is neither 0 nor 1"
    for note in objects
    if note.get("iscrowd") not in (0, 1, None)
  ]
  sources.check(f"{path} cannot be read", problems)
  areas = boxes[:, 2] * boxes[:, 3]
  return Annotations(
    path=path,
    kind=kind,
    image_ids=np.array([image["id"] for image in images], np.int64),
    names=[_file_name(image) for image in images],
    sizes=np.array(
      [(im.get("height") or 0, im.get("width") or 0) for im in images],
      np.int32,
    ).reshape(-1, 2),
    categories=categories,
    stuff=[
      categories[category["id"]]
      for category in listed
      if category["id"] in categories and not category.get("isthing", 1)
    ],
    starts=np.cumsum([0, *map(len, per_image)]),
    ids=np.array(
      [note.get("id", i) for i, note in enumerate(objects)], np.int64
    ),
    boxes=boxes,
    category_ids=np.array([n["category_id"] for n in objects], np.int64),
    areas=np.array(
      [n.get("area") or a for n, a in zip(objects, areas, strict=True)], float
    ),
    crowds=np.array([bool(n.get("iscrowd")) for n in objects], bool),
    masks=masks,
    captions=captions,
  )


def _file_name(image: Mapping[str, Any]) -> str:
  """Returns the name of an image's file; that of LVIS is in its address."""
  if "file_name" not in image and "coco_url" in image:
    return "/".join(image["coco_url"].split("/")[-2:])
  return image["file_name"].replace("\\", "/")


def _unfit(path: pathlib.Path, what: str, ids: Sequence[Any]) -> list[str]:
  """Returns in words which ids are there twice or are no whole numbers."""
  counts = collections.Counter(i for i in ids if i is not None)
  return [
    f"{path}: {count} {what} have the id {i}"
    for i, count in counts.items()
    if count > 1
  ] + [
    f"{path}: {what} have the id {i!r}, and ids are whole numbers below 2**63"
    for i in counts
    if not _is_whole(i)
  ]


def _is_whole(value: Any) -> bool:
  if isinstance(value, float):  # As some tools write them.
    return value.is_integer() and abs(value) < 2**53
  return isinstance(value, int) and abs(value) < 2**63


def _captions(
  path: pathlib.Path, per_image: Sequence[Sequence[Mapping[str, Any]]]
) -> list[list[str]]:
  """Returns the captions of each image; warns of those without a word."""
  captions, wordless = [[] for _ in per_image], []
  for own, notes in zip(captions, per_image, strict=True):
    for note in notes:
      text = note["caption"]
      if isinstance(text, str) and any(map(str.isalnum, text)):
        own.append(text.strip())
      else:
        wordless.append(f"the annotation {note.get('id')}: {text!r}")
  if wordless:
    warnings.warn(
      f"{path} has {terminal.counted(len(wordless), 'caption')} without a "
      f"word, which are left out:{sources.listed(wordless)}",
      stacklevel=6,
    )
  return captions


def _categories(
  listed: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]
) -> dict[int, str]:
  """Returns names by category id, in the order of the ids.

  Roboflow lists the group of all classes as a category, too; a category that
  has no objects and is the `supercategory` of all others is left out.
  """
  used = {note.get("category_id") for note in objects}
  names = {c["id"]: str(c["name"]) for c in listed}
  for category in listed:
    others = {c.get("supercategory") for c in listed if c is not category}
    if category["id"] not in used and others == {category["name"]}:
      names.pop(category["id"])
  return dict(sorted(names.items()))


def _box(note: Mapping[str, Any]) -> Sequence[float]:
  """Returns x, y, width and height, of the polygons where there is no box."""
  box = note.get("bbox")
  polygons = note.get("segmentation")
  try:
    if not box and isinstance(polygons, list) and any(polygons):
      points = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons])
      box = [*points.min(0), *np.ptp(points, axis=0)]
    x, y, width, height = map(float, box)
  except (TypeError, ValueError):
    return [np.nan] * 4
  return x, y, width, height


def relative_boxes(
  read: Annotations, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
  """Returns boxes as shares of their images' sides.

  Args:
    read: the annotations.
    sizes: height and width of each image, [N, 2].

  Returns:
    ymin, xmin, ymax and xmax, float32 [M, 4], cut at the image's edges; which
    of them have an area, bool [M]; what is wrong, in words; and which boxes
    were cut by more than rounding, in words.
  """
  owners = np.repeat(np.arange(len(sizes)), np.diff(read.starts))
  height, width = sizes[owners].T.astype(float)
  x, y, w, h = read.boxes.T
  outside = (w < 0) | (h < 0) | (x >= width) | (y >= height)
  outside |= (x + w < 0) | (y + h < 0)
  beyond = np.maximum(np.maximum(-x, x + w - width), -y)
  beyond = np.maximum(beyond, y + h - height) > _ROUNDING

  def words(chosen: np.ndarray) -> list[str]:
    return [
      f"{read.path}: the box {read.boxes[i].tolist()} of the annotation "
      f"{read.ids[i]} in {read.names[owners[i]]}, {width[i]:g} x {height[i]:g}"
      for i in np.flatnonzero(chosen)
    ]

  corners = np.stack(
    [y / height, x / width, (y + h) / height, (x + w) / width], axis=1
  )
  corners = np.clip(corners, 0, 1).astype(np.float32)
  has_area = (corners[:, 2:] > corners[:, :2]).all(1)
  return corners, has_area, words(outside), words(beyond & ~outside)
