"""Notices ops that move an image and leave its mask or boxes where they are.

Every op treats one entry of an example. After a random crop or a mirror image,
another entry that shows places of the same picture (a mask, a depth map, boxes,
a second view) fits it no longer, and nothing else would tell.
"""

import dataclasses
import inspect
from typing import Any

import numpy as np
from absl import logging

from tokenlearner_flexivit.data import preprocess

# Entries with these in their names hold coordinates, also where they are
# vectors.
_COORDINATES = ("box", "keypoint", "landmark")
# Crops that keep shares of the sides which differ by less are the same but for
# the rounding to pixels.
_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class _Move:
  """One application of an op that moves.

  Attributes:
    step: the op. Random ops draw anew each time that they are applied.
    arguments: those of an op without chance but sizes, which count pixels.
    kept: shares of height and width that are left, or None if unknown.
  """

  step: preprocess.Step
  arguments: dict[str, Any]
  kept: tuple[float, float] | None

  def same(self, other: "_Move") -> bool:
    """Whether both take the same part of a picture."""
    if self.step.is_random or other.step.is_random:
      return self.step is other.step
    if (self.step.fn, self.arguments) != (other.step.fn, other.arguments):
      return False
    if self.kept is None or other.kept is None:
      return True
    return np.allclose(self.kept, other.kept, rtol=0, atol=_TOLERANCE)


class Alignment:
  """Follows one example through a preprocessing; see `check`."""

  def __init__(self, parsed: preprocess.Preprocess):
    """Prepares to follow an example, or one after the other.

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
    """Takes note of an op, the argument of `Preprocess.__call__`."""
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
      if len(getattr(value, "shape", ())) >= 3:
        self._shapes.setdefault(origins[key], value.shape)
    self._origins, self._moves = origins, moves

  def check(self, example: preprocess.Example) -> None:
    """Raises ValueError if two entries no longer show the same places.

    An entry made by `copy` may be moved apart, as a second view; of that there
    is a warning.

    Args:
      example: what the preprocessing gave last.
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
        advice = "No op moves both yet: take this op out"
        if not missing.step.is_random and np.ndim(example[other]) >= 3:
          advice = f"Do the same to {other!r}"
        raise ValueError(
          f"{text} in the preprocessing {self._text!r} moves {moved!r} but not "
          f"{other!r}, which the example keeps: they would no longer show the "
          f"same places. {advice}, or leave {other!r} out with keep(...) or "
          "drop(...)."
        )

  def _missing(self, moved: str, other: str) -> _Move | None:
    """Returns the first move of an entry that the other has not had."""
    theirs = self._moves[other]
    for number, move in enumerate(self._moves[moved]):
      if number >= len(theirs) or not move.same(theirs[number]):
        return move
    return None

  def _shows_places(self, key: str, value: Any) -> bool:
    """Whether an entry of the result shows or names places of a picture."""
    if self._origins.get(key) is None:
      return False
    shape = np.shape(value)
    if any(name in key.lower() for name in _COORDINATES):
      return len(shape) >= 1
    if len(shape) != 2 or np.asarray(value).dtype.kind != "f":
      return len(shape) >= 2
    # Coordinates, or a map as wide as the picture; else perhaps a text.
    ratio = shape[0] / max(shape[1], 1)
    pictures = [s for s in self._shapes.values() if len(s) >= 3]
    return shape[1] in (2, 4) or any(
      abs(s[-3] / s[-2] - ratio) < _TOLERANCE * ratio for s in pictures
    )


def _source(
  key: str,
  value: Any,
  before: preprocess.Example,
  step: preprocess.Step,
) -> str | None:
  """Returns the entry, before the op, that an entry comes from."""
  if key in before and value is before[key]:
    return key
  copied = [name for name, old in before.items() if value is old]
  if copied:
    return copied[0]
  if key in before:
    return key
  return step.entries[0] if step.entries else None  # It is new.


def _move(step: preprocess.Step, before: Any, after: Any) -> _Move:
  arguments, kept = {}, None
  if not step.is_random:
    bound = inspect.signature(step.fn).bind(None, *step.args, **step.kwargs)
    bound.apply_defaults()
    arguments = {
      name: value
      for name, value in list(bound.arguments.items())[1:]
      if name not in ("key", "size")
    }
  old, new = getattr(before, "shape", ()), getattr(after, "shape", ())
  if min(len(old), len(new)) >= 3:
    kept = (new[-3] / old[-3], new[-2] / old[-2])
  return _Move(step, arguments, kept)
