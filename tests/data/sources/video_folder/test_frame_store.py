"""Files of frames: what is read of them, and what is wrong with bad ones."""

import errno
import io
import itertools
import tempfile

import cv2
import numpy as np
import pytest

from tests.data.sources.video_folder.test_video_file import (
  frame_numbers,
  write_video,
)
from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.sources.video_folder import decode as video_file
from tokenlearner_flexivit.data.sources.video_folder import (
  frames as frame_store,
)


class CountingFile(io.FileIO):
  """A file that notes how much of it is read."""

  read_bytes: list

  def read(self, size=-1):
    result = super().read(size)
    self.read_bytes.append(len(result))
    return result


@pytest.fixture
def stored(tmp_path):
  """The frames of a video of 500, and the path of the video."""
  write_video(tmp_path / "video.mp4", 500, side=(64, 64))
  path = tmp_path / "frames"
  with open(path, "wb") as file:
    jpegs = video_file.iter_jpegs(tmp_path / "video.mp4", 25, 64)
    count = frame_store.write(file, jpegs)
  assert count == frame_store.count_frames(path) == 500
  return frame_store.StoredFrames(path, count), tmp_path / "video.mp4"


def test_a_full_disk_of_temporary_files_is_named(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  monkeypatch.setattr(frame_store, "write", full)
  with (
    pytest.raises(OSError, match=f"No space left .*: '{tmp_path}'"),
    frame_store.stored(tmp_path / "video.mp4", 25, 64),
  ):
    pass
  assert not list(tmp_path.iterdir())


def test_as_a_list_of_frames(stored):
  frames, video = stored
  jpegs = video_file.read_jpegs(video, 25, 64)
  assert len(frames) == 500 and list(frames) == jpegs
  assert frames[7] == jpegs[7] and frames[-1] == jpegs[-1]
  assert frames[3:9:2] == jpegs[3:9:2]
  with pytest.raises(IndexError):
    frames[500]


def test_a_clip_reads_its_own_frames_alone(stored, monkeypatch):
  frames, _ = stored
  jpegs = list(frames)
  read = []

  def opened(path, mode, buffering):
    assert (mode, buffering) == ("rb", 0)
    file = CountingFile(path)
    file.read_bytes = read
    return file

  monkeypatch.setattr(frame_store, "open", opened, raising=False)
  pp = data.parse("decode_video|temporal_crop(32,2)|keep('video')")
  clip = pp({"video": frames}, np.random.default_rng(0))["video"]
  assert clip.shape == (32, 64, 64, 3)
  numbers = np.round(clip.mean((1, 2, 3)) / 10).astype(int)
  start = next(i for i in range(25) if i == numbers[0])
  np.testing.assert_array_equal(numbers, (start + 2 * np.arange(32)) % 25)
  # And once where they are: 16 bytes each, also for those between.
  assert len(read) == 33 and read[0] == 63 * 16
  assert sum(read[1:]) <= 32 * max(map(len, jpegs))


def test_a_frame_that_stays_is_stored_once(tmp_path):
  write_video(tmp_path / "video.mp4", 5)
  path = tmp_path / "frames"
  with open(path, "wb") as file:
    video = tmp_path / "video.mp4"
    count = frame_store.write(file, video_file.iter_jpegs(video, 1000, 64))
  frames = frame_store.StoredFrames(path, count)
  # Times are compared to 2 ms.
  assert frame_numbers(frames) == [(i + 2) // 40 for i in range(198)]
  assert path.stat().st_size < 5 * 2000 + 16 * 200 + 16


def test_files_of_any_length(tmp_path):
  """A hole stands for hours of video."""
  path = tmp_path / "frames"
  place = 5 * 2**30
  with open(path, "wb") as file:
    file.seek(place)
    file.write(b"last")
    table = np.array([[0, place], [place, place + 4]], "<u8")
    file.write(table.tobytes() + np.array(2, "<u8").tobytes() + b"jpegs/1\n")
  frames = frame_store.StoredFrames(path, frame_store.count_frames(path))
  assert frames[1] == b"last"


def test_damaged_files(stored, tmp_path):
  frames, _ = stored
  whole = frames.path.read_bytes()
  for kept in (0, 10, len(whole) // 2, len(whole) - 1):
    frames.path.write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"cut off|damaged"):
      list(frames)
    with pytest.raises(ValueError, match="is no file of frames"):
      frame_store.count_frames(frames.path)
  frames.path.unlink()
  # Not the example's fault, so that none is skipped for it.
  with pytest.raises(FileNotFoundError):
    data.parse("decode_video")({"video": frames})


def test_a_film_is_not_decoded_whole(tmp_path):
  jpeg = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
  with open(tmp_path / "frames", "wb") as file:
    count = frame_store.write(file, itertools.repeat(jpeg, 400_000))
  film = frame_store.StoredFrames(tmp_path / "frames", count)
  with pytest.raises(
    ValueError, match=r"400000 frames of 64 x 64 .* 4.9 GB, .* temporal_crop"
  ):
    data.parse("decode_video")({"video": film})
  clip = data.parse("decode_video|temporal_views(2,9,4)")({"video": film})
  assert clip["video"].shape == (4, 2, 64, 64, 3)
