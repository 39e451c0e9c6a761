"""Moves masks and boxes along with their image.

An op that crops, scales or warps draws once and moves the image under `key`
and all entries that its arguments name:

    inception_crop(240, masks=('semantic',), boxes='boxes')

Masks are maps [H, W] or [H, W, C] of the image's size, such as classes. They
take the nearest pixel; where pixels from outside come in, masks get the label
that losses and metrics ignore.

Boxes are [..., 4], relative to the sides of the image: (ymin, xmin, ymax,
xmax). They are clipped to the image. A box is dropped, which means that its
numbers become zeros and its number in `box_label` -1, if it is less than a
pixel high or wide, or if less than `min_visible` of it is left. A rotated box
becomes the smallest upright box around it.

Matrices map (x, y, 1) in pixels of the old image to (x, y) in pixels of the new
one. The corner of an image is (0, 0), and the centre of its first pixel
(0.5, 0.5).

The matrix from an original image to what the ops have turned it into is kept in
an entry of the example, if it has one (`frame_key`), so that answers can be
brought back to the original.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tokenlearner_flexivit.data import mask_classes
from tokenlearner_flexivit.data.steps import BOX_LABEL, Example, as_names

# The label of pixels that losses and metrics leave out.
IGNORE = mask_classes.IGNORE
# Shares of height and width that `pad_to` has not added.
VALID = "valid"
# Far outside of an image, a number of a box is no error of rounding.
_IN_PIXELS = 1.5
# Float32 numbers of boxes are this precise, in pixels.
_TOLERANCE = 1e-3


class Place(NamedTuple):
  """Tells where a prepared image shows an original image.

  Attributes:
    size: height and width of the original, in pixels.
    matrix: from the original to the prepared image.
    prepared: height and width of the prepared image.
  """

  size: tuple[int, int]
  matrix: Float[np.ndarray, "2 3"]
  prepared: tuple[int, int]


# Function of frames [..., H, W, C], and of whether they are a mask.
Change = Callable[[np.ndarray, bool], np.ndarray]


def check(
  key: str, masks: str | tuple | list, boxes: str | None, min_visible: float
) -> None:
  """Raises ValueError for impossible arguments of an op that moves entries."""
  check_names(key, masks, () if boxes is None else (boxes, BOX_LABEL))
  if not 0 <= min_visible <= 1:
    raise ValueError(
      f"min_visible is the share of a box that must be left, in [0, 1], not "
      f"{min_visible}"
    )


def check_names(
  key: str, masks: str | tuple | list, others: tuple[str, ...] = ()
) -> None:
  """Raises ValueError unless all entries that an op changes are different."""
  names = [key, *as_names(masks), *others]
  for name in names:
    if not isinstance(name, str):
      raise ValueError(f"masks are names of entries, not {name!r}")
    if names.count(name) > 1:
      raise ValueError(f"{name!r} is named twice, and would be moved twice")


def get_image(example: Example, key: str) -> np.ndarray:
  """Returns the image [H, W, C] under `key`, on devices a JAX array.

  Raises:
    ValueError: the entry does not exist or is not a decoded image.
  """
  image = _decoded(example, key)
  if np.ndim(image) != 3:
    raise ValueError(
      f"{key!r} has shape {np.shape(image)} instead of [H, W, C]"
    )
  return image


def get_frames(example: Example, key: str) -> np.ndarray:
  """Returns the image [H, W, C] or video [..., H, W, C] under `key`.

  Raises:
    ValueError: the entry does not exist or is not decoded.
  """
  frames = example.get(key)
  if np.ndim(frames) < 4:
    return get_image(example, key)
  return frames


def sides(example: Example, key: str) -> tuple[int, int]:
  """Returns height and width of the image, video or map under `key`.

  Raises:
    ValueError: the entry does not exist or is not decoded.
  """
  return _frames(example, key).shape[-3:-1]


def _frames(example: Example, key: str) -> np.ndarray:
  """Returns an image, a video or, with an axis added, a map [H, W] of ids."""
  frames = example.get(key)
  # A grey image [H, W] is uint8: `decode` gives it its channels.
  if np.ndim(frames) == 2 and getattr(frames, "dtype", None) == np.int32:
    return frames[..., None]
  return get_frames(example, key)


def _decoded(example: Example, key: str) -> np.ndarray:
  if key not in example:
    raise ValueError(f"the example has no {key!r}; it has {sorted(example)}")
  if isinstance(example[key], bytes):
    raise ValueError(f"{key!r} is still encoded: put decode before this op")
  return example[key]


def check_fill(fill: float, image: np.ndarray) -> None:
  """Raises ValueError for a fill that the image's dtype cannot hold."""
  if image.dtype.kind not in "iu":
    return
  limits = np.iinfo(image.dtype)
  if fill != int(fill) or not limits.min <= fill <= limits.max:
    raise ValueError(
      f"fill must be a whole number from {limits.min} to {limits.max} in an "
      f"image of {image.dtype}, not {fill}: after value_range this op may have "
      "others"
    )


