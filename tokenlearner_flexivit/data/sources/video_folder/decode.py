"""Decoding video files to JPEGs of frames evenly spaced in time, with PyAV."""

import collections
import contextlib
import fractions
import itertools
import os
from collections.abc import Iterator

import cv2
import numpy as np

EXTENSIONS = (
  ".3gp",
  ".avi",
  ".flv",
  ".gif",
  ".m2ts",
  ".m4v",
  ".mkv",
  ".mov",
  ".mp4",
  ".mpeg",
  ".mpg",
  ".mts",
  ".ogv",
  ".ts",
  ".webm",
  ".wmv",
)
# FFmpeg's names of formats with an index. Seeking in others goes by time, and
# may end at a frame with a wrong time or one that cannot be decoded by itself.
_INDEXED = {"mov", "matroska"}
JPEG_QUALITY = 90
_MAX_SIDE = 65_500  # OpenCV writes no larger JPEGs.
FPS_RANGE = (0.001, 1000)
# Some formats round times to milliseconds, so a frame may seem to be shown a
# little late.
_ROUNDING = fractions.Fraction(2, 1000)  # s
# A wrong time, hours ahead, would make a file of a few frames hundreds of
# thousands.
_MAX_HELD = 60  # s
_MEND = "ffmpeg -i FILE -vf setpts=N/25/TB -r 25 NEW.mp4 makes it 25 a second"


def iter_jpegs(
  path: str | os.PathLike,
  fps: float,
  size: int,
  start: float = 0,
  end: float | None = None,
) -> Iterator[bytes]:
  """Yields the frames that are shown at `start`, `start` + 1 / `fps`, ...

  Times are those of the file, counted from its first frame: a frame is shown
  until the next frame, whether or not their rate is constant. So frames are
  repeated where the file has fewer than `fps` and left out where it has more.
  AVI has the order of the frames instead of times. Decoding begins shortly
  before `start` in MP4, MOV, MKV and WebM, with the first frame in all others.
  Only a few frames are in memory, however long the video is.

  If a file has several videos, the one that players show by default is read.
  Cover pictures do not count as videos.

  Frames are turned by the file's rotation, rounded to right angles: phones
  store upright videos on their side. Mirroring and the aspect ratio of pixels
  are ignored. Frames larger than `size` are reduced by area so that the smaller
  side is `size`. If frames change their size, all get the size of the first. A
  truncated file is read up to its end if its format allows this.

  Args:
    path: the file.
    fps: frames per second of the result, 0.001 to 1000.
    size: greatest smaller side of the result, in pixels.
    start: start in seconds.
    end: end in seconds, or None for the end of the file; it may be beyond that.

  Yields:
    The frames in RGB as JPEGs, at least one; a repeated frame is the same
    object again.

  Raises:
    ValueError: the file is not a video or a damaged one, has no times, times
      that go back or gaps of more than 60 s, or no frames in the interval; or
      `fps` is out of its range.
    OSError: the file cannot be read.
    ImportError: PyAV is not installed.
  """
  if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
    low, high = FPS_RANGE
    raise ValueError(f"fps={fps} must be from {low} to {high}")
  rate = fractions.Fraction(fps).limit_denominator(1001)
  shape = None
  last, jpeg = None, b""
  for frame in _shown(path, rate, start, end):
    if frame is not last:
      pixels = _upright(frame.to_ndarray(format="bgr24"), frame.rotation)
      if shape is None:
        shape = _reduced(*pixels.shape[:2], size)
      last, jpeg = frame, _encode(pixels, shape)
    yield jpeg
  if last is None:
    until = "its end" if end is None else f"{end} s"
    raise ValueError(f"the file has no frames from {start} s to {until}")


def read_jpegs(
  path: str | os.PathLike, fps: float, size: int, **times: float | None
) -> list[bytes]:
  """Returns the frames that `iter_jpegs` yields of a short video, in memory."""
  return list(iter_jpegs(path, fps, size, **times))


def _upright(pixels: np.ndarray, angle: float) -> np.ndarray:
  """Returns a frame turned counterclockwise; the angle is in degrees."""
  return np.ascontiguousarray(np.rot90(pixels, round(angle / 90)))


def _reduced(height: int, width: int, size: int) -> tuple[int, int]:
  """Returns height and width with a smaller side of at most `size`."""
  ratio = min(1, size / min(height, width))
  return max(1, round(height * ratio)), max(1, round(width * ratio))


def _encode(pixels: np.ndarray, shape: tuple[int, int]) -> bytes:
  if max(shape) > _MAX_SIDE:
    raise ValueError(
      f"its frames of {shape[0]} x {shape[1]} pixels are larger than "
      f"{_MAX_SIDE} on a side, which no JPEG can be"
    )
  if pixels.shape[:2] != shape:
    pixels = cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA)
  quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
  return cv2.imencode(".jpg", pixels, quality)[1].tobytes()


def _shown(
  path: str | os.PathLike,
  rate: fractions.Fraction,
  start: float,
  end: float | None,
) -> Iterator:
  """Yields the frame shown at each time, the same object while it stays."""
  start = fractions.Fraction(start).limit_denominator(10**6)
  end = None if end is None else fractions.Fraction(end)
  count, previous = 0, None
  with contextlib.closing(_frames(path, start)) as frames:
    for time, frame in frames:
      if previous:
        _check_times(previous[0], time, start, end)
      # The frame before is shown until this one comes.
      while previous and start + count / rate + _ROUNDING < time:
        if end is not None and start + count / rate + _ROUNDING >= end:
          return
        yield previous[1]
        count += 1
      previous = time, frame
  if not previous:
    return
  time, frame = previous
  stop = time + _duration(frame)
  _check_times(time, stop, start, end)
  if end is not None:
    stop = min(stop, end)
  while start + count / rate + _ROUNDING < stop:
    yield frame
    count += 1


