"""Video files as JPEGs of their frames, evenly spaced in time; by PyAV."""

import contextlib
import fractions
import itertools
import os
from collections.abc import Iterator

import cv2
import numpy as np

EXTENSIONS = (
  ".avi",
  ".flv",
  ".m4v",
  ".mkv",
  ".mov",
  ".mp4",
  ".mpeg",
  ".mpg",
  ".ts",
  ".webm",
  ".wmv",
)
JPEG_QUALITY = 90
# Some formats round times to milliseconds, and so a frame may seem to be shown
# a little after the time that it is for.
_ROUNDING = fractions.Fraction(2, 1000)  # s


def read_jpegs(
  path: str | os.PathLike,
  fps: float,
  size: int,
  start: float = 0,
  end: float | None = None,
) -> list[bytes]:
  """Reads the frames that are shown at `start`, `start` + 1 / `fps`, ...

  Times are those of the file, counted from its first frame: a frame stays until
  the next one comes, whether or not they come at a constant rate. So frames are
  repeated where the file has fewer than `fps` and left out where it has more.

  Frames larger than `size` are reduced by area so that the smaller side is
  `size`. If frames change their size on the way, all get that of the first. A
  rotation or a pixel's aspect ratio that the file asks for is ignored. A file
  that is cut off counts up to there if its format allows to decode that.

  Args:
    path: the file.
    fps: frames per second of the result.
    size: greatest smaller side of the result, in pixels.
    start: seconds.
    end: seconds, or None for the end of the file; what is beyond that is no
      error.

  Returns:
    The frames in RGB as JPEGs, at least one.

  Raises:
    ValueError: the file is no video or a damaged one, has no times, or has no
      frames in the interval.
    OSError: the file cannot be read.
    ImportError: PyAV is not installed.
  """
  rate = fractions.Fraction(fps).limit_denominator(1001)
  shape = None
  jpegs = []
  last, last_jpeg = None, b""
  for frame in _shown(path, rate, start, end):
    if frame is not last:
      pixels = frame.to_ndarray(format="bgr24")
      if shape is None:
        shape = _reduced(*pixels.shape[:2], size)
      last, last_jpeg = frame, _encode(pixels, shape)
    jpegs.append(last_jpeg)
  if not jpegs:
    until = "its end" if end is None else f"{end} s"
    raise ValueError(f"the file has no frames from {start} s to {until}")
  return jpegs


def _reduced(height: int, width: int, size: int) -> tuple[int, int]:
  """Returns height and width with a smaller side of at most `size`."""
  ratio = min(1, size / min(height, width))
  return max(1, round(height * ratio)), max(1, round(width * ratio))


def _encode(pixels: np.ndarray, shape: tuple[int, int]) -> bytes:
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
  """Yields the frame shown at each time, the same object again if it stays."""
  start = fractions.Fraction(start).limit_denominator(10**6)
  count, previous = 0, None
  with contextlib.closing(_frames(path, start)) as frames:
    for time, frame in frames:
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
  if end is not None:
    stop = min(stop, fractions.Fraction(end))
  while start + count / rate + _ROUNDING < stop:
    yield frame
    count += 1


def _duration(frame) -> fractions.Fraction:
  """Returns for how many seconds the last frame of a file is shown."""
  return (frame.duration or 0) * frame.time_base or _ROUNDING * 2


def _frames(
  path: str | os.PathLike, start: fractions.Fraction
) -> Iterator[tuple[fractions.Fraction, object]]:
  """Yields the time in seconds and the frame, from the one shown at `start`.

  A few earlier ones may come first.
  """
  try:
    import av
  except ImportError:
    raise ImportError(
      "Reading video files needs PyAV: pip install 'tokenlearner_flexivit"
      "[video]' or pip install av."
    ) from None
  if not os.path.getsize(path):  # Also raises OSError if there is no file.
    raise ValueError("the file is empty")
  count = 0
  try:
    with av.open(os.fspath(path)) as container:
      if not container.streams.video:
        raise ValueError("the file has no video, or it is cut off")
      stream = container.streams.video[0]
      # Many files are decoded at a time; see `frame_store`.
      stream.codec_context.thread_count = 1
      frames, origin = container.decode(stream), None
      if start and stream.start_time is not None:
        # To the last frame before that can be decoded by itself.
        origin = stream.start_time * stream.time_base
        container.seek(int((start + origin) / stream.time_base), stream=stream)
        first = next(frames, None)
        if first is not None and _time(first) - origin <= start:
          frames = itertools.chain([first], frames)
        else:  # The file's index is missing or wrong.
          container.seek(stream.start_time, stream=stream)
          frames = container.decode(stream)
      for frame in frames:
        count += 1
        origin = _time(frame) if origin is None else origin
        yield _time(frame) - origin, frame
  except av.error.FFmpegError as error:
    after = f" after {count} frames" if count else ""
    raise ValueError(
      f"the file cannot be decoded{after}, it is damaged or no video: "
      f"{error.strerror}"
    ) from error


def _time(frame) -> fractions.Fraction:
  """Returns the time of a frame in seconds."""
  if frame.pts is None:
    raise ValueError(
      "the frames have no times; put them into a file that has, with "
      "ffmpeg -framerate 25 -i FILE NEW.mp4"
    )
  return frame.pts * frame.time_base
