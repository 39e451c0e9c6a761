"""Random preprocessing ops on videos: scale and colours.

Each op draws once for a video, so that all its frames are changed alike. Both
ops are those of DeepMind's Video Readers
(https://github.com/google-deepmind/dmvr), with which ViViT was trained; their
docstrings name the differences.
"""

import cv2
import numpy as np

from tokenlearner_flexivit.data.ops.image import check_resize
from tokenlearner_flexivit.data.ops.resampling import resize_image
from tokenlearner_flexivit.data.preprocess import Example, register_op


def _check_scale_jitter(lo: float, hi: float, method: str) -> None:
  if not 0 < lo <= hi:
    raise ValueError(f"expected 0 < lo <= hi, got {lo}, {hi}")
  check_resize(None, method)


@register_op(check=_check_scale_jitter)
def video_scale_jitter(
  example: Example,
  rng: np.random.Generator,
  lo: float,
  hi: float,
  method: str = "bilinear",
  *,
  key: str = "video",
) -> Example:
  """Magnifies height and width by one factor each, uniform in [lo, hi].

  Put `random_crop` behind this op. ViViT uses 0.9 to 1.33 between frames of 256
  pixels and crops of 224.

  Args:
    example: has a decoded video under `key`.
    rng: generator of the random numbers.
    lo: least factor.
    hi: greatest factor.
    method: nearest, bilinear, bicubic or area; see `resize`.
    key: where the video is.

  Returns:
    The example with the video, of the same dtype.
  """
  _check_scale_jitter(lo, hi, method)
  video = _get_video(example, key)
  _, height, width, _ = video.shape
  down, across = rng.uniform(lo, hi, size=2).tolist()
  height = max(1, round(height * down))
  width = max(1, round(width * across))
  frames = [resize_image(frame, height, width, method) for frame in video]
  return {**example, key: np.stack(frames)}


def _check_colour_jitter(
  probability: float,
  to_grey: float,
  brightness: float,
  contrast: float,
  saturation: float,
  hue: float,
) -> None:
  if not (0 <= probability <= 1 and 0 <= to_grey <= 1):
    raise ValueError(
      f"probability and to_grey must be in [0, 1], not {probability}, {to_grey}"
    )
  for name, value in (
    ("brightness", brightness),
    ("contrast", contrast),
    ("saturation", saturation),
    ("hue", hue),
  ):
    if value < 0:
      raise ValueError(f"{name} goes either way, so it is from 0 on: {value}")


@register_op(check=_check_colour_jitter)
def video_colour_jitter(
  example: Example,
  rng: np.random.Generator,
  probability: float = 0.8,
  to_grey: float = 0.1,
  brightness: float = 32 / 255,
  contrast: float = 0.4,
  saturation: float = 0.4,
  hue: float = 0.2,
  *,
  key: str = "video",
) -> Example:
  """Changes brightness, contrast, saturation and hue, and may drop colours.

  All draws are uniform; the defaults are ViViT's on Kinetics. Brightness and
  contrast come first, then saturation and hue in one step, whereas DMVR changes
  saturation before contrast. Contrast is about the mean of each channel over
  the whole video, whereas DMVR uses the mean of each frame.

  Args:
    example: has a decoded video of uint8 and three channels under `key`.
    rng: generator of the random numbers.
    probability: probability of changing brightness, contrast, saturation and
      hue.
    to_grey: probability of dropping the colours, drawn independently.
    brightness: largest change either way, as a fraction of the range.
    contrast: distances from the mean are multiplied by 1 - contrast to
      1 + contrast.
    saturation: saturations are multiplied by 1 - saturation to 1 + saturation.
    hue: largest turn either way, as a fraction of the full circle.
    key: where the video is.

  Returns:
    The example with the video, uint8 of the same shape.
  """
  _check_colour_jitter(
    probability, to_grey, brightness, contrast, saturation, hue
  )
  video = _get_video(example, key)
  if video.dtype != np.uint8 or video.shape[-1] != 3:
    raise ValueError(
      f"{key!r} must be uint8 with 3 channels, not {video.dtype} with "
      f"{video.shape[-1]}: put this op before value_range"
    )
  coins = rng.random(2)
  draws = rng.uniform(-1, 1, size=4) * (brightness, contrast, saturation, hue)
  if coins[0] < probability:
    video = _change(video, *draws.tolist())
  if coins[1] < to_grey:
    # OpenCV converts images, so the frames are joined into a tall one.
    tall = video.reshape(-1, *video.shape[2:])
    grey = cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY)[..., None]
    video = np.repeat(grey, 3, axis=-1).reshape(video.shape)
  return {**example, key: video}


def _change(
  video: np.ndarray,
  brightness: float,
  contrast: float,
  saturation: float,
  hue: float,
) -> np.ndarray:
  """Returns the uint8 video with changed colours; 0 changes nothing."""
  mean = video.mean(axis=(0, 1, 2), dtype=np.float64) / 255 + brightness
  # Equal values of a channel have equal results, so a table of 256 suffices.
  levels = np.arange(256)[:, None] / 255 + brightness
  levels = ((levels - mean) * (1 + contrast) + mean).clip(0, 1)
  table = levels.astype(np.float32)
  changed = np.empty(video.shape, np.uint8)
  for before, after in zip(video, changed, strict=True):
    frame = np.stack([table[before[..., c], c] for c in range(3)], axis=-1)
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)  # Hue in [0, 360).
    hsv[..., 0] = (hsv[..., 0] + 360 * hue) % 360
    hsv[..., 1] = (hsv[..., 1] * (1 + saturation)).clip(0, 1)
    frame = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    after[...] = (frame * 255).round().clip(0, 255)
  return changed


def _get_video(example: Example, key: str) -> np.ndarray:
  """Returns the video [T, H, W, C] under `key`, or raises ValueError."""
  video = example.get(key)
  if np.ndim(video) != 4:
    raise ValueError(
      f"{key!r} is no video [T, H, W, C] but of shape {np.shape(video)}: put "
      "decode_video before this op, and this one before temporal_views"
    )
  return video
