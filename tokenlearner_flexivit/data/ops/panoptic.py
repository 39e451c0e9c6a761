"""Preprocessing ops on panoptic labels: a class and a segment for each pixel.

`semantic` holds classes, and `geometry.IGNORE` where there is none (void);
`instances` the number of the segment, 0 where there is none. Stuff, such as
sky, is a segment, too.
"""

from collections.abc import Mapping

import numpy as np
from absl import logging

from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.preprocess import Example, register_op

# The entries that hold the labels of pixels.
SEMANTIC, INSTANCES, CROWD = "semantic", "instances", "crowd"


@register_op(entries=("key", "objects"), writes=(SEMANTIC, INSTANCES, CROWD))
def panoptic(
  example: Example,
  crowds: bool = False,
  *,
  key: str = "panoptic_image",
  objects: str = "panoptic_objects",
) -> Example:
  """Makes maps of classes and of segments, of COCO's panoptic labels.

  Args:
    example: has the ids of segments, as `decode_ids(rgb=True)` makes them, and
      a dict of the segments with `id`, `label` and perhaps `is_crowd`.
    crowds: whether crowds keep their class, and `crowd` tells where they are,
      as the truth of an evaluation needs it. Otherwise they are void.
    key: where the ids are; 0 is void.
    objects: where the segments are.

  Returns:
    The example with int32 [H, W] under `semantic` and `instances`, and with
    `crowds` uint8 [H, W] under `crowd`. Segments are numbered from 1 on, in the
    order in which they are listed.

  Raises:
    ValueError: the example has no such entries, a segment is not listed, or a
      class has the number of void.
  """
  ids, listed = example.get(key), example.get(objects)
  if not isinstance(listed, Mapping) or not {"id", "label"} <= listed.keys():
    raise ValueError(
      f"the example has no {objects}/id and {objects}/label; it has "
      f"{sorted(example)}"
    )
  if not isinstance(ids, np.ndarray) or ids.ndim != 2:
    raise ValueError(
      f"{key!r} is no map of ids: put decode_ids(rgb=True, key={key!r}) before "
      "this op"
    )
  known, labels = (
    np.asarray(listed[name], np.int64).reshape(-1) for name in ("id", "label")
  )
  is_crowd = np.asarray(listed.get("is_crowd", np.zeros(len(known))), bool)
  if labels.size and labels.max() >= geometry.IGNORE:
    raise ValueError(
      f"a segment has the class {labels.max()}, but {geometry.IGNORE} is void, "
      "so classes are 0 to 254"
    )
  values, places = np.unique(ids, return_inverse=True)
  order = np.argsort(known, kind="stable")
  at = np.searchsorted(known[order], values).clip(max=max(len(known) - 1, 0))
  is_listed = np.zeros(len(values), bool)
  if len(known):
    at = order[at]
    is_listed = known[at] == values
  missing = values[~is_listed & (values != 0)]
  if missing.size:
    raise ValueError(f"{key!r} has the id {missing[0]}, which is not listed")
  kept = is_listed if crowds else is_listed & ~_taken(is_crowd, at, is_listed)
  places = places.reshape(ids.shape)
  classes = np.where(kept, _taken(labels, at, is_listed), geometry.IGNORE)
  numbers = np.where(kept, at + 1, 0)
  result = {
    **example,
    SEMANTIC: classes.astype(np.int32)[places],
    INSTANCES: numbers.astype(np.int32)[places],
  }
  if crowds:
    in_crowd = _taken(is_crowd, at, is_listed)
    result[CROWD] = in_crowd.astype(np.uint8)[places]
  return result


def _taken(
  column: np.ndarray, at: np.ndarray, is_listed: np.ndarray
) -> np.ndarray:
  """Returns the values of listed segments, and 0 for others."""
  if not len(column):
    return np.zeros(len(at), column.dtype)
  return np.where(is_listed, column[at], column.dtype.type(0))


def _check_canonical(max: int) -> None:
  if max < 1:
    raise ValueError(f"max must be at least 1, not {max}")


@register_op(check=_check_canonical, entries=("key", "instances"))
def canonical(
  example: Example,
  max: int,
  *,
  key: str = SEMANTIC,
  instances: str = INSTANCES,
) -> Example:
  """Numbers segments by their centres of mass, from top to bottom.

  So a model can tell the numbers from an image (UViM, arXiv 2205.10337). Put
  this op behind those that move the image.

  Args:
    example: has whole numbers [H, W] of classes and of segments. Pixels of one
      number and several classes are several segments.
    max: the most segments. Of more the largest stay, and the others become
      void; a warning tells of the first such example.
    key: where the classes are; `geometry.IGNORE` is void.
    instances: where the numbers are.

  Returns:
    The example with int32 maps: segments are 1, 2, ... by y, of equal ones by
    x, of their centres, and void is 0.

  Raises:
    ValueError: the maps do not exist or have different shapes.
  """
  _check_canonical(max)
  classes, numbers = (_map(example, name) for name in (key, instances))
  if classes.shape != numbers.shape:
    raise ValueError(
      f"{key!r} has the shape {list(classes.shape)} and {instances!r} "
      f"{list(numbers.shape)}: name both as masks in the ops before"
    )
  if (
    classes.size and not 0 <= classes.min() <= classes.max() <= geometry.IGNORE
  ):
    raise ValueError(
      f"{key!r} has numbers from {classes.min()} to {classes.max()}, but "
      f"classes are 0 to {geometry.IGNORE - 1}, and {geometry.IGNORE} is void"
    )
  pairs = numbers.astype(np.int64) * (geometry.IGNORE + 1) + classes
  values, places = np.unique(pairs, return_inverse=True)
  places = places.reshape(-1)
  owners = values % (geometry.IGNORE + 1)
  height, width = classes.shape
  areas = np.bincount(places, minlength=len(values))
  y, x = (
    np.bincount(places, axis, minlength=len(values)) / areas
    for axis in (
      np.repeat(np.arange(height), width),
      np.tile(np.arange(width), height),
    )
  )
  is_segment = owners != geometry.IGNORE
  if is_segment.sum() > max:
    logging.log_first_n(
      logging.WARNING,
      "canonical(%d) keeps the largest segments of an example with %d of them, "
      "and of others with more than %d.",
      1,
      *(max, int(is_segment.sum()), max),
    )
    largest = np.argsort(-np.where(is_segment, areas, 0), kind="stable")
    is_segment[largest[max:]] = False
  # Concentric segments: the class, then the smaller one, decides.
  order = np.lexsort((areas, owners, x, y))
  order = order[is_segment[order]]
  new = np.zeros(len(values), np.int32)
  new[order] = np.arange(1, len(order) + 1)
  owners = np.where(is_segment, owners, geometry.IGNORE).astype(np.int32)
  shape = classes.shape
  return {
    **example,
    key: owners[places].reshape(shape),
    instances: new[places].reshape(shape),
  }


def _map(example: Example, key: str) -> np.ndarray:
  """Returns a map of whole numbers, or raises ValueError."""
  value = example.get(key)
  if isinstance(value, bytes):
    raise ValueError(
      f"{key!r} is still encoded: put decode(masks=...) before this op"
    )
  value = np.asarray(value)
  if value.ndim != 2 or value.dtype.kind not in "iu":
    raise ValueError(
      f"the example has no map of whole numbers {key!r}; it has "
      f"{sorted(example)}"
    )
  return value
