"""Files with a cover, a title or several videos beside the video."""

import fractions
import struct

import av
import cv2
import numpy as np
import pytest

from tests.data.sources.video_folder.test_video_file import (
  STEP,
  frame_numbers,
  read,
  write_video,
)
from tokenlearner_flexivit.data.sources.video_folder import decode as video_file


def copy_video(source, container):
  """Copies the video of an opened file to another."""
  video = source.streams.video[0]
  stream = container.add_stream_from_template(video)
  for packet in source.demux(video):
    if packet.dts is not None:
      packet.stream = stream
      container.mux(packet)


def box(kind, content):
  """Returns a box of an MP4 file."""
  return struct.pack(">I4s", 8 + len(content), kind) + content


def boxes(data):
  """Yields the kinds and contents of the boxes in a part of an MP4 file."""
  start = 0
  while start < len(data):
    size, kind = struct.unpack(">I4s", data[start : start + 8])
    yield kind, data[start + 8 : start + size]
    start += size


def with_cover(data):
  """Returns an MP4 file with a picture, as taggers put it before the tracks."""
  jpeg = cv2.imencode(".jpg", np.full((48, 48, 3), 250, np.uint8))[1].tobytes()
  cover = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + jpeg))
  handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
  meta = box(b"meta", bytes(4) + handler + box(b"ilst", cover))
  parts = []
  for kind, content in boxes(data):
    if kind == b"moov":  # At the end of the file: nothing else moves.
      kept = (box(k, part) for k, part in boxes(content) if k != b"udta")
      content = box(b"udta", meta) + b"".join(kept)
    parts.append(box(kind, content))
  return b"".join(parts)


def test_a_cover_is_no_video(tmp_path):
  path = tmp_path / "video.mp4"
  write_video(path, 10)
  path.write_bytes(with_cover(path.read_bytes()))
  with av.open(str(path)) as container:
    assert [s.width for s in container.streams.video] == [48, 32]
  assert read(path) == list(range(10))
  assert read(path, start=0.2) == list(range(5, 10))

  music = tmp_path / "music.mp4"
  with av.open(str(music), "w") as container:
    stream = container.add_stream("aac", rate=8000, layout="mono")
    samples = np.zeros((1, 1024), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  music.write_bytes(with_cover(music.read_bytes()))
  with pytest.raises(ValueError, match="nothing to see but a cover picture"):
    read(music)


def test_a_cover_in_matroska(tmp_path):
  path = tmp_path / "video.mkv"
  write_video(tmp_path / "plain.mkv", 10)
  picture = cv2.imencode(".png", np.zeros((48, 48, 3), np.uint8))[1].tobytes()
  with (
    av.open(str(tmp_path / "plain.mkv")) as plain,
    av.open(str(path), "w") as container,
  ):
    # FFmpeg shows it as a video, which may come first.
    container.add_attachment("cover.png", "image/png", picture)
    copy_video(plain, container)
  with av.open(str(path)) as container:
    assert sorted(s.width for s in container.streams.video) == [32, 48]
  assert read(path) == list(range(10))


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_a_title_in_another_encoding(tmp_path, suffix):
  path = tmp_path / f"video{suffix}"
  write_video(tmp_path / f"plain{suffix}", 5)
  with (
    av.open(str(tmp_path / f"plain{suffix}")) as plain,
    av.open(str(path), "w") as container,
  ):
    container.metadata["title"] = "TITLE"
    copy_video(plain, container)
  data = path.read_bytes()
  assert data.count(b"TITLE") == 1
  path.write_bytes(data.replace(b"TITLE", "caf\u00e9s".encode("latin1")))
  assert read(path) == [0, 1, 2, 3, 4]


def test_of_several_videos_the_default_one_is_read(tmp_path):
  path = tmp_path / "video.mkv"
  with av.open(str(path), "w") as container:
    streams = []
    for i, side in enumerate((64, 32)):
      stream = container.add_stream("mpeg4", rate=25)
      stream.width = stream.height = side
      stream.pix_fmt = "yuv420p"
      stream.disposition = av.stream.Disposition(int(i == 1))
      streams.append(stream)
    for stream in streams:
      for i in range(5):
        pixels = np.full((stream.height, stream.width, 3), STEP * i, np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = i, fractions.Fraction(1, 25)
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
  jpegs = video_file.read_jpegs(path, 25, 256)
  assert cv2.imdecode(np.frombuffer(jpegs[0], np.uint8), 1).shape[0] == 32
  assert frame_numbers(jpegs) == [0, 1, 2, 3, 4]
