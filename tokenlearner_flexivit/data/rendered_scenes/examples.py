"""Examples: scenes with labels, as functions of seed, split and index."""

from typing import Any

import cv2
import numpy as np

from . import captions, draw, scene

_JPEG_QUALITY = 92


def image_example(
  side: int, seed: int, split: str, index: int
) -> dict[str, Any]:
  """Returns one example as plain values and encoded images.

  Args:
    side: height and width in pixels.
    seed: seed of the dataset.
    split: name of the split.
    index: number of the example in it.

  Returns:
    The features listed in README.md.
  """
  rng = scene.generator(seed, split, index)
  sampled = scene.sample(rng)
  image, instances = draw.draw(sampled, side, int(rng.integers(2**31)))
  shape_of_instance = np.zeros(256, np.uint8)
  for i, thing in enumerate(sampled.objects):
    shape_of_instance[i + 1] = thing.shape + 1
  return {
    "image": jpeg(image),
    **labels(sampled),
    "caption": captions.caption(sampled),
    "objects": [
      {
        "bbox": box(instances == i + 1),
        "shape": thing.shape,
        "texture": thing.texture,
        "colour": thing.colour,
        "scale": thing.scale,
      }
      for i, thing in enumerate(sampled.objects)
    ],
    "instances": _png(instances),
    "semantic": _png(shape_of_instance[instances]),
  }


def labels(sampled: scene.Scene) -> dict[str, int]:
  """Returns the labels of a scene, each a number."""
  main = sampled.objects[0]
  return {
    "label": main.texture,
    "shape": main.shape,
    "texture": main.texture,
    "colour": main.colour,
    "scale": main.scale,
    "size": sampled.size,
    "orientation": sampled.orientation,
    "background": sampled.background,
    "num_objects": len(sampled.objects),
  }


def jpeg(image: np.ndarray) -> bytes:
  """Encodes an RGB image, uint8 [H, W, 3], as JPEG."""
  quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
  return cv2.imencode(".jpg", image[..., ::-1], quality)[1].tobytes()


def _png(image: np.ndarray) -> bytes:
  return cv2.imencode(".png", image)[1].tobytes()


def box(mask: np.ndarray) -> np.ndarray:
  """Returns top, left, bottom and right of the mask as shares of the sides."""
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  top, bottom = rows[0] / len(mask), (rows[-1] + 1) / len(mask)
  left, right = columns[0] / len(mask), (columns[-1] + 1) / len(mask)
  return np.array([top, left, bottom, right], np.float32)
