"""Preprocessing ops on the labels of pixels and boxes."""

import functools
from collections.abc import Mapping

import numpy as np
from absl import logging

from tokenlearner_flexivit.data import mask_classes
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.preprocess import Example, register_op
from tokenlearner_flexivit.data.steps import BOX_LABEL, as_names

# Masks of Cityscapes may also have -1, for license plates.
_CITYSCAPES = mask_classes.CITYSCAPES_TO_TRAIN_IDS | {-1: mask_classes.IGNORE}
MAPPINGS: dict[str, Mapping[int, int]] = {"cityscapes": _CITYSCAPES}
# How many ids an error lists.
_SHOWN = 10


def _check_objects(
  max: int,
  label: str | tuple | list,
  sizes: tuple | list | None,
  key: str,
) -> None:
  if max < 1:
    raise ValueError(f"max must be at least 1, not {max}")
  labels = as_names(label)
  if len(labels) == 1 and sizes is None:
    sizes = (1,)
  fine = sizes is not None and all(type(n) is int and n > 0 for n in sizes)
  if not labels or not fine or len(sizes) != len(labels):
    raise ValueError(
      f"label={label!r} and sizes={sizes!r}: several labels need as many "
      "numbers of values, as in objects(6,('colour','shape'),sizes=(8,5))"
    )
  if key in ("boxes", BOX_LABEL):
    raise ValueError(f"key names the objects, and {key!r} is a result")


@register_op(
  check=_check_objects, writes=("boxes", BOX_LABEL, "box_area", "box_crowd")
)
def objects(
  example: Example,
  max: int,
  label: str | tuple | list = "label",
  *,
  sizes: tuple | list | None = None,
  key: str = "objects",
  details: bool = False,
  crowds: bool | None = None,
) -> Example:
  """Makes arrays of boxes, as many for every example, of TFDS's objects.

  Args:
    example: has under `key` a dict with `bbox`, floats [M, 4] relative to the
      sides of the image (ymin, xmin, ymax, xmax), and `label`, whole numbers
      [M]; such as TFDS's `objects` of coco, voc and rendered_scenes.
    max: number of boxes of the result. Of more objects the largest are kept,
      in their order; a warning tells of the first such example.
    label: name of the classes in the dict, such as "shape"; or several, such as
      ("colour", "shape"), whose combinations are the classes, the last one
      counting fastest.
    sizes: numbers of values of several labels, such as (8, 5).
    key: where the objects are.
    details: whether the result also has what COCO's average precision asks for,
      if the objects tell it: `box_area`, float32 [max] in pixels, and
      `box_crowd`, int32 [max]. No op moves these.
    crowds: whether boxes around many things, whose `is_crowd` is true, are
      kept; None keeps them with `details`. A training would learn them as
      single things, and of too many boxes take them first, since they are
      large.

  Returns:
    The example with float32 [max, 4] under `boxes` and int32 [max] under
    `box_label`; after the last object zeros and -1.

  Raises:
    ValueError: the example has no such objects, or they are no boxes.
  """
  _check_objects(max, label, sizes, key)
  entry, names = example.get(key), as_names(label)
  if not isinstance(entry, Mapping) or not {"bbox", *names} <= entry.keys():
    has = sorted(entry) if isinstance(entry, Mapping) else sorted(example)
    lacks = " and ".join(f"{key}/{name}" for name in ("bbox", *names))
    raise ValueError(f"the example has no {lacks}; it has {has}")
  bbox = np.asarray(entry["bbox"], np.float32).reshape(-1, 4)
  columns = [np.asarray(entry[name]).reshape(-1) for name in names]
  if any(len(bbox) != len(column) for column in columns):
    raise ValueError(
      f"{key} has boxes of the shape {np.shape(entry['bbox'])} and classes of "
      f"the shape {np.shape(entry[names[0]])}"
    )
  classes = columns[0]
  if len(columns) > 1 and len(bbox):  # Empty lists would be floats.
    classes = np.ravel_multi_index(columns, sizes)
  areas = (bbox[:, 2:] - bbox[:, :2]).prod(-1)
  wanted = np.arange(len(bbox))
  if "is_crowd" in entry and not (details if crowds is None else crowds):
    wanted = np.flatnonzero(~np.asarray(entry["is_crowd"], bool))
  if len(wanted) > max:
    logging.log_first_n(
      logging.WARNING,
      "objects(%d) keeps the largest boxes of an example with %d of them, and "
      "of others with more than %d.",
      1,
      *(max, len(wanted), max),
    )
  largest = np.argsort(-areas[wanted], kind="stable")[:max]
  kept = wanted[np.sort(largest)]
  boxes = np.zeros((max, 4), np.float32)
  labels = np.full(max, -1, np.int32)
  boxes[: len(kept)] = bbox[kept]
  labels[: len(kept)] = classes[kept]
  result = {**example, "boxes": boxes, BOX_LABEL: labels}
  for name, column, dtype in (
    ("box_area", "area", np.float32),
    ("box_crowd", "is_crowd", np.int32),
  ):
    if details and column in entry:
      result[name] = np.zeros(max, dtype)
      result[name][: len(kept)] = np.asarray(entry[column])[kept]
  return result