def window(
  top: float,
  left: float,
  height: float,
  width: float,
  new_height: int,
  new_width: int,
) -> Float[np.ndarray, "2 3"]:
  """Returns the matrix that maps a rectangle to a whole image of a new size."""
  down, across = new_height / height, new_width / width
  return np.array([[across, 0, -left * across], [0, down, -top * down]])


def frame_key(key: str) -> str:
  """Returns the entry that holds the matrix of the image under `key`.

  Ops that move the image multiply it by their own matrix. An example without
  the entry stays without it.
  """
  return f"{key}/frame"


def reframe(
  example: Example, key: str, matrix: Float[np.ndarray, "2 3"]
) -> Example:
  """Returns the example with the frame of an image moved, if it has one."""
  entry = frame_key(key)
  if entry not in example:
    return example
  frame = matrix[:, :2] @ example[entry]
  frame[:, 2] += matrix[:, 2]
  return {**example, entry: frame}


def from_centres(matrix: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
  """Returns the matrix of one for which (0, 0) is the first pixel's centre."""
  linear, shift = matrix[:, :2], matrix[:, 2:]
  half = np.full((2, 1), 0.5)
  return np.concatenate([linear, shift + half - linear @ half], axis=1)


def move(
  example: Example,
  key: str,
  change: Change,
  matrix: Float[np.ndarray, "2 3"],
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0.0,
) -> Example:
  """Returns the example with an image, masks and boxes changed alike.

  Args:
    example: has an image or video under `key`.
    key: where the image is.
    change: returns frames as they are afterwards. Masks must take the nearest
      pixel.
    matrix: where the change moves the places of the image.
    masks: names of masks of the image's size.
    boxes: name of boxes.
    min_visible: least share of a box that must be left.

  Raises:
    ValueError: a mask or box does not exist, or does not fit the image.
  """
  frames = _frames(example, key)
  changed = change(frames, False)
  image = changed[..., 0] if np.ndim(example[key]) == 2 else changed
  return follow(
    {**reframe(example, key, matrix), key: image},
    change,
    matrix,
    frames.shape,
    changed.shape[-3:-1],
    masks,
    boxes,
    min_visible,
  )


def follow(
  example: Example,
  change: Change,
  matrix: Float[np.ndarray, "2 3"],
  shape: tuple[int, ...],
  new_sides: tuple[int, int],
  masks: str | tuple | list = (),
  boxes: str | None = None,
  min_visible: float = 0.0,
) -> Example:
  """Returns the example with masks and boxes changed as their image was.

  Args:
    example: has the masks and boxes.
    change: see `move`.
    matrix: see `move`.
    shape: of the image before the change, [..., H, W, C].
    new_sides: height and width of the image after the change.
    masks: names of masks of the image's size.
    boxes: name of boxes.
    min_visible: least share of a box that must be left.

  Raises:
    ValueError: a mask or box does not exist, or does not fit the image.
  """
  moved = dict(example)
  for name in as_names(masks):
    moved[name] = _move_mask(_decoded(example, name), name, change, shape)
  if boxes is not None:
    moved[boxes], is_left = _move_boxes(
      _boxes(example, boxes), matrix, shape[-3:-1], new_sides, min_visible
    )
    if BOX_LABEL in example:
      moved[BOX_LABEL] = _drop_labels(example[BOX_LABEL], is_left)
  return moved


def _move_mask(
  mask: np.ndarray, name: str, change: Change, shape: tuple[int, ...]
) -> np.ndarray:
  rank = np.ndim(mask)
  frames = mask[..., None] if rank == len(shape) - 1 else mask
  if np.ndim(frames) != len(shape) or frames.shape[:-1] != tuple(shape[:-1]):
    raise ValueError(
      f"the mask {name!r} has the shape {np.shape(mask)}, and the image has "
      f"{shape[-3]} x {shape[-2]} pixels: they must be of one size. Has an op "
      "before this one changed the image alone? Name the mask there too, in "
      f"masks=({name!r},)"
    )
  if mask.dtype == bool:  # OpenCV knows no booleans.
    frames = change(frames.view(np.uint8), True).astype(bool)
  else:
    frames = change(frames, True)
  return frames if rank == len(shape) else frames[..., 0]


def _boxes(example: Example, name: str) -> np.ndarray:
  """Returns boxes, or raises ValueError for what are none."""
  boxes = np.asarray(_decoded(example, name))
  if boxes.ndim < 1 or boxes.shape[-1] != 4 or boxes.dtype.kind != "f":
    raise ValueError(
      f"{name!r} is an array of {boxes.dtype} of shape {boxes.shape}, no "
      "boxes. These are floating-point numbers [..., 4] relative to the sides "
      "of the image, (ymin, xmin, ymax, xmax); the op objects makes them"
    )
  if boxes.size and np.abs(boxes).max() > _IN_PIXELS:
    raise ValueError(
      f"{name!r} has the number {np.abs(boxes).max():g}: divide boxes in "
      "pixels by the height and the width of the image"
    )
  return boxes


def _move_boxes(
  boxes: Float[np.ndarray, "*boxes 4"],
  matrix: Float[np.ndarray, "2 3"],
  old: tuple[int, int],
  new: tuple[int, int],
  min_visible: float,
) -> tuple[Float[np.ndarray, "*boxes 4"], np.ndarray]:
  """Returns the moved boxes, and which of them are left."""
  exact = boxes.astype(np.float64) * np.tile(old, 2)
  y, x = exact[..., [0, 0, 2, 2]], exact[..., [1, 3, 1, 3]]  # The corners.
  across, down = (row[0] * x + row[1] * y + row[2] for row in matrix)
  moved = np.stack(
    [down.min(-1), across.min(-1), down.max(-1), across.max(-1)], axis=-1
  )
  clipped = moved.clip(0, np.tile(new, 2))
  extents = clipped[..., 2:] - clipped[..., :2]
  areas = (moved[..., 2:] - moved[..., :2]).prod(-1)
  is_left = np.asarray((extents > 1 - _TOLERANCE).all(-1))
  is_left &= extents.prod(-1) >= (min_visible - _TOLERANCE) * areas
  relative = np.where(is_left[..., None], clipped / np.tile(new, 2), 0)
  return relative.astype(boxes.dtype), is_left


def _drop_labels(labels: np.ndarray, is_left: np.ndarray) -> np.ndarray:
  """Returns the labels of boxes, -1 for those that are dropped."""
  labels = np.asarray(labels)
  if labels.shape != is_left.shape or labels.dtype.kind != "i":
    raise ValueError(
      f"{BOX_LABEL!r} is an array of {labels.dtype} of shape {labels.shape}, "
      f"and the boxes have the shape {is_left.shape}: it must hold a signed "
      "whole number for each box"
    )
  return np.where(is_left, labels, labels.dtype.type(-1))
