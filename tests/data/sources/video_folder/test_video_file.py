"""Frames of video files, by their times; and files that are none."""

import fractions
import sys
import wave

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit.data.sources.video_folder import decode as video_file

STEP = 10


def write_video(
  path,
  count,
  fps=25,
  side=(32, 32),
  times=None,
  gop=12,
  codec="mpeg4",
  b_frames=0,
  picture=None,
):
  """Writes a video in which frame i has the grey value STEP * (i % 25).

  Args:
    path: of the file; its suffix is the format.
    count: number of frames.
    fps: frames per second.
    side: height and width.
    times: seconds at which the frames come, if that is not at a constant rate.
    gop: a frame that can be decoded by itself comes every so many.
    codec: FFmpeg's name of the encoder.
    b_frames: how many in a row may depend on a later one.
    picture: uint8 [height, width, 3], which all frames show instead.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  height, width = side
  base = fractions.Fraction(1, 1000 if times else fps)
  with av.open(str(path), "w") as container:
    # Each frame is as a new scene, and would be encoded by itself.
    alike = {"sc_threshold": "1000000000"}
    stream = container.add_stream(codec, rate=1 / base, options=alike)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = base
    stream.codec_context.gop_size = gop
    stream.codec_context.max_b_frames = b_frames
    stream.codec_context.bit_rate = 2_000_000
    for i in range(count):
      pixels = picture
      if pixels is None:
        pixels = np.full((height, width, 3), STEP * (i % 25), np.uint8)
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      frame.pts = round(times[i] / base) if times else i
      frame.time_base = base
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_of_changing_size(path, sides, times=None):
  """Writes a video of one JPEG per (height, width), at times in frames."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mjpeg", rate=25)
    stream.height, stream.width = sides[0]
    stream.pix_fmt = "yuvj420p"
    for i, side in enumerate(sides):
      pixels = np.full((*side, 3), STEP * i, np.uint8)
      packet = av.Packet(cv2.imencode(".jpg", pixels)[1].tobytes())
      packet.stream, packet.time_base = stream, fractions.Fraction(1, 25)
      packet.pts, packet.dts = (times[i], i - 99) if times else (i, i)
      packet.is_keyframe = True
      container.mux(packet)


def frame_numbers(jpegs):
  """Returns which frames of the file the JPEGs are."""
  decoded = [cv2.imdecode(np.frombuffer(j, np.uint8), 1) for j in jpegs]
  return [round(float(pixels.mean()) / STEP) for pixels in decoded]


def read(path, fps=25, size=256, **times):
  return frame_numbers(video_file.read_jpegs(path, fps, size, **times))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_every_frame_once_at_the_rate_of_the_file(tmp_path, suffix):
  path = tmp_path / f"video{suffix}"
  write_video(path, 20, fps=30)  # Matroska rounds to milliseconds.
  everything = list(range(20))
  assert read(path, fps=30) == everything
  assert read(path, fps=15) == everything[::2]
  assert read(path, fps=10) == everything[::3]
  assert read(path, fps=60) == [i for i in everything for _ in range(2)]


def test_frames_are_decoded_as_they_are_taken(tmp_path, monkeypatch):
  """Of a film only a few are in memory."""
  path = tmp_path / "video.mp4"
  write_video(path, 200)
  encode, calls = cv2.imencode, []
  monkeypatch.setattr(
    cv2, "imencode", lambda *args: calls.append(args) or encode(*args)
  )
  frames = video_file.iter_jpegs(path, 25, 256)
  for count in (1, 2, 3):
    next(frames)
    assert len(calls) == count
  frames.close()


def test_a_folder_is_no_damaged_video(tmp_path):
  with pytest.raises(ValueError, match=r"this is a folder\. Give the videos"):
    read(tmp_path)


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
  write_video(tmp_path / "12:30.mp4", 3)
  monkeypatch.chdir(tmp_path)
  assert read("12:30.mp4") == [0, 1, 2]


@pytest.mark.parametrize(
  "suffix, codec",
  [(".3gp", "mpeg4"), (".m2ts", "mpeg2video"), (".ogv", "libvpx")],
)
def test_formats_of_phones_cameras_and_wikis(tmp_path, suffix, codec):
  assert suffix in video_file.EXTENSIONS
  write_video(tmp_path / f"video{suffix}", 12, codec=codec)
  assert read(tmp_path / f"video{suffix}") == list(range(12))


