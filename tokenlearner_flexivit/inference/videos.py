"""Preprocessing of users' videos to the videos that a model was trained on."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.data.ops import decode as decode_ops
from tokenlearner_flexivit.data.sources.video_folder import decode as video_file
from tokenlearner_flexivit.data.sources.video_folder import (
  frames as frame_store,
)
from tokenlearner_flexivit.inference import images

EXTENSIONS = video_file.EXTENSIONS
_PATHS = (str, os.PathLike)


def listed(videos: Any) -> list[Any]:
  """Returns a list of videos, from a single video, an iterable or a batch.

  Args:
    videos: one that `Preparation` takes, several of them in any iterable, or a
      batch as an array [B, T, H, W, C].

  Raises:
    ValueError: there is no video.
  """
  if isinstance(videos, jax.Array):
    videos = np.asarray(videos)
  if isinstance(videos, np.ndarray) and videos.dtype.kind in "UO":
    videos = videos.ravel().tolist()  # Paths, or videos of several sizes.
  is_batch = isinstance(videos, np.ndarray) and videos.ndim == 5
  if isinstance(videos, (*_PATHS, np.ndarray)) and not is_batch:
    return [videos]
  if not isinstance(videos, Iterable) or isinstance(videos, bytes):
    raise ValueError(f"{_no_video(videos)} A list of such is fine, too.")
  videos = list(videos)
  if not videos:
    raise ValueError("There is no video. Give at least one.")
  return videos


def _no_video(value: Any) -> str:
  return (
    f"{type(value).__name__} is no video. Give a path, or a uint8 array [T, H, "
    "W, C] of frames."
  )


class _Fitted(Sequence[bytes]):
  """A list of frames that are resized and cropped on access, as PNG."""

  def __init__(self, frames: Sequence[bytes], size: tuple[int, int]):
    self._frames, self._size = frames, size

  def __len__(self) -> int:
    return len(self._frames)

  def __getitem__(self, index: int) -> bytes:
    # The frames of a video are decoded in the same way.
    pixels = decode_ops.decode_bytes(self._frames[index], 3, exif=False)
    images.check_aspect(pixels, self._size)
    png = io.BytesIO()
    fitted = Image.fromarray(images.fit(pixels, *self._size))
    fitted.save(png, "PNG", compress_level=1)
    return png.getvalue()


class Preparation:
  """A preparation of videos as model inputs, by an evaluation's preprocessing.

  Frames of a size that does not suit the preprocessing are first brought to the
  model's size, as `images.Preparation` does with images.

  Attributes:
    shape: of a prepared video, [T, H, W, C], or [views, T, H, W, C].
  """

  def __init__(
    self, pp: str, view_shape: tuple[int, ...], fps: float, size: int
  ):
    """Parses the preprocessing.

    Args:
      pp: the preprocessing string.
      view_shape: (T, H, W, C) of the model's input.
      fps: frames per second of the data that it was trained on.
      size: the largest shorter side of their frames, in pixels.

    Raises:
      ValueError: an invalid preprocessing.
    """
    self._preprocess = data_lib.parse(pp).only("video")
    self._fps, self._size = fps, size
    self.shape = self._apply(np.zeros(view_shape, np.uint8)).shape

  listed = staticmethod(listed)

  def __call__(self, video: Any) -> np.ndarray:
    """Returns one video as float32, of `shape`.

    Args:
      video: a path of a file that FFmpeg reads, whose frames are taken at the
        rate and size of the training's data; or such frames, as a uint8 array
        [T, H, W, 1 or 3] of NumPy or JAX.

    Raises:
      ValueError, OSError: it cannot be read or preprocessed.
      ImportError: PyAV is not installed.
    """
    if isinstance(video, _PATHS):
      path = pathlib.Path(video).expanduser()
      with frame_store.stored(path, self._fps, self._size) as frames:
        prepared = self._suited(frames)
    elif isinstance(video, np.ndarray | jax.Array):
      frames = np.asarray(video)
      if frames.dtype != np.uint8:
        raise ValueError(f"the array is {frames.dtype}, not uint8")
      prepared = self._suited(frames)
    else:
      raise ValueError(_no_video(video))
    if prepared.shape != self.shape:
      raise ValueError(
        f"the preprocessing {self._preprocess.text!r} gives "
        f"{list(prepared.shape)} where the model takes {list(self.shape)}"
      )
    return prepared.astype(np.float32)

  def _suited(self, frames: Any) -> np.ndarray:
    """Returns preprocessed frames, resized first if the size is unsuitable."""
    with contextlib.suppress(ValueError):
      prepared = self._apply(frames)
      if prepared.shape == self.shape:
        return prepared
    size = self.shape[-3:-1]
    if not isinstance(frames, np.ndarray):
      frames = _Fitted(frames, size)
    elif frames.ndim == 4 and 0 not in frames.shape:
      images.check_aspect(frames[0], size)
      frames = np.stack([images.fit(frame, *size) for frame in frames])
    return self._apply(frames)

  def _apply(self, frames: Any) -> np.ndarray:
    example = {**images.STAND_INS, "video": frames}
    # Random ops draw the same numbers for each video.
    return self._preprocess(example, np.random.default_rng(0))["video"]
