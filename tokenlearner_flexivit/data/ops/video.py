"""Preprocessing ops that decode videos and take clips from them.

A video is, under `key`, a sequence of encoded frames (in memory or, as
`StoredFrames`, in a file) or an array [T, H, W, C], and an array after
`decode_video`. With this key, the ops `resize`, `resize_small`, `central_crop`,
`random_crop`, `inception_crop`, `flip_lr`, `value_range` and `standardize`
change all its frames alike.

A clip is `num_frames` frames of a video, `stride` frames apart. A shorter video
is repeated as often as needed, as in DeepMind's Video Readers, with which ViViT
was trained.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tokenlearner_flexivit.data.ops import decode as decode_ops
from tokenlearner_flexivit.data.ops import image as image_ops
from tokenlearner_flexivit.data.preprocess import (
  Example,
  register_op,
  register_stand_in,
)
from tokenlearner_flexivit.data.sources.video_folder.frames import StoredFrames

# Only a film read by mistake is larger; ViViT's views are less than 100 MB.
_MAX_BYTES = 4 * 10**9


class UndecodedVideo:
  """Encoded frames that are decoded when they are taken."""

  def __init__(self, frames: Sequence[bytes], channels: int):
    """Keeps the frames.

    Args:
      frames: encoded images in the order of time.
      channels: channels of the decoded images, 1 or 3.
    """
    self._frames, self._channels = frames, channels

  def __len__(self) -> int:
    return len(self._frames)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the frames at some positions, each decoded once.

    Args:
      indices: positions, integers of any shape.

    Returns:
      The frames, uint8 [*indices.shape, H, W, channels].

    Raises:
      ValueError: a frame cannot be decoded, or they differ in size.
    """
    wanted, places = np.unique(indices, return_inverse=True)
    decoded = None
    encoded = self._take(wanted.tolist())
    for i, (position, data) in enumerate(zip(wanted, encoded, strict=True)):
      frame = self._decode(position, data)
      if decoded is None:
        _check_size(len(wanted), frame)
        decoded = np.empty((len(wanted), *frame.shape), np.uint8)
      if frame.shape != decoded.shape[1:]:
        raise ValueError(
          f"frame {position} has the shape {frame.shape}, frame "
          f"{wanted[0]} {decoded.shape[1:]}: all frames of a video must have "
          "one size"
        )
      decoded[i] = frame
    if np.array_equal(indices, wanted):
      return decoded  # Usually each position is there once, in order: no copy.
    return decoded[places.reshape(np.shape(indices))]

  def _take(self, positions: Sequence[int]) -> Iterator[bytes]:
    if isinstance(self._frames, StoredFrames):
      return self._frames.take(positions)
    return (self._frames[position] for position in positions)

  def _decode(self, position: int, data: bytes) -> np.ndarray:
    try:
      # TFDS returns `object` arrays of bytes, and np.bytes_ is not plain bytes.
      return decode_ops.decode_bytes(bytes(data), self._channels, exif=False)
    except ValueError as error:
      raise ValueError(f"frame {position}: {error}") from None


def _check_channels(channels: int) -> None:
  if channels not in (1, 3):
    raise ValueError(f"channels must be 1 or 3, not {channels}")


def _check_size(count: int, frame: np.ndarray) -> None:
  """Raises ValueError if `count` such frames would fill the memory."""
  if count * frame.nbytes > _MAX_BYTES:
    raise ValueError(
      f"{count} frames of {frame.shape[0]} x {frame.shape[1]} pixels are "
      f"{count * frame.nbytes / 1e9:.1f} GB, and at most "
      f"{_MAX_BYTES / 1e9:.0f} GB are decoded. Put an op that takes some of "
      "them right after decode_video, such as temporal_crop"
    )


