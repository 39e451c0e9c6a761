"""Finds ops that move an image and leave its mask or boxes in place.

An op moves the entries that its arguments name. After a random crop or a mirror
image, another entry that shows places of the same picture (a mask, a depth map,
boxes, a second view) no longer fits it, and nothing else would raise an error.
"""

import dataclasses
import inspect
from typing import Any

import numpy as np
from absl import logging

from tokenlearner_flexivit.data import preprocess, steps
from tokenlearner_flexivit.data.ops import decode as decode_ops
from tokenlearner_flexivit.data.ops import geometry
from tokenlearner_flexivit.data.ops import text as text_ops

# Entries whose names contain these hold coordinates, even as vectors.
_COORDINATES = ("box", "keypoint", "landmark")
# Two crops are the same if the shares of the sides that they keep differ by
# less, as they do after rounding to pixels.
_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class _Move:
  """One application of an op that moves pixels.

  Attributes:
    step: the op. Random ops draw anew each time that they are applied.
    arguments: arguments of an op that is not random, without sizes in pixels.
    kept: shares of height and width that are kept, or None if unknown.
  """

  step: preprocess.Step
  arguments: dict[str, Any]
  kept: tuple[float, float] | None

  def same(self, other: "_Move") -> bool:
    """Tells whether both take the same part of a picture."""
    if self.step is other.step:
      return True
    if self.step.is_random or other.step.is_random:
      return False
    if (self.step.fn, self.arguments) != (other.step.fn, other.arguments):
      return False
    if self.kept is None or other.kept is None:
      return True
    return np.allclose(self.kept, other.kept, rtol=0, atol=_TOLERANCE)


class Alignment:
  """The moves of each entry of an example on its way through a preprocessing.

  Pass `watch` to the call of the preprocessing, then call `check`.
  """

  def __init__(self, parsed: preprocess.Preprocess):
    """Prepares to follow examples, one after another.

    Args:
      parsed: the preprocessing.
    """
    self._text = parsed.text
    self._first = parsed.steps[0] if parsed.steps else None
    self._origins: dict[str, str | None] = {}
    self._moves: dict[str, tuple[_Move, ...]] = {}
    self._shapes: dict[str, tuple[int, ...]] = {}

  def watch(
    self,
    step: preprocess.Step,
    before: preprocess.Example,
    after: preprocess.Example,
  ) -> None:
    """Records the effect of an op; the argument of `Preprocess.__call__`."""
    if step is self._first:
      self._origins = {key: key for key in before}
      self._moves = dict.fromkeys(before, ())
      self._shapes = {}
    origins, moves = {}, {}
    for key, value in after.items():
      source = _source(key, value, before, step)
      origins[key] = self._origins.get(source)
      moves[key] = self._moves.get(source, ())
      touched = step.entries is None or key in step.entries
      if step.moves and touched and key in before:
        moves[key] += (_move(step, before[key], value),)
      # Other files may be masks of the image as it is stored; boxes and points
      # are those of the image as people see it.
      turns = turns_upright(step) and isinstance(before[_image(step)], bytes)
      is_upright = any(turns_upright(move.step) for move in moves[key])
      is_file = isinstance(before.get(key), bytes) and not touched
      if turns and not is_upright and not is_file:
        moves[key] += (_Move(step, {}, None),)
      if key == geometry.VALID and key not in before:
        # It tells of the image as this op leaves it.
        origins[key] = key
        moves[key] += (_move(step, None, value),)
      if len(getattr(value, "shape", ())) >= 3:
        self._shapes.setdefault(origins[key], value.shape)
    self._origins, self._moves = origins, moves

  def check(self, example: preprocess.Example) -> None:
    """Raises ValueError if two entries no longer show the same places.

    An entry made by `copy` may be moved alone, as a second view; this is only
    warned of.

    Args:
      example: the last result of the preprocessing.
    """
    shown = [key for key in example if self._shows_places(key, example[key])]
    for moved in shown:
      for other in shown:
        missing = self._missing(moved, other)
        if missing is None:
          continue
        text = missing.step.text
        if self._origins[moved] == self._origins[other]:
          if missing.step.is_random:
            logging.warning(
              "%s changes %r but not %r, a copy of it: they show different "
              "views. If they are to show the same, put copy(...) behind it. "
              "In the preprocessing %r.",
              *(text, moved, other, self._text),
            )
          continue
        advice = _advice(missing.step, other, example[other])
        raise ValueError(
          f"{text} in the preprocessing {self._text!r} moves {moved!r} but not "
          f"{other!r}, which the example keeps: they would no longer show the "
          f"same places. {advice}, or leave {other!r} out with keep(...) or "
          "drop(...)."
        )

  def _missing(self, moved: str, other: str) -> _Move | None:
    """Returns the first move of an entry that the other entry lacks."""
    theirs = self._moves[other]
    for number, move in enumerate(self._moves[moved]):
      if number >= len(theirs) or not move.same(theirs[number]):
        return move
    return None

  def _shows_places(self, key: str, value: Any) -> bool:
    """Tells whether an entry of the result has places of a picture in it."""
    if self._origins.get(key) is None:
      return False
    shape = np.shape(value)
    if key == steps.BOX_LABEL:
      return False  # Its boxes tell.
    if key == geometry.VALID:
      return shape == (2,)
    if any(name in key.lower() for name in _COORDINATES):
      return len(shape) >= 1
    if len(shape) != 2 or np.asarray(value).dtype.kind != "f":
      return len(shape) >= 2
    # Coordinates, or a map of the picture's aspect ratio; others may be texts.
    ratio = shape[0] / max(shape[1], 1)
    pictures = [s for s in self._shapes.values() if len(s) >= 3]
    return shape[1] in (2, 4) or any(
      abs(s[-3] / s[-2] - ratio) < _TOLERANCE * ratio for s in pictures
    )