def _check_map_labels(mapping: str | dict, other: int | None) -> None:
  if isinstance(mapping, str):
    if mapping not in MAPPINGS:
      raise ValueError(
        f"there is no mapping {mapping!r}. Those with a name are "
        f"{sorted(MAPPINGS)}; write others as in {{7: 0, 8: 1}}"
      )
    return
  numbers = [*mapping, *mapping.values()]
  # In Python True is an int.
  if not mapping or any(type(number) is not int for number in numbers):
    raise ValueError(
      f"mapping must have whole numbers, as in {{7: 0, 8: 1}}, not {mapping}"
    )


@register_op(check=_check_map_labels)
def map_labels(
  example: Example,
  mapping: str | dict,
  other: int | None = None,
  *,
  key: str = "semantic",
) -> Example:
  """Replaces the ids of a map by other ids.

  Args:
    example: has whole numbers of any shape under `key`.
    mapping: {old id: new id}, or "cityscapes" for its 19 classes: labelIds
      become trainIds, and ids of other things 255.
    other: the new id for ids that the mapping lacks; None refuses these.
    key: where the ids are. In `box_label`, -1 stays: it is padding.

  Returns:
    The example with the new ids, uint8 if these are all in [0, 255], otherwise
    int32.

  Raises:
    ValueError: the entry has no whole numbers, or ids that the mapping lacks.
  """
  _check_map_labels(mapping, other)
  ids = _ids(example, key)
  known = MAPPINGS[mapping] if isinstance(mapping, str) else mapping
  if key == BOX_LABEL:
    known = {-1: -1, **known}
  olds, news = _table(tuple(known.items()), other)
  if olds[-1] - olds[0] == len(olds) - 1:  # No search is needed.
    places = ids.clip(olds[0], olds[-1]) - olds[0]
  else:
    places = np.searchsorted(olds, ids).clip(max=len(olds) - 1)
  is_known = olds[places] == ids
  mapped = news[places]
  if not is_known.all():
    if other is None:
      missing = np.unique(ids[~is_known]).tolist()
      shown = ", ".join(map(str, missing[:_SHOWN]))
      more = ", ..." if len(missing) > _SHOWN else ""
      advice = "Name them in the mapping, or say other=255 to leave them out"
      if mapping == "cityscapes" and missing == [geometry.IGNORE]:
        advice = "Are these trainIds already? Then leave map_labels out"
      raise ValueError(
        f"{key!r} has ids that the mapping lacks: {shown}{more}. {advice}"
      )
    mapped = np.where(is_known, mapped, news.dtype.type(other))
  return {**example, key: mapped}


@functools.cache
def _table(
  items: tuple[tuple[int, int], ...], other: int | None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the old ids in order, and the new ids."""
  olds, news = np.array(sorted(items)).T
  values = news if other is None else np.append(news, other)
  is_small = values.min() >= 0 and values.max() <= np.iinfo(np.uint8).max
  return olds, news.astype(np.uint8 if is_small else np.int32)


def _check_ignore(ids: tuple[int, ...], reduce_zero: bool, label: int) -> None:
  if not ids and not reduce_zero:
    raise ValueError("name at least one id, or say reduce_zero=True")
  if label < 0:
    raise ValueError(f"label must not be negative, not {label}")


@register_op(check=_check_ignore)
def ignore(
  example: Example,
  *ids: int,
  reduce_zero: bool = False,
  label: int = geometry.IGNORE,
  key: str = "semantic",
) -> Example:
  """Gives ids the label that losses and metrics leave out.

  Args:
    example: has whole numbers of any shape under `key`.
    *ids: the ids, as they are before.
    reduce_zero: whether 0 means no class, as in ADE20k: it is ignored as well,
      and all other ids but `label` become less by one.
    label: the label that is left out.
    key: where the ids are.

  Returns:
    The example with the new ids, of the same dtype.

  Raises:
    ValueError: the entry has no whole numbers, or they cannot hold the label.
  """
  _check_ignore(ids, reduce_zero, label)
  numbers = _ids(example, key)
  geometry.check_fill(label, numbers)
  is_ignored = np.zeros(numbers.shape, bool)
  for number in (*ids, label, *((0,) if reduce_zero else ())):
    is_ignored |= numbers == number
  label = numbers.dtype.type(label)
  # Zeros may wrap around here, and they are ignored.
  kept = numbers - numbers.dtype.type(reduce_zero)
  return {**example, key: np.where(is_ignored, label, kept)}


def _ids(example: Example, key: str) -> np.ndarray:
  """Returns the whole numbers under `key`, or raises ValueError."""
  if key not in example:
    raise ValueError(f"the example has no {key!r}; it has {sorted(example)}")
  if isinstance(example[key], bytes):
    raise ValueError(
      f"{key!r} is still encoded: put decode(masks=({key!r},)) before this op"
    )
  ids = np.asarray(example[key])
  if ids.dtype.kind not in "iu":
    raise ValueError(
      f"{key!r} has numbers of the type {ids.dtype}, and ids are whole numbers"
    )
  return ids