@register_op(check=_check_channels)
def decode_video(
  example: Example, channels: int = 3, *, key: str = "video"
) -> Example:
  """Decodes a video.

  Right before `temporal_crop`, `temporal_central_crop` or `temporal_views`,
  only the frames that these take are decoded.

  Args:
    example: has under `key` a sequence of encoded images (bytes: JPEG, PNG),
      or a video decoded already (uint8 [T, H, W, 1 or 3]).
    channels: 3 for RGB, where grey is repeated, or 1 for grey.
    key: where the video is.

  Returns:
    The example with a uint8 [T, H, W, channels] under `key`.

  Raises:
    ValueError: there are no frames, a frame cannot be decoded, they differ in
      size, or the array is not a video.
  """
  video = decode_when_taken(example, channels, key=key)[key]
  if isinstance(video, UndecodedVideo):
    video = video[np.arange(len(video))]
  return {**example, key: video}


def decode_when_taken(
  example: Example, channels: int = 3, *, key: str = "video"
) -> Example:
  """Replaces `decode_video` before an op that takes some frames.

  Args:
    example: has a video under `key`.
    channels: 3 for RGB, or 1 for grey.
    key: where the video is.

  Returns:
    The example with an `UndecodedVideo` under `key`, or with the array if the
    video is decoded already.
  """
  _check_channels(channels)
  if key not in example:
    raise ValueError(f"the example has no {key!r}; it has {sorted(example)}")
  video = example[key]
  if isinstance(video, bytes):
    raise ValueError(
      f"{key!r} is bytes, not a list of encoded frames: is it an image, for "
      "which there is the op decode?"
    )
  if not hasattr(video, "__len__"):
    raise ValueError(
      f"{key!r} is of the type {type(video).__name__}. A video is a list of "
      "encoded frames, or a uint8 array [T, H, W, C]"
    )
  if not len(video):
    raise ValueError("the video has no frames")
  if isinstance(video, np.ndarray) and video.dtype == np.uint8:
    if video.ndim != 4 or video.shape[-1] not in (1, 3):
      raise ValueError(f"an array of shape {video.shape} is not a video")
    if video.shape[-1] != channels:
      frames = [
        decode_ops.decode({"image": frame}, channels)["image"]
        for frame in video
      ]
      video = np.stack(frames)
  elif isinstance(video, StoredFrames) or all(
    isinstance(frame, bytes) for frame in video
  ):
    video = UndecodedVideo(video, channels)
  else:
    raise ValueError(
      f"{key!r} is neither encoded frames nor a video of uint8, but "
      f"{type(video).__name__} of {type(video[0]).__name__}"
    )
  return {**example, key: video}


def _check_clip(num_frames: int, stride: int) -> None:
  if num_frames < 1 or stride < 1:
    raise ValueError(
      f"num_frames and stride must be at least 1, not {num_frames}, {stride}"
    )


def _check_temporal_views(num_frames: int, stride: int, views: int) -> None:
  _check_clip(num_frames, stride)
  if views < 1:
    raise ValueError(f"views must be at least 1, not {views}")


@register_op(check=_check_clip, moves=True)
def temporal_crop(
  example: Example,
  rng: np.random.Generator,
  num_frames: int,
  stride: int = 1,
  *,
  key: str = "video",
) -> Example:
  """Takes a clip that begins at a frame drawn uniformly, for training.

  The clip may begin wherever it does not run over the end of the video; in a
  video that is too short, it begins at the first frame.

  Args:
    example: has a video under `key`.
    rng: generator of the random numbers.
    num_frames: frames of the clip.
    stride: distance between them in frames.
    key: where the video is.

  Returns:
    The example with the clip [num_frames, H, W, C].
  """
  video = _video(example, key)
  start = int(
    rng.integers(_last_start(video, num_frames, stride), endpoint=True)
  )
  return {**example, key: video[_clip(video, start, num_frames, stride)]}


@register_op(check=_check_clip, moves=True)
def temporal_central_crop(
  example: Example, num_frames: int, stride: int = 1, *, key: str = "video"
) -> Example:
  """Takes the clip in the middle of the video, for evaluation with one view.

  Args:
    example: has a video under `key`.
    num_frames: frames of the clip.
    stride: distance between them in frames.
    key: where the video is.

  Returns:
    The example with the clip [num_frames, H, W, C].
  """
  video = _video(example, key)
  start = _last_start(video, num_frames, stride) // 2
  return {**example, key: video[_clip(video, start, num_frames, stride)]}