def test_an_animated_gif_is_a_video(tmp_path):
  assert ".gif" in video_file.EXTENSIONS
  frames = [Image.new("RGB", (20, 10), (STEP * i,) * 3) for i in range(3)]
  path = tmp_path / "moving.gif"
  frames[0].save(
    path, save_all=True, append_images=frames[1:], duration=[40, 120, 80]
  )
  assert read(path) == [0, 1, 1, 1, 2, 2]


def test_other_rates_keep_the_pace(tmp_path):
  path = tmp_path / "video.mp4"
  write_video(path, 24, fps=30)
  got = read(path, fps=25)
  assert got == [int(i * 30 / 25 + 0.06) for i in range(20)]


@pytest.mark.parametrize("gop", [1, 4, 100])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_start_and_end(tmp_path, suffix, gop):
  path = tmp_path / f"video{suffix}"
  write_video(path, 25, gop=gop)
  assert read(path, start=0.4, end=0.6) == [10, 11, 12, 13, 14]
  assert read(path, start=0.8, end=99) == [20, 21, 22, 23, 24]
  assert read(path, end=0.12) == [0, 1, 2]
  assert read(path, fps=5, start=0.2) == [5, 10, 15, 20]
  with pytest.raises(ValueError, match=r"no frames from 5 s to its end"):
    read(path, start=5)


@pytest.mark.parametrize(
  "suffix, codec",
  [
    *((suffix, "libx264") for suffix in (".ts", ".avi", ".mp4", ".mkv")),
    *((suffix, "mpeg2video") for suffix in (".ts", ".mpg")),
    *((suffix, "mpeg4") for suffix in (".ts", ".avi")),
  ],
)
@pytest.mark.parametrize("b_frames", [0, 2])
def test_frames_that_depend_on_others(tmp_path, suffix, codec, b_frames):
  """On later ones, and on earlier ones that a search by time passes over."""
  path = tmp_path / f"video{suffix}"
  write_video(path, 100, codec=codec, b_frames=b_frames)
  everything = [*range(25)] * 4
  assert read(path) == everything
  for start, end in ((0.2, 0.4), (0.88, 1.12), (3, 3.4)):
    wanted = everything[round(25 * start) : round(25 * end)]
    assert read(path, start=start, end=end) == wanted
  assert read(path, start=3.8) == everything[95:]


def test_a_frame_is_held_for_a_minute_at_most(tmp_path):
  path = tmp_path / "video.mkv"
  write_video(path, 5, times=[0, 0.04, 0.08, 0.12, 7200])
  with pytest.raises(
    ValueError, match=r"at 0.12 s is followed by none until 7200 s.* 60 s"
  ):
    read(path)
  assert read(path, end=0.2) == [0, 1, 2, 3, 3]
  assert read(path, fps=1, end=60) == [0] + [3] * 59
  assert read(path, fps=1, start=7150)[:50] == [3] * 50


def test_times_that_go_back(tmp_path):
  path = tmp_path / "video.mkv"
  write_of_changing_size(path, [(32, 32)] * 4, times=[0, 1, 5, 2])
  with pytest.raises(
    ValueError, match=r"go back, from 0.2 s to 0.08 s; ffmpeg"
  ):
    read(path)


@pytest.mark.parametrize("fps", [0.0004, 0, 1e9, float("nan")])
def test_rates_out_of_range(tmp_path, fps):
  path = tmp_path / "video.mp4"
  write_video(path, 2)
  with pytest.raises(ValueError, match=f"fps={fps} must be from 0.001 to 1000"):
    read(path, fps=fps)
  assert read(path, fps=0.001) == [0]


def test_variable_frame_rate_goes_by_the_times(tmp_path):
  path = tmp_path / "video.mkv"
  write_video(path, 5, times=[0, 0.05, 0.5, 0.51, 0.85])
  assert read(path, fps=10)[:9] == [0, 1, 1, 1, 1, 2, 3, 3, 3]
  assert read(path, fps=20, start=0.4, end=0.6) == [1, 1, 2, 3]


def test_frames_are_reduced_and_never_enlarged(tmp_path):
  path = tmp_path / "video.mp4"
  write_video(path, 2, side=(48, 64))
  for size, expected in ((24, (24, 32)), (47, (47, 63)), (256, (48, 64))):
    for jpeg in video_file.read_jpegs(path, 25, size):
      frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)
      assert frame.shape[:2] == expected


