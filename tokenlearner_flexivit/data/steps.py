"""A parsed preprocessing string: its ops with their arguments, in order."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

Example = dict[str, Any]

# Boxes, and the numbers of their classes, -1 for padding.
BOXES, BOX_LABEL = "boxes", "box_label"


def as_names(value: str | Sequence[str] | None) -> tuple[str, ...]:
  """Returns the names of entries that an argument holds: none, one or many."""
  if value is None:
    return ()
  return (value,) if isinstance(value, str) else tuple(value)


@dataclasses.dataclass(frozen=True)
class Step:
  """An op of a string with its arguments.

  Attributes:
    text: the op as it is written.
    op: the op.
    fn: the op, or its stand-in.
    is_random: whether it draws random numbers.
    args: its arguments.
    kwargs: its keyword arguments.
    entries: the entries of an example that it reads or writes; None for any.
    followers: those of them that are masks or boxes moved with their image.
    moves: whether it moves pixels, see `register_op`.
    mirrors: whether it may show left as right, see `register_op`.
    on_device: whether it may run on a device, see `register_op`.
    bound: its parameters that a string cannot give, see `register_op`.
  """

  text: str
  op: Callable[..., Example]
  fn: Callable[..., Example]
  is_random: bool
  args: tuple[Any, ...]
  kwargs: dict[str, Any]
  entries: tuple[str, ...] | None
  followers: tuple[str, ...]
  moves: bool
  mirrors: bool
  on_device: bool
  bound: tuple[str, ...]

  def arguments(self) -> dict[str, Any]:
    """Returns the arguments of the op by name, with its defaults."""
    signature = inspect.signature(self.op)
    placeholders = (None, None) if self.is_random else (None,)
    bound = signature.bind(*placeholders, *self.args, **self.kwargs)
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[len(placeholders) :])

  def moving_only(self, needed: Collection[str]) -> "Step":
    """Returns the step without the masks and boxes that are not needed."""
    kwargs = dict(self.kwargs)
    if "masks" in kwargs:
      masks = as_names(kwargs["masks"])
      kwargs["masks"] = tuple(name for name in masks if name in needed)
    if kwargs.get("boxes") not in needed and BOX_LABEL not in needed:
      kwargs.pop("boxes", None)
    followers = followers_in(kwargs)
    own = tuple(name for name in self.entries if name not in self.followers)
    return dataclasses.replace(
      self, kwargs=kwargs, entries=own + followers, followers=followers
    )


def followers_in(kwargs: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the entries that an op with these arguments moves along."""
  boxes = kwargs.get("boxes")
  return (
    *as_names(kwargs.get("masks")),
    *(() if boxes is None else (boxes, BOX_LABEL)),
  )


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """A parsed preprocessing string; call it on an example.

  It holds the functions rather than their names, so that it can be pickled to
  worker processes that have not registered the same ops.

  Attributes:
    text: the string that was parsed.
    steps: its ops with their arguments.
  """

  text: str
  steps: tuple[Step, ...]

  @property
  def is_random(self) -> bool:
    """Tells whether any op draws random numbers."""
    return any(step.is_random for step in self.steps)

  def bound(self, **values: Any) -> "Preprocess":
    """Returns the preprocessing with values that a string cannot give.

    Args:
      **values: by the names of parameters; see `register_op`. Ops without a
        parameter of the name do not get its value.
    """
    steps = [
      dataclasses.replace(
        step,
        kwargs=step.kwargs | {k: values[k] for k in step.bound if k in values},
      )
      for step in self.steps
    ]
    return dataclasses.replace(self, steps=tuple(steps))

  def only(self, key: str) -> "Preprocess":
    """Returns the ops on which an entry of the result depends.

    Ops on labels, masks or a teacher's image are left out, so that an example
    needs none of these. Other ops leave out masks and boxes that they would
    move along.

    Args:
      key: name of the entry.
    """
    steps, needed = [], {key}
    for step in reversed(self.steps):
      if step.entries is None:
        needed = None  # The op may read anything.
      elif needed is not None:
        if needed.isdisjoint(step.entries):
          continue
        step = step.moving_only(needed) if step.followers else step
        needed.update(step.entries)
      steps.append(step)
    return dataclasses.replace(self, steps=tuple(reversed(steps)))

  def split(self) -> tuple["Preprocess", "Preprocess"]:
    """Returns the ops for the host and those at the end for a device.

    The latter are the ops registered with `on_device` whose entries no other op
    touches afterwards.

    Returns:
      The ops for the host, and the ops for the device. One after the other they
      give the result of all ops.
    """
    host, device, touched = [], [], set()
    for step in reversed(self.steps):
      free = touched is not None and touched.isdisjoint(step.entries or ())
      if step.on_device and not step.is_random and free:
        device.append(step)
        continue
      host.append(step)
      if step.entries is None:
        touched = None
      elif touched is not None:
        touched.update(step.entries)
    return (
      dataclasses.replace(self, steps=tuple(reversed(host))),
      dataclasses.replace(self, steps=tuple(reversed(device))),
    )

  def __call__(
    self,
    example: Example,
    rng: np.random.Generator | None = None,
    watch: Callable[[Step, Example, Example], None] | None = None,
  ) -> Example:
    """Returns the preprocessed example.

    Args:
      example: dict of arrays, scalars and encoded images (bytes).
      rng: generator that all random ops draw from, in order; may be None where
        no op is random.
      watch: is called after each op, with the example before and after it.
    """
    for step in self.steps:
      args = (rng, *step.args) if step.is_random else step.args
      before = example
      try:
        example = step.fn(example, *args, **step.kwargs)
      except (MemoryError, OSError):
        raise  # The example is not at fault: frames of videos are read here.
      except Exception as error:
        raise ValueError(
          f"{step.text} in the preprocessing {self.text!r}: {error}"
        ) from error
      if watch is not None:
        watch(step, before, example)
    return example