def _check_times(
  time: fractions.Fraction,
  following: fractions.Fraction,
  start: fractions.Fraction,
  end: fractions.Fraction | None,
) -> None:
  """Raises ValueError if the time between two frames is wrong or too long."""
  if following < time - _ROUNDING:
    raise ValueError(
      f"the times of the frames go back, from {float(time):g} s to "
      f"{float(following):g} s; {_MEND}"
    )
  until = following if end is None else min(following, end)
  if until - max(time, start) > _MAX_HELD:
    raise ValueError(
      f"the frame at {float(time):g} s is followed by none until "
      f"{float(following):g} s, and one is held for at most {_MAX_HELD} s. "
      "Leave that part out, by start and end in a CSV file, or mend the times: "
      f"{_MEND}"
    )


def _duration(frame) -> fractions.Fraction:
  """Returns the seconds for which the last frame of a file is shown."""
  return (frame.duration or 0) * frame.time_base or _ROUNDING * 2


def _frames(
  path: str | os.PathLike, start: fractions.Fraction
) -> Iterator[tuple[fractions.Fraction, object]]:
  """Yields the time in seconds and the frame, from the one shown at `start`.

  A few earlier ones may come first.
  """
  if start:
    with contextlib.closing(_decoded(path, start)) as frames:
      try:
        first = next(frames, None)
      except ValueError:  # The frame may need frames before it.
        first = None
      if first and first[0] <= start and first[1].key_frame:
        yield first
        yield from frames
        return
  # The file is opened anew if its index is missing or wrong, because seeking
  # back to the beginning needs the index, too.
  with contextlib.closing(_decoded(path)) as frames:
    yield from frames


def _decoded(
  path: str | os.PathLike, start: fractions.Fraction | None = None
) -> Iterator[tuple[fractions.Fraction, object]]:
  """Yields the time in seconds since the file's first frame, and the frame.

  Args:
    path: the file.
    start: seconds. In a file with an index, decoding begins at the last frame
      before `start` that can be decoded by itself; None decodes all.
  """
  try:
    import av
  except ImportError:
    raise ImportError(
      "Reading video files needs PyAV: pip install 'tokenlearner_flexivit"
      "[video]' or pip install av."
    ) from None
  if os.path.isdir(path):
    raise ValueError("this is a folder. Give the videos in it")
  if not os.path.getsize(path):  # Also raises OSError if there is no file.
    raise ValueError("the file is empty")
  count = 0
  try:
    # FFmpeg reads text before a colon as a protocol, such as http, but not in
    # an absolute path. Titles may be in any encoding.
    name = os.path.abspath(path)
    with av.open(name, metadata_errors="replace") as container:
      stream = _video_stream(container, av.stream.Disposition)
      if stream.codec_context is None:
        raise ValueError("FFmpeg does not know how the file's video is coded")
      # `FrameStore` decodes many files at a time.
      stream.codec_context.thread_count = 1
      names = set(container.format.name.split(","))
      timed = _by_order if "avi" in names else _by_times
      frames = timed(container, stream)
      first = next(frames, None)
      if first is None:
        return
      origin = first[0]
      if start is None or not names & _INDEXED:
        frames = itertools.chain([first], frames)
      else:
        container.seek(int((start + origin) / stream.time_base), stream=stream)
        frames = timed(container, stream)
      for time, frame in frames:
        count += 1
        yield time - origin, frame
  except av.error.FFmpegError as error:
    after = f" after {count} frames" if count else ""
    raise ValueError(
      f"the file cannot be decoded{after}, it is damaged or no video: "
      f"{error.strerror}"
    ) from error


def _video_stream(container, disposition):
  """Returns the video that players show by default.

  Args:
    container: the opened file.
    disposition: PyAV's flags of streams.

  Raises:
    ValueError: the file has no video.
  """
  # FFmpeg counts the cover picture, which taggers add, as a video.
  pictures = disposition.attached_pic | disposition.timed_thumbnails
  videos = [
    stream
    for stream in container.streams.video
    if not stream.disposition & pictures
  ]
  if not videos:
    content = (
      "nothing to see but a cover picture"
      if container.streams.video
      else "no video"
    )
    raise ValueError(f"the file has {content}, or it is cut off")
  best = container.streams.best("video")
  indices = [stream.index for stream in videos]
  return best if best.index in indices else videos[0]


def _by_times(container, stream) -> Iterator[tuple[fractions.Fraction, object]]:
  """Yields the frames in the order in which they are shown, with their times.

  Raises:
    ValueError: a frame has no time.
  """
  for frame in container.decode(stream):
    if frame.pts is None:
      raise ValueError(
        "the frames have no times; put them into a file that has, with "
        "ffmpeg -framerate 25 -i FILE NEW.mp4"
      )
    yield frame.pts * frame.time_base, frame


def _by_order(container, stream) -> Iterator[tuple[fractions.Fraction, object]]:
  """Yields the frames of an AVI file with their times, from the first frame on.

  In AVI the time of a frame is that of its decoding. If frames depend on later
  ones, this is another order, so times are assigned in the order of the frames.
  """
  times = collections.deque()
  for packet in container.demux(stream):
    if packet.size and packet.dts is not None:
      times.append(packet.dts * stream.time_base)
    for frame in packet.decode():
      if not times:
        raise ValueError(
          "the file has more frames than times; put them into another format, "
          "with ffmpeg -i FILE NEW.mp4"
        )
      yield times.popleft(), frame
