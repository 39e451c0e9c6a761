"""Random scenes: objects, background and light in units of the image's side.

They do not depend on the size in pixels, so a scene has the same composition at
every size.
"""

import dataclasses
import zlib

import numpy as np

from . import shapes, textures

COLOURS = {
  # Name: hue in [0, 1).
  "red": 0.0,
  "orange": 0.075,
  "yellow": 0.15,
  "green": 0.33,
  "cyan": 0.5,
  "blue": 0.62,
  "purple": 0.76,
  "pink": 0.9,
}
BACKGROUNDS = ("plain", "clouds", "planks", "tiles")
SIZES = ("small", "medium", "large")
ORIENTATIONS = ("tilted left", "upright", "tilted right")
MAX_OBJECTS = 6

# The main object's extents for each size, and its tilt with jitter.
_EXTENTS = ((0.60, 0.65), (0.68, 0.73), (0.76, 0.81))
_TILT, _TILT_JITTER = np.deg2rad(20), np.deg2rad(4)
_SHIFT = 0.05
# The other objects are clearly smaller and may have any orientation.
_OTHER_EXTENT = (0.12, 0.18)
_MIN_VISIBLE = 0.4
_TRIES = 20
_TEXTURE_TILT = np.deg2rad(8)
# How much darker the dark tone is than the light tone. On worn objects the
# texture all but disappears: no model classifies all of them, but better models
# classify more. They are few enough for learning to begin soon.
_CONTRAST, _WORN_CONTRAST = (0.5, 0.9), (0.0, 0.1)
_WORN_SHARE = 0.25
# Visibility is judged on a separate raster, the same for all sizes.
_RASTER = 64


@dataclasses.dataclass(frozen=True)
class Object:
  """An object of a scene.

  Attributes:
    shape: index in `shapes.NAMES`.
    texture: index in `textures.NAMES`.
    colour: index in `COLOURS`.
    scale: scale of the texture, index in `textures.SCALES`.
    centre: x and y in shares of the side.
    extent: side of the square around the upright outline, in shares of the
      side.
    angle: clockwise turn in radians.
    wavelength: wavelength of the texture, in shares of the side.
    light: the light tone, RGB in [0, 1].
    dark: the dark tone, RGB in [0, 1].
    texture_angle: clockwise turn of the texture in radians.
  """

  shape: int
  texture: int
  colour: int
  scale: int
  centre: tuple[float, float]
  extent: float
  angle: float
  wavelength: float
  light: tuple[float, float, float]
  dark: tuple[float, float, float]
  texture_angle: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """A scene of objects on a background, with its light.

  Attributes:
    objects: the main object first; each is in front of the next ones.
    size: bin of the main object, index in `SIZES`.
    orientation: bin of the main object, index in `ORIENTATIONS`.
    background: index in `BACKGROUNDS`.
    background_colours: two RGB triples in [0, 1].
    background_seed: seed of the background's texture.
    light: direction of the light in radians.
    light_strength: change of brightness from the middle to the edge.
    gamma: exponent of the brightness.
    noise: standard deviation of the pixels' noise, for pixels in [0, 1].
  """

  objects: tuple[Object, ...]
  size: int
  orientation: int
  background: int
  background_colours: tuple[tuple[float, float, float], ...]
  background_seed: int
  light: float
  light_strength: float
  gamma: float
  noise: float


def generator(seed: int, split: str, index: int) -> np.random.Generator:
  """Returns the generator of all random numbers of an example."""
  return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def sample(rng: np.random.Generator) -> Scene:
  """Returns a random scene."""
  size = int(rng.integers(len(SIZES)))
  orientation = int(rng.integers(len(ORIENTATIONS)))
  num_others = int(rng.integers(MAX_OBJECTS))
  extent = rng.uniform(*_EXTENTS[size])
  angle = (orientation - 1) * _TILT + rng.uniform(-1, 1) * _TILT_JITTER
  room = min(0.5 - 0.47 * extent, _SHIFT)
  centre = tuple(0.5 + rng.uniform(-room, room, 2))
  objects = [_object(rng, centre, extent, angle)]
  covered = shapes.mask(objects[0].shape, centre, extent, angle, _RASTER) > 127
  for _ in range(num_others):
    other, covers = _behind(rng, covered)
    objects.append(other)
    covered |= covers
  value = rng.uniform(0.75, 0.92)
  colours = tuple(
    _rgb(rng.random(), rng.uniform(0.05, 0.25), value + shift)
    for shift in (0, -rng.uniform(0.06, 0.14))
  )
  return Scene(
    objects=tuple(objects),
    size=size,
    orientation=orientation,
    background=int(rng.integers(len(BACKGROUNDS))),
    background_colours=colours,
    background_seed=int(rng.integers(2**31)),
    light=rng.uniform(-np.pi, np.pi),
    light_strength=rng.uniform(0, 0.25),
    gamma=rng.uniform(0.8, 1.25),
    noise=rng.uniform(0.01, 0.03),
  )


def _object(
  rng: np.random.Generator,
  centre: tuple[float, float],
  extent: float,
  angle: float,
) -> Object:
  colour = int(rng.integers(len(COLOURS)))
  scale = int(rng.integers(len(textures.SCALES)))
  hue = list(COLOURS.values())[colour] + rng.uniform(-0.015, 0.015)
  light = np.array(
    _rgb(hue % 1, rng.uniform(0.6, 0.9), rng.uniform(0.75, 0.95))
  )
  is_worn = rng.random() < _WORN_SHARE
  contrast = rng.uniform(*(_WORN_CONTRAST if is_worn else _CONTRAST))
  return Object(
    shape=int(rng.integers(len(shapes.NAMES))),
    texture=int(rng.integers(len(textures.NAMES))),
    colour=colour,
    centre=centre,
    extent=extent,
    angle=angle,
    scale=scale,
    wavelength=rng.uniform(*list(textures.SCALES.values())[scale]),
    light=tuple(light),
    dark=tuple(light * (1 - contrast)),
    texture_angle=rng.uniform(-1, 1) * _TEXTURE_TILT,
  )


def _behind(
  rng: np.random.Generator, covered: np.ndarray
) -> tuple[Object, np.ndarray]:
  """Returns a random object that is visible behind the others, and its mask."""
  best, best_mask, best_visible = None, None, -1.0
  for _ in range(_TRIES):
    extent = rng.uniform(*_OTHER_EXTENT)
    centre = tuple(rng.uniform(0.5 * extent, 1 - 0.5 * extent, 2))
    other = _object(rng, centre, extent, rng.uniform(-np.pi, np.pi))
    mask = shapes.mask(other.shape, centre, extent, other.angle, _RASTER) > 127
    visible = (mask & ~covered).sum() / mask.sum()
    if visible > best_visible:
      best, best_mask, best_visible = other, mask, visible
    if visible >= _MIN_VISIBLE:
      break
  return best, best_mask


def _rgb(hue: float, saturation: float, value: float) -> tuple[float, ...]:
  """Returns the RGB values of a colour in HSV, all in [0, 1]."""
  shifted = (hue + np.array([0, 2 / 3, 1 / 3])) % 1
  pure = np.clip(np.abs(shifted * 6 - 3) - 1, 0, 1)
  return tuple((value * (1 - saturation * (1 - pure))).tolist())
