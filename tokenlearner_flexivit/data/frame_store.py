"""Frames of video files, kept until all files of a dataset are decoded."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm

from tokenlearner_flexivit.data import video_file
from tokenlearner_flexivit.data.video_listing import Clip


@dataclasses.dataclass(frozen=True)
class FrameStore:
  """Decodes clips and keeps their frames in a file each.

  Attributes:
    folder: where these files are; several stores may share it.
    root: folder of the videos.
    fps: frames per second.
    size: greatest smaller side of a frame in pixels.
  """

  folder: pathlib.Path
  root: pathlib.Path
  fps: float
  size: int

  def read(self, clip: Clip) -> list[bytes]:
    """Returns the frames of a clip as JPEGs; decodes it if that is to be done.

    Raises:
      ValueError: the video cannot be read.
      OSError: the folder cannot be written.
    """
    path = self._path(clip)
    try:
      with np.load(path) as arrays:
        ends = np.cumsum(arrays["lengths"])
        return [part.tobytes() for part in np.split(arrays["data"], ends[:-1])]
    except FileNotFoundError:
      pass
    jpegs = video_file.read_jpegs(
      self.root / clip.path, self.fps, self.size, clip.start, clip.end
    )
    # A file with the right name is always whole.
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{os.getpid()}-{id(jpegs)}")
    with open(new, "wb") as file:
      np.savez(
        file,
        data=np.frombuffer(b"".join(jpegs), np.uint8),
        lengths=[len(jpeg) for jpeg in jpegs],
      )
    new.rename(path)
    return jpegs

  def fill(self, clips: Sequence[Clip], num_threads: int, name: str) -> None:
    """Decodes all clips that are not, several at a time.

    Args:
      clips: the clips.
      num_threads: how many at a time.
      name: of the dataset, for the bar that shows the progress and for a file
        beside the folder that lists what cannot be read.

    Raises:
      ValueError: some videos cannot be read. All were tried.
      OSError: the folder cannot be written.
    """

    def problem(clip: Clip) -> str | None:
      try:
        self.read(clip)
      except ValueError as error:
        return f"{self.root / clip.path}: {error}"

    # PyAV and OpenCV leave the interpreter to other threads while they work.
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
      results = pool.map(problem, clips)
      bar = tqdm.tqdm(
        results,
        desc=name,
        total=len(clips),
        unit=" videos",
        disable=sys.stderr is None,
      )
      problems = [words for words in bar if words]
    if problems:
      listed = self.folder.parent / f"unreadable-{name}.txt"
      listed.parent.mkdir(parents=True, exist_ok=True)
      listed.write_text(
        "".join(f"{words}\n" for words in problems), encoding="utf-8"
      )
      shown = "".join(f"\n  {words}" for words in problems[:5])
      raise ValueError(
        f"{len(problems)} of the {len(clips)} videos in {self.root} cannot be "
        f"read; {listed} lists all. Mend them or leave them out; the others "
        f"need not be decoded again:{shown}"
      )

  def remove(self, clips: Sequence[Clip]) -> None:
    """Removes the files of the clips, and the folder if it is empty then."""
    for clip in clips:
      self._path(clip).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Others may have theirs there.
      self.folder.rmdir()

  def _path(self, clip: Clip) -> pathlib.Path:
    """Returns where the frames of a clip are, as the video is now."""
    path = (self.root / clip.path).resolve()
    status = path.stat()
    content: tuple[Any, ...] = (
      str(path),
      status.st_size,
      status.st_mtime_ns,
      clip.start,
      clip.end,
    )
    digest = hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()
    return self.folder / f"{digest}.npz"
