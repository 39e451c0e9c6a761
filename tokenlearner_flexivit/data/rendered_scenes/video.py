"""Videos: the main object of a scene acts while the others drift."""

import dataclasses
from typing import Any

import numpy as np

from . import captions, draw, examples, scene
from .scene import Object, Scene

ACTIONS = (
  "moves left",
  "moves right",
  "moves up",
  "moves down",
  "turns clockwise",
  "turns counterclockwise",
  "grows",
  "shrinks",
  "circles",
  "stays",
)
_DIRECTIONS = {
  "moves left": (-1, 0),
  "moves right": (1, 0),
  "moves up": (0, -1),
  "moves down": (0, 1),
}
# The main object is smaller than in an image, to have room to move.
_SHRINK = 0.62
# How far every object drifts in addition to an action, as a share of the side.
_DRIFT = 0.05


@dataclasses.dataclass(frozen=True)
class Motion:
  """The motion of an object from its first pose, at a share t of the clip.

  Attributes:
    move: shift in x and y at t = 1, in shares of the side.
    turn: clockwise turn at t = 1, in radians.
    growth: factor of the extent at t = 1.
    circle: radius of a circle in shares of the side; 0 for none.
    start: angle on the circle at t = 0.
    sweep: change of this angle up to t = 1.
  """

  move: tuple[float, float] = (0.0, 0.0)
  turn: float = 0.0
  growth: float = 1.0
  circle: float = 0.0
  start: float = 0.0
  sweep: float = 0.0

  def at(self, item: Object, t: float) -> Object:
    """Returns the object after a share t of the clip."""
    angle = self.start + self.sweep * t
    shift = np.array([np.cos(angle), np.sin(angle)]) * self.circle
    shift += np.asarray(self.move) * t
    return dataclasses.replace(
      item,
      centre=tuple(np.asarray(item.centre) + shift),
      extent=item.extent * self.growth**t,
      # The texture is painted on the object: it scales and turns with it.
      wavelength=item.wavelength * self.growth**t,
      angle=item.angle + self.turn * t,
      texture_angle=item.texture_angle + self.turn * t,
    )


def sample(rng: np.random.Generator) -> tuple[int, Scene, tuple[Motion, ...]]:
  """Returns a random action, first frame and motion of each object."""
  action = int(rng.integers(len(ACTIONS)))
  first = scene.sample(rng)
  main, motion = _act(rng, ACTIONS[action], first.objects[0])
  others = [_drift(rng) for _ in first.objects[1:]]
  first = dataclasses.replace(first, objects=(main, *first.objects[1:]))
  return action, first, (motion, *others)


def _act(
  rng: np.random.Generator, action: str, main: Object
) -> tuple[Object, Motion]:
  """Returns the main object where it starts, and its motion."""
  extent = main.extent * _SHRINK
  motion = _drift(rng)
  if action in _DIRECTIONS:
    distance = rng.uniform(0.3, 0.45)
    move = np.array(_DIRECTIONS[action]) * distance + motion.move
    motion = dataclasses.replace(motion, move=tuple(move))
  elif action.startswith("turns"):
    turn = rng.uniform(0.5, 1) * np.pi
    turn = turn if action == "turns clockwise" else -turn
    motion = dataclasses.replace(motion, turn=turn)
  elif action in ("grows", "shrinks"):
    growth = rng.uniform(1.6, 2)
    if action == "shrinks":
      extent, growth = extent * growth, 1 / growth
      wave = main.wavelength / growth
      main = dataclasses.replace(main, wavelength=wave)
    motion = dataclasses.replace(motion, growth=growth)
  elif action == "circles":
    motion = dataclasses.replace(
      motion,
      circle=rng.uniform(0.12, 0.16),
      start=rng.uniform(-np.pi, np.pi),
      sweep=rng.choice([-1, 1]) * rng.uniform(1.6, 2) * np.pi,
    )
  # The path is centred, then shifted at random as far as there is room.
  largest = extent * max(1, motion.growth)
  room = 0.5 - 0.47 * largest - np.abs(motion.move) / 2 - motion.circle
  middle = 0.5 + rng.uniform(-1, 1, 2) * np.maximum(room, 0)
  centre = tuple(middle - np.asarray(motion.move) / 2)
  return dataclasses.replace(main, extent=extent, centre=centre), motion


def _drift(rng: np.random.Generator) -> Motion:
  """Returns a motion that is too small to be an action."""
  return Motion(
    move=tuple(rng.uniform(-_DRIFT, _DRIFT, 2)),
    turn=rng.uniform(-0.15, 0.15),
    growth=rng.uniform(0.93, 1.07),
  )


def video_example(
  side: int, num_frames: int, seed: int, split: str, index: int
) -> dict[str, Any]:
  """Returns one example as plain values and encoded frames.

  Args:
    side: height and width in pixels.
    num_frames: frames, spread evenly over the same motion.
    seed: seed of the dataset.
    split: name of the split.
    index: number of the example in it.

  Returns:
    The features listed in README.md.
  """
  # Another split name, so that the scenes differ from those of the images.
  rng = scene.generator(seed, f"video {split}", index)
  action, first, motions = sample(rng)
  noise = rng.integers(2**31, size=num_frames).tolist()
  frames, boxes = [], []
  for frame, t in enumerate(np.linspace(0, 1, num_frames)):
    objects = [
      motion.at(item, t)
      for motion, item in zip(motions, first.objects, strict=True)
    ]
    now = dataclasses.replace(first, objects=tuple(objects))
    image, instances = draw.draw(now, side, noise[frame])
    frames.append(examples.jpeg(image))
    boxes.append(examples.box(instances == 1))
  labels = examples.labels(first)
  for key in ("size", "orientation"):  # These change in a video.
    del labels[key]
  return {
    "video": frames,
    **labels,
    "label": action,
    "caption": captions.action_caption(first.objects[0], ACTIONS[action]),
    "boxes": boxes,
  }
