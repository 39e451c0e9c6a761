"""Files of a video's frames, which are read a few frames at a time."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import tqdm

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.data.sources.video_folder import clips as video_clips
from tokenlearner_flexivit.data.sources.video_folder import decode as video_file
from tokenlearner_flexivit.data.sources.video_folder.clips import Clip
from tokenlearner_flexivit.data.sources.video_folder.listing import Listing

# A file of frames holds the JPEGs one after the other; then the start and the
# end of each frame's JPEG; then the number of frames and this name of the
# format.
_FORMAT = b"jpegs/1\n"
_NUMBER = np.dtype("<u8")
_PLACE_BYTES = 2 * _NUMBER.itemsize
_FOOTER_BYTES = _NUMBER.itemsize + len(_FORMAT)
_IN_FLIGHT = 1000


@dataclasses.dataclass(frozen=True)
class StoredFrames(Sequence[bytes]):
  """The frames of a stored video, read from its file when they are taken.

  Attributes:
    path: the file.
    count: number of frames in it.
  """

  path: pathlib.Path
  count: int

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
    positions = range(self.count)[index]
    if isinstance(index, slice):
      return list(self.take(positions))
    return next(self.take([positions]))

  def __iter__(self) -> Iterator[bytes]:
    return self.take(range(self.count))

  def take(self, positions: Sequence[int]) -> Iterator[bytes]:
    """Yields the JPEGs at `positions`, without reading other frames.

    Raises:
      ValueError: the file is damaged.
      OSError: the file cannot be read.
    """
    if not len(positions):
      return
    first, last = min(positions), max(positions)
    with open(self.path, "rb", buffering=0) as file:
      size = os.fstat(file.fileno()).st_size
      table = size - _FOOTER_BYTES - self.count * _PLACE_BYTES
      width = (last + 1 - first) * _PLACE_BYTES
      data = self._read(file, table + first * _PLACE_BYTES, width)
      places = np.frombuffer(data, _NUMBER).reshape(-1, 2)
      for position in positions:
        begin, end = places[position - first].tolist()
        if not begin < end <= table:
          raise ValueError(f"{self.path} is damaged at frame {position}")
        yield self._read(file, begin, end - begin)

  def _read(self, file: BinaryIO, start: int, length: int) -> bytes:
    if start >= 0:
      file.seek(start)
      data = file.read(length)
      while data and len(data) < length:  # A signal may interrupt a read.
        more = file.read(length - len(data))
        data = data + more if more else b""
      if data:
        return data
    raise ValueError(f"{self.path} is cut off")


def count_frames(path: pathlib.Path) -> int:
  """Returns the number of frames in a file that `write` wrote.

  Raises:
    ValueError: the file is not a file of frames, or it is truncated.
    OSError: the file cannot be read.
  """
  with open(path, "rb") as file:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _FOOTER_BYTES))
    footer = file.read()
  if len(footer) < _FOOTER_BYTES or not footer.endswith(_FORMAT):
    raise ValueError(f"{path} is no file of frames, or it is cut off")
  return int(np.frombuffer(footer[: _NUMBER.itemsize], _NUMBER)[0])


def write(file: BinaryIO, jpegs: Iterable[bytes]) -> int:
  """Writes a file that `StoredFrames` reads, and returns the number of frames.

  Only one frame is in memory at a time. Adjacent frames that are the same
  object are stored once.
  """
  places = []
  begin, end, last = 0, 0, None
  for jpeg in jpegs:
    if jpeg is not last:
      file.write(jpeg)
      begin, end, last = end, end + len(jpeg), jpeg
    places.append((begin, end))
  file.write(np.array(places, _NUMBER).tobytes())
  file.write(np.array(len(places), _NUMBER).tobytes() + _FORMAT)
  return len(places)


@contextlib.contextmanager
def stored(
  path: str | os.PathLike, fps: float, size: int
) -> Iterator[StoredFrames]:
  """Stores the frames of a video file for as long as the context lasts.

  The frames are in a temporary file, 2 GB for an hour of 25 frames per second
  and 256 pixels, so that only one of them is in memory.

  Args:
    path: the video file.
    fps: frames per second.
    size: greatest smaller side of a frame in pixels.

  Yields:
    The frames.

  Raises:
    ValueError, OSError, ImportError: `video_file.iter_jpegs` raises it.
    OSError: the temporary file cannot be written.
  """
  with tempfile.NamedTemporaryFile(suffix=".jpegs") as file:
    try:
      count = write(file, video_file.iter_jpegs(path, fps, size))
      file.flush()
    except OSError as error:
      if error.filename is None:  # Such as a full disk.
        error.filename = tempfile.gettempdir()
      raise
    yield StoredFrames(pathlib.Path(file.name), count)


@dataclasses.dataclass(frozen=True)
class FrameStore:
  """A store that decodes clips and keeps the frames of each in a file.

  Attributes:
    folder: folder of these files until all clips are decoded; several stores
      may share it.
    unreadable: file that lists the videos that cannot be read.
    listing: the videos.
    fps: frames per second.
    size: greatest smaller side of a frame in pixels.
  """

  folder: pathlib.Path
  unreadable: pathlib.Path
  listing: Listing
  fps: float
  size: int

  def fill(
    self, target: pathlib.Path, scratch: pathlib.Path, num_threads: int
  ) -> dict[Clip, str]:
    """Decodes all clips, several at a time, and moves their files to `target`.

    Clips whose files are in `target` or in `folder` are not decoded again.

    Args:
      target: the final folder of the files.
      scratch: an empty folder on the same disk, for unfinished files.
      num_threads: number of clips that are decoded at a time.

    Returns:
      For each clip, the path of its file, relative to `target`.

    Raises:
      ValueError: some videos cannot be read, after all were tried.
      OSError: a folder cannot be written.
    """
    clips = itertools.chain.from_iterable(self.listing.clips.values())
    names = {clip: self._name(clip) for clip in clips}
    wanted = {name: clip for clip, name in names.items()}
    # A file that another process has moved away is decoded anew.
    while missing := {
      name: clip
      for name, clip in wanted.items()
      if not (target / name).exists()
    }:
      self._decode(missing, scratch, num_threads)
      for name in missing:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
          (self.folder / name).rename(target / name)
    self.unreadable.unlink(missing_ok=True)
    for folder in (*self.folder.glob("*/"), self.folder):
      with contextlib.suppress(OSError):  # Other stores have files there.
        folder.rmdir()
    return names

  def _decode(
    self, missing: Mapping[str, Clip], scratch: pathlib.Path, num_threads: int
  ) -> None:
    """Decodes clips into `folder`, unless their files exist."""
    stop = threading.Event()

    def problem(name: str, clip: Clip) -> str | None:
      path = self.folder / name
      if path.exists():
        return None
      # A file gets its final name when it is whole.
      new = scratch / path.name
      try:
        with open(new, "wb") as file:
          write(file, self._frames(clip, stop))
        path.parent.mkdir(parents=True, exist_ok=True)
        new.rename(path)
      except ValueError as error:
        return f"{self.listing.file(clip)}: {error}"
      except OSError as error:
        if error.filename is None:  # Such as a full disk.
          error.filename = str(self.folder)
        raise
      except Exception as error:
        error.add_note(f"while reading {self.listing.file(clip)}")
        raise
      finally:
        new.unlink(missing_ok=True)

    problems = []
    waiting = iter(missing.items())
    # PyAV and OpenCV release Python's lock while they work.
    with (
      concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
      tqdm.tqdm(
        desc=self.listing.root.resolve().name,
        total=len(missing),
        unit=" videos",
        mininterval=0.5 if terminal.is_watched(sys.stderr) else 30,
        disable=sys.stderr is None,
      ) as bar,
    ):
      try:
        # Not all at once: millions of futures would take gigabytes.
        futures = collections.deque(
          pool.submit(problem, *item)
          for item in itertools.islice(waiting, _IN_FLIGHT)
        )
        while futures:
          words = futures.popleft().result()
          problems += [words] if words else []
          bar.update()
          for item in itertools.islice(waiting, 1):
            futures.append(pool.submit(problem, *item))
      except BaseException:
        stop.set()  # Otherwise a film would be decoded to its end.
        pool.shutdown(cancel_futures=True)
        raise
    if problems:
      self._refuse(problems, len(missing))

  def _frames(self, clip: Clip, stop: threading.Event) -> Iterator[bytes]:
    """Yields the frames of a clip until `stop` is set."""
    for jpeg in video_file.iter_jpegs(
      self.listing.file(clip), self.fps, self.size, clip.start, clip.end
    ):
      if stop.is_set():
        raise ValueError("broken off")
      yield jpeg

  def _refuse(self, problems: Sequence[str], tried: int) -> None:
    """Writes the list of unreadable videos and raises ValueError about them."""
    root = self.listing.root
    self.unreadable.write_text(
      "".join(f"{words}\n" for words in problems),
      encoding="utf-8",
      errors="surrogateescape",
    )
    shown = "".join(f"\n  {words}" for words in problems[:5])
    raise ValueError(
      f"{len(problems)} of the {terminal.counted(tried, 'video')} in {root} "
      "cannot be read; "
      f"{self.unreadable} lists all. Mend them or leave them out; the others "
      f"need not be decoded again:{shown}"
    )

  def _name(self, clip: Clip) -> str:
    """Returns a file name for a clip's frames, by the current video file."""
    path = self.listing.file(clip).resolve()
    status = path.stat()
    content = (
      video_clips.as_text(path),
      status.st_size,
      status.st_mtime_ns,
      clip.start,
      clip.end,
    )
    text = repr(content).encode()
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    # A file system may be slow with many files in one folder.
    return f"{digest[:2]}/{digest}.jpegs"