@register_op(check=_check_temporal_views, moves=True)
def temporal_views(
  example: Example,
  num_frames: int,
  stride: int = 1,
  views: int = 4,
  *,
  key: str = "video",
) -> Example:
  """Takes clips spread evenly over the video, for evaluation with many views.

  The first clip begins with the first frame and the last clip ends with the
  last; a single clip is in the middle. Frames that clips share are decoded
  once.

  Args:
    example: has a video under `key`.
    num_frames: frames of a clip.
    stride: distance between them in frames.
    views: number of clips.
    key: where the video is.

  Returns:
    The example with the clips [views, num_frames, H, W, C].
  """
  _check_temporal_views(num_frames, stride, views)
  video = _video(example, key)
  last = _last_start(video, num_frames, stride)
  starts = np.linspace(0, last, views).round() if views > 1 else [last // 2]
  clips = [_clip(video, int(start), num_frames, stride) for start in starts]
  return {**example, key: video[np.stack(clips)]}


def _check_spatial_views(size: int | tuple | list, crops: int) -> None:
  image_ops.check_size(size)
  if crops < 1:
    raise ValueError(f"crops must be at least 1, not {crops}")


@register_op(check=_check_spatial_views, moves=True)
def spatial_views(
  example: Example,
  size: int | tuple | list,
  crops: int = 3,
  *,
  key: str = "video",
) -> Example:
  """Cuts crops spread evenly along the longer side, for many views.

  Three crops are left, middle and right, or upper, middle and lower; a single
  crop is in the middle. Across the shorter side all crops are in the middle.

  Args:
    example: has under `key` a video, or its views [views, T, H, W, C].
    size: side of the crops, or (height, width).
    crops: number of crops.
    key: where the video is.

  Returns:
    The example with [views * crops, T, height, width, C], the crops of the
    first view first.

  Raises:
    ValueError: the frames are smaller than `size`.
  """
  _check_spatial_views(size, crops)
  video = _video(example, key)
  if isinstance(video, UndecodedVideo) or video.ndim not in (4, 5):
    raise ValueError(
      f"{key!r} is no decoded video [T, H, W, C], nor views of one"
    )
  views = video if video.ndim == 5 else video[None]
  height, width = image_ops.height_width(size)
  down, right = views.shape[2] - height, views.shape[3] - width
  if min(down, right) < 0:
    raise ValueError(
      f"the frames have only {views.shape[2]} x {views.shape[3]} pixels: put "
      "resize_small before this op"
    )
  places = np.linspace(0, 1, crops) if crops > 1 else np.array([0.5])
  middle = np.full(crops, 0.5)
  is_wide = views.shape[3] >= views.shape[2]
  tops = (down * (middle if is_wide else places)).astype(int)
  lefts = (right * (places if is_wide else middle)).astype(int)
  cut = [
    views[:, :, top : top + height, left : left + width]
    for top, left in zip(tops, lefts, strict=True)
  ]
  stacked = np.stack(cut, axis=1)
  return {**example, key: stacked.reshape(-1, *stacked.shape[2:])}


for _taker in (temporal_crop, temporal_central_crop, temporal_views):
  register_stand_in(decode_video, decode_when_taken, before=_taker)


def _video(example: Example, key: str) -> np.ndarray | UndecodedVideo:
  """Returns the video under `key`, or raises ValueError without one."""
  if key not in example:
    raise ValueError(f"the example has no {key!r}; it has {sorted(example)}")
  video = example[key]
  if isinstance(video, UndecodedVideo):
    return video
  shape = (len(video),) if isinstance(video, StoredFrames) else np.shape(video)
  if len(shape) < 4:
    raise ValueError(
      f"{key!r} has shape {shape} instead of [T, H, W, C]: put "
      "decode_video before this op"
    )
  return video


def _last_start(
  video: np.ndarray | UndecodedVideo, num_frames: int, stride: int
) -> int:
  """Returns the position of the last frame at which a clip may begin."""
  _check_clip(num_frames, stride)
  return max(0, len(video) - (num_frames - 1) * stride - 1)


def _clip(
  video: np.ndarray | UndecodedVideo, start: int, num_frames: int, stride: int
) -> np.ndarray:
  """Returns the positions of a clip's frames."""
  return (start + stride * np.arange(num_frames)) % len(video)
