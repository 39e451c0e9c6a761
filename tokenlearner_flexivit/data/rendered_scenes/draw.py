"""Drawing a scene at a size in pixels."""

import cv2
import numpy as np

from . import shapes, textures
from .scene import BACKGROUNDS, Object, Scene

# Many processes draw at a time, so OpenCV's own threads would not help.
cv2.setNumThreads(0)

_SHADOW_SHIFT, _SHADOW_BLUR, _SHADOW_STRENGTH = 0.025, 0.02, 0.45


def draw(
  scene: Scene, side: int, noise_seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws a scene.

  Args:
    scene: what to draw.
    side: height and width in pixels.
    noise_seed: seed of the noise, which differs between sizes and frames.

  Returns:
    The image, uint8 [side, side, 3] RGB, and the instances, uint8
    [side, side]: 0 is background, i + 1 is objects[i].
  """
  position = ((np.arange(side) + 0.5) / side).astype(np.float32)
  canvas = _background(scene, position)
  instances = np.zeros((side, side), np.uint8)
  for i in reversed(range(len(scene.objects))):
    item = scene.objects[i]
    mask = shapes.mask(item.shape, item.centre, item.extent, item.angle, side)
    _shadow(canvas, mask, scene.light)
    _paint(canvas, mask, item, position)
    instances[mask > 127] = i + 1
  slope = np.cos(scene.light) * (position - 0.5)[None, :]
  slope = slope + np.sin(scene.light) * (position - 0.5)[:, None]
  canvas *= (1 - 2 * scene.light_strength * slope)[..., None]
  np.clip(canvas, 0, 1, out=canvas)
  cv2.pow(canvas, scene.gamma, canvas)
  noise = np.random.default_rng([noise_seed, side])
  canvas += noise.standard_normal(canvas.shape, np.float32) * np.float32(
    scene.noise
  )
  return cv2.convertScaleAbs(np.clip(canvas, 0, 1), alpha=255), instances


def _background(scene: Scene, position: np.ndarray) -> np.ndarray:
  """Returns the background, float32 [side, side, 3] in [0, 1]."""
  rng = np.random.default_rng(scene.background_seed)
  side = len(position)
  kind = BACKGROUNDS[scene.background]
  angle = rng.uniform(-np.pi, np.pi)
  x, y = _turned(position[None, :] - 0.5, position[:, None] - 0.5, angle)
  if kind == "plain":
    share = 0.5 + x
  elif kind == "clouds":
    share = 0.5 * np.ones((side, side), np.float32)
    for cells, height in ((4, 0.5), (8, 0.3), (16, 0.2)):
      grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
      share += height * cv2.resize(
        grid, (side, side), interpolation=cv2.INTER_CUBIC
      )
  else:
    # Lines between planks or tiles, which differ in brightness.
    width = rng.uniform(0.16, 0.26)
    columns = x / width + rng.random()
    rows = y / width + rng.random() if kind == "tiles" else 0 * y
    shades = rng.uniform(0, 1, (16, 16)).astype(np.float32)
    cell = (
      (np.floor(columns) % 16).astype(int),
      (np.floor(rows) % 16).astype(int),
    )
    share = shades[cell]
    gap = 0.012 / width
    line = np.minimum(columns % 1, 1 - columns % 1) < gap
    if kind == "tiles":
      line |= np.minimum(rows % 1, 1 - rows % 1) < gap
    share = np.where(line, -0.8, share)
  first, second = np.asarray(scene.background_colours, np.float32)
  share = np.asarray(share, np.float32)[..., None]
  return np.clip(first + share * (second - first), 0, 1)


def _turned(
  x: np.ndarray, y: np.ndarray, angle: float
) -> tuple[np.ndarray, np.ndarray]:
  """Returns coordinates along axes that are turned clockwise."""
  cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
  return x * cos + y * sin, y * cos - x * sin


def _shadow(canvas: np.ndarray, mask: np.ndarray, light: float) -> None:
  """Draws an object's shadow on the canvas, on the side away from the light."""
  side = len(canvas)
  shift = _SHADOW_SHIFT * side
  move = np.float32(
    [[1, 0, shift * np.cos(light)], [0, 1, shift * np.sin(light)]]
  )
  shadow = cv2.warpAffine(mask, move, (side, side))
  shadow = cv2.GaussianBlur(shadow, (0, 0), _SHADOW_BLUR * side)
  canvas *= 1 - shadow[..., None] * np.float32(_SHADOW_STRENGTH / 255)


def _paint(
  canvas: np.ndarray, mask: np.ndarray, item: Object, position: np.ndarray
) -> None:
  """Paints an object's texture on the canvas, inside of the mask."""
  left, top, width, height = cv2.boundingRect(mask)
  box = slice(top, top + height), slice(left, left + width)
  x, y = _turned(
    position[None, box[1]] - np.float32(item.centre[0]),
    position[box[0], None] - np.float32(item.centre[1]),
    item.texture_angle,
  )
  unit = np.float32(1 / item.wavelength)
  tones = textures.tones(
    item.texture,
    x * unit,
    y * unit,
    item.wavelength * len(canvas),
  )
  dark, light = np.float32(item.dark), np.float32(item.light)
  colour = dark + tones[..., None].astype(np.float32) * (light - dark)
  alpha = mask[box][..., None] * np.float32(1 / 255)
  canvas[box] += alpha * (colour - canvas[box])