def test_frames_of_changing_size_get_that_of_the_first(tmp_path):
  path = tmp_path / "video.mkv"
  write_of_changing_size(path, [(32, 48), (32, 48), (64, 96), (16, 16)])
  jpegs = video_file.read_jpegs(path, 25, 256)
  assert frame_numbers(jpegs) == [0, 1, 2, 3]
  shapes = {cv2.imdecode(np.frombuffer(j, np.uint8), 1).shape for j in jpegs}
  assert shapes == {(32, 48, 3)}


# In MP4 the matrix (a, b, c, d) shows a pixel (right, down) at (a right + c
# down, b right + d down). Below, where the bright left upper corner goes.
@pytest.mark.parametrize(
  "matrix, corner",
  [
    ((1, 0, 0, 1), (0, 0)),
    ((0, 1, -1, 0), (0, 1)),
    ((-1, 0, 0, -1), (1, 1)),
    ((0, -1, 1, 0), (1, 0)),
  ],
)
def test_frames_are_turned_as_the_file_asks(tmp_path, matrix, corner):
  path = tmp_path / "video.mp4"
  pixels = np.zeros((32, 64, 3), np.uint8)
  pixels[:16, :32] = 250
  write_video(path, 10, side=(32, 64), gop=4, picture=pixels)
  data = bytearray(path.read_bytes())
  start = data.index(b"tkhd") + 44  # In 16.16 bits, three in a row.
  a, b, c, d = matrix
  for place, value in enumerate((a, b, 0, c, d)):
    where = start + 4 * place
    data[where : where + 4] = (value * 2**16).to_bytes(4, "big", signed=True)
  path.write_bytes(data)

  for begin, count in ((0, 10), (0.2, 5)):
    jpegs = video_file.read_jpegs(path, 25, 256, start=begin)
    assert len(jpegs) == count
    for jpeg in jpegs:
      frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)
      assert frame.shape[:2] == ((32, 64) if a else (64, 32))
      down, right = frame.shape[0] // 2, frame.shape[1] // 2
      quarters = {
        (i, j): frame[i * down :, j * right :][:down, :right].mean()
        for i in range(2)
        for j in range(2)
      }
      assert max(quarters, key=quarters.get) == corner
      assert sorted(quarters.values())[-2] < 30 < 200 < quarters[corner]


def test_a_picture_too_large_for_a_jpeg(tmp_path, monkeypatch):
  path = tmp_path / "video.mp4"
  write_video(path, 2, side=(32, 96))
  monkeypatch.setattr(video_file, "_MAX_SIDE", 50)
  with pytest.raises(ValueError, match=r"32 x 96 pixels are larger than 50"):
    read(path)
  assert read(path, size=16) == [0, 1]


def test_files_that_cannot_be_read(tmp_path, capfd):
  path = tmp_path / "video.mp4"
  path.write_bytes(b"")
  with pytest.raises(ValueError, match="the file is empty"):
    read(path)
  path.write_bytes(b"no video" * 100)
  with pytest.raises(
    ValueError, match="cannot be decoded, it is damaged or no"
  ):
    read(path)
  write_video(path, 20)
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match="no video, or it is cut off"):
    read(path)
  with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
    sound.setparams((1, 2, 8000, 0, "NONE", None))
    sound.writeframes(bytes(8000))
  with pytest.raises(ValueError, match="the file has no video"):
    read(tmp_path / "sound.wav")
  with pytest.raises(FileNotFoundError):
    read(tmp_path / "nothing.mp4")
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_a_file_that_is_cut_off_counts_up_to_there(tmp_path, suffix, capfd):
  path = tmp_path / f"video{suffix}"
  write_video(path, 25, side=(64, 64))
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) * 7 // 10])
  left = read(path)
  assert 10 < len(left) < 20 and left == [*range(len(left))]
  # Its index is cut off too.
  assert read(path, start=0.2, end=0.4) == [5, 6, 7, 8, 9]
  assert capfd.readouterr().err == ""


def test_a_code_that_is_unknown(tmp_path):
  path = tmp_path / "video.mpg"
  write_video(path, 2, codec="wmv2")  # That format has no name for it.
  with pytest.raises(ValueError, match="FFmpeg does not know how"):
    read(path)


def test_a_video_without_frames(tmp_path):
  path = tmp_path / "video.avi"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mjpeg", rate=25)
    stream.height = stream.width = 32
    stream.pix_fmt = "yuvj420p"
    container.start_encoding()
  with pytest.raises(ValueError, match="no frames from 0 s to its end"):
    read(path)


def test_without_the_library(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  with pytest.raises(ImportError, match=r"tokenlearner_flexivit\[video\]"):
    read(tmp_path / "video.mp4")
