"""Random preprocessing ops on the colours of images.

They leave masks and boxes alone, since no pixel moves.
"""

import cv2
import numpy as np

from tokenlearner_flexivit.data.ops.geometry import get_image
from tokenlearner_flexivit.data.preprocess import Example, register_op

_LEVELS = np.arange(256, dtype=np.float32)
_HUES = 180  # OpenCV's hues of uint8 images count two degrees.


def _check_distortion(
  brightness: float, contrast: float, saturation: float, hue: int
) -> None:
  if min(brightness, hue) < 0 or hue > _HUES // 2:
    raise ValueError(
      "brightness and hue go either way, so they must not be negative, and hue "
      f"is at most {_HUES // 2}, not {brightness}, {hue}"
    )
  if not (0 <= contrast <= 1 and 0 <= saturation <= 1):
    raise ValueError(
      "contrast and saturation change a factor of 1 either way, so they must "
      f"be in [0, 1], not {contrast}, {saturation}"
    )


@register_op(check=_check_distortion)
def photometric_distortion(
  example: Example,
  rng: np.random.Generator,
  brightness: float = 32,
  contrast: float = 0.5,
  saturation: float = 0.5,
  hue: int = 18,
  *,
  key: str = "image",
) -> Example:
  """Changes brightness, contrast, saturation and hue, each or not.

  This is the distortion of SSD (arXiv 1512.02325) as in mmsegmentation, with
  which Segmenter is trained. Each change happens with a probability of one
  half; contrast comes before or after saturation and hue.

  Args:
    example: has a uint8 image of three channels under `key`.
    rng: generator of the random numbers.
    brightness: largest grey levels that are added or taken away.
    contrast: values are multiplied by 1 - contrast to 1 + contrast.
    saturation: saturations are multiplied by 1 - saturation to 1 + saturation.
    hue: largest turn either way; 180 is the full circle.
    key: where the image is.

  Returns:
    The example with the image, uint8 of the same shape.
  """
  _check_distortion(brightness, contrast, saturation, hue)
  image = get_image(example, key)
  if image.dtype != np.uint8 or image.shape[-1] != 3:
    raise ValueError(
      f"{key!r} must be uint8 with 3 channels, not {image.dtype} with "
      f"{image.shape[-1]}: put this op behind decode and before value_range"
    )
  is_brighter, is_sharper, is_richer, is_turned, is_first = rng.random(5) < 0.5
  add, sharpen, enrich = rng.uniform(-1, 1, 3) * (
    brightness,
    contrast,
    saturation,
  )
  turn = int(rng.integers(-hue, hue, endpoint=True))
  contrasts = _table(1 + sharpen) if is_sharper else None
  if is_brighter:
    image = cv2.LUT(image, _table(1, add))
  if contrasts is not None and is_first:
    image = cv2.LUT(image, contrasts)
  if is_richer or is_turned:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hues = (_LEVELS + turn * is_turned) % _HUES
    saturations = _table(1 + enrich * is_richer)
    same = _LEVELS.astype(np.uint8)
    tables = np.stack([hues.astype(np.uint8), saturations, same], axis=-1)
    image = cv2.cvtColor(cv2.LUT(hsv, tables[:, None]), cv2.COLOR_HSV2RGB)
  if contrasts is not None and not is_first:
    image = cv2.LUT(image, contrasts)
  return {**example, key: image}


def _table(factor: float, add: float = 0) -> np.ndarray:
  """Returns the uint8 that each level becomes: factor * level + add."""
  return (_LEVELS * factor + add).clip(0, 255).astype(np.uint8)