def turns_upright(step: preprocess.Step) -> bool:
  """Tells whether an op turns images by their EXIF orientation."""
  return step.op is decode_ops.decode and step.kwargs.get("exif", True)


def _image(step: preprocess.Step) -> str:
  return step.kwargs.get("key", "image")


def _source(
  key: str,
  value: Any,
  before: preprocess.Example,
  step: preprocess.Step,
) -> str | None:
  """Returns the entry before the op from which an entry comes."""
  if key in before and value is before[key]:
    return key
  copied = [name for name, old in before.items() if value is old]
  if copied:
    return copied[0]
  if step.op in text_ops.TOKENIZING:
    return None  # Rows of tokens are no rows of a picture.
  if key in before:
    return key
  return step.entries[0] if step.entries else None  # The entry is new.


def _advice(step: preprocess.Step, other: str, value: Any) -> str:
  """Returns what to do about an entry that an op leaves behind."""
  if other == geometry.VALID:
    return "Put pad_to behind it"
  parameters = inspect.signature(step.op).parameters
  is_boxes = "box" in other.lower() and np.shape(value)[-1:] == (4,)
  if turns_upright(step):
    return (
      "It turns images by their EXIF orientation. Name the mask in it, as in "
      f"decode(masks={other!r}), or say decode(exif=False)"
    )
  is_other = any(name in other.lower() for name in _COORDINATES[1:])
  if is_boxes and "boxes" in parameters:
    return f"Name it in the op, as in {step.op.__name__}(..., boxes={other!r})"
  if not is_boxes and not is_other and "masks" in parameters:
    return f"Name it in the op, as in {step.op.__name__}(..., masks={other!r})"
  if not step.is_random and np.ndim(value) >= 3:
    return f"Do the same to {other!r}"
  return "No op moves both yet: take this op out"


def _move(step: preprocess.Step, before: Any, after: Any) -> _Move:
  arguments, kept = {}, None
  if not step.is_random:
    arguments = {
      name: value
      for name, value in step.arguments().items()
      if name not in ("key", "size", "masks", "boxes", "min_visible")
    }
  old, new = _sides(before), _sides(after)
  if old and new:
    kept = (new[0] / old[0], new[1] / old[1])
  return _Move(step, arguments, kept)


def _sides(value: Any) -> tuple[int, ...]:
  """Returns height and width of a picture, or a map [H, W]; () of others."""
  shape = getattr(value, "shape", ())
  return shape[-3:-1] if len(shape) >= 3 else shape[-2:] * (len(shape) == 2)
