"""Videos: decoding only what is taken, clips, views, jitter, noise, batches."""

import itertools

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.ops import video as video_ops
from tokenlearner_flexivit.data.ops import video_augment as video_augment_ops

LENGTH, HEIGHT, WIDTH = 20, 9, 12
RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 256, (LENGTH, HEIGHT, WIDTH, 3), np.uint8)
# The number of the frame in each of its pixels.
NUMBERED = np.broadcast_to(
  np.arange(LENGTH, dtype=np.uint8)[:, None, None, None], VIDEO.shape
)


def encoded(video=VIDEO):
  return [cv2.imencode(".png", f[..., ::-1])[1].tobytes() for f in video]


def run(pp, video, seed=0):
  example = {"video": video, "label": np.int32(7)}
  result = data.parse(pp)(example, np.random.default_rng(seed))
  assert result["label"] == 7
  return result["video"]


def numbers(pp, length=LENGTH, seed=0):
  """Returns which frames are taken of a video of that length."""
  return run(pp, NUMBERED[:length], seed)[..., 0, 0, 0].tolist()


@pytest.fixture
def decodings(monkeypatch):
  """Counts the images that OpenCV decodes."""
  calls, imdecode = [], cv2.imdecode
  monkeypatch.setattr(
    cv2, "imdecode", lambda *args: calls.append(1) or imdecode(*args)
  )
  return calls


# decode_video


def test_decode_video():
  for frames in (encoded(), np.array(encoded(), object)):
    np.testing.assert_array_equal(run("decode_video", frames), VIDEO)
  assert run("decode_video", VIDEO) is VIDEO
  grey = run("decode_video(1)", encoded())
  assert grey.shape == (LENGTH, HEIGHT, WIDTH, 1)
  # OpenCV's PNG decoder rounds otherwise than its change of colours.
  np.testing.assert_allclose(run("decode_video(1)", VIDEO), grey, atol=1)
  assert run("decode_video", grey).shape == VIDEO.shape


@pytest.mark.parametrize(
  "frames, message",
  [
    ([], "no frames"),
    (None, "'video' is of the type NoneType"),
    (encoded()[0], "not a list of encoded frames"),
    ([*encoded()[:3], b"x"], "frame 3: 1 bytes .* not an image"),
    (encoded()[:2] + encoded(VIDEO[:1, :5]), "frame 2 .* one size"),
    (VIDEO[0], "is not a video"),
    (VIDEO.astype(np.float32), "neither encoded frames nor"),
  ],
)
def test_decode_video_refuses(frames, message):
  with pytest.raises(ValueError, match=message):
    run("decode_video", frames)


@pytest.mark.parametrize(
  "op, count",
  [
    ("temporal_crop(4,2)", 4),
    ("temporal_central_crop(7)", 7),
    ("temporal_views(8,1,4)|spatial_views(6,3)", LENGTH),
    ("temporal_views(3,2,2)|spatial_views(6,3)", 6),
  ],
)
def test_only_frames_that_are_taken_are_decoded_and_those_once(
  op, count, decodings
):
  got = run(f"decode_video|{op}", encoded())
  assert len(decodings) == count
  np.testing.assert_array_equal(got, run(op, VIDEO))


# Clips


def test_temporal_crop_begins_anywhere_equally_often():
  starts = []
  for seed in range(400):
    clip = numbers("temporal_crop(4,3)", seed=seed)
    assert np.diff(clip).tolist() == [3, 3, 3]
    starts.append(clip[0])
  counts = np.bincount(starts)
  assert len(counts) == LENGTH - 9  # The last clip ends with the last frame.
  assert counts.min() > 400 / 11 / 2


def test_short_videos_begin_anew():
  for op in ("temporal_crop", "temporal_central_crop"):
    assert numbers(f"{op}(8)", 3) == [0, 1, 2, 0, 1, 2, 0, 1]
    assert numbers(f"{op}(4,2)", 5) == [0, 2, 4, 1]
    assert numbers(f"{op}(2,2)", 1) == [0, 0]
    assert numbers(f"{op}(5)", 5) == [0, 1, 2, 3, 4]
  assert numbers("temporal_views(3,1,2)", 2) == [[0, 1, 0]] * 2


def test_central_clip_and_views():
  assert numbers("temporal_central_crop(4,2)") == [6, 8, 10, 12]
  assert numbers("temporal_views(4,2,1)") == [[6, 8, 10, 12]]
  views = numbers("temporal_views(3,2,4)")
  assert [view[0] for view in views] == [0, 5, 10, 15]
  assert views[-1][-1] == LENGTH - 1


@pytest.mark.parametrize("is_wide", [True, False])
def test_spatial_views(is_wide):
  def turn(frames):
    return frames if is_wide else frames.swapaxes(-3, -2)

  crops = turn(run("spatial_views(5)", turn(VIDEO)))
  assert crops.shape == (3, LENGTH, 5, 5, 3)
  for crop, left in zip(crops, (0, 3, 7), strict=True):
    np.testing.assert_array_equal(crop, VIDEO[:, 2:7, left : left + 5])
  np.testing.assert_array_equal(
    turn(run("spatial_views(5,1)", turn(VIDEO))), crops[1:2]
  )

  # The crops of the first clip come first.
  views = run("temporal_views(2,1,4)", turn(VIDEO))
  both = run("temporal_views(2,1,4)|spatial_views(5)", turn(VIDEO))
  for i, j in itertools.product(range(4), range(3)):
    expected = run("spatial_views(5)", views[i])[j]
    np.testing.assert_array_equal(both[3 * i + j], expected)


@pytest.mark.parametrize(
  "pp, message",
  [
    ("temporal_crop(0)", "at least 1, not 0, 1"),
    ("temporal_crop(4,0)", "at least 1, not 4, 0"),
    ("temporal_views(4,1,0)", "views must be at least 1"),
    ("spatial_views(4,0)", "crops must be at least 1"),
    ("spatial_views(10)", r"only 9 x 12 pixels: put resize_small"),
    ("temporal_crop(4,key='film')", "no 'film'; it has"),
    ("video_scale_jitter(1.2,0.9)", "0 < lo <= hi"),
    ("video_colour_jitter(2)", r"in \[0, 1\]"),
  ],
)
def test_ops_refuse(pp, message):
  with pytest.raises(ValueError, match=message):
    run(pp, VIDEO)


def test_ops_say_what_must_come_before():
  for op in ("temporal_crop(4)", "spatial_views(4)", "video_scale_jitter(1,1)"):
    with pytest.raises(ValueError, match="put decode_video before"):
      run(op, encoded())
  with pytest.raises(ValueError, match="before value_range"):
    run("video_colour_jitter", VIDEO / np.float32(255))


# Jitter


def test_scale_jitter_draws_each_side():
  shapes = [
    run("video_scale_jitter(0.5,2)", VIDEO, seed).shape for seed in range(60)
  ]
  assert {(shape[0], shape[3]) for shape in shapes} == {(LENGTH, 3)}
  heights, widths = np.array(shapes)[:, 1:3].T
  assert heights.min() >= 4 and heights.max() <= 18
  assert widths.min() >= 6 and widths.max() <= 24
  assert np.ptp(heights) > 10 and np.ptp(widths) > 12
  assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.4
  np.testing.assert_array_equal(run("video_scale_jitter(1,1)", VIDEO), VIDEO)


def jitter(video, seed=0, **changes):
  settings = dict(
    probability=1, to_grey=0, brightness=0, contrast=0, saturation=0, hue=0
  )
  example = video_augment_ops.video_colour_jitter(
    {"video": video}, np.random.default_rng(seed), **{**settings, **changes}
  )
  return example["video"]


def test_colour_jitter_changes_all_frames_alike():
  pp = "video_colour_jitter(1,0,0.2,0.5,0.5,0.3)"
  changed = run(pp, VIDEO)
  assert (changed != VIDEO).mean() > 0.8 and changed.dtype == np.uint8
  np.testing.assert_array_equal(run(pp, VIDEO[::-1]), changed[::-1])
  still = np.repeat(VIDEO[:1], 4, axis=0)
  result = run(pp, still)
  np.testing.assert_array_equal(result, np.repeat(result[:1], 4, axis=0))


def test_colour_jitter_by_hand():
  np.testing.assert_array_equal(run("video_colour_jitter(0,0)", VIDEO), VIDEO)
  same = jitter(VIDEO)
  assert np.abs(same.astype(int) - VIDEO).max() <= 1

  middle = np.full((2, 3, 3, 3), 100, np.uint8)
  levels = {
    int(jitter(middle, s, brightness=0.2)[0, 0, 0, 0]) for s in range(50)
  }
  assert min(levels) >= 49 and max(levels) <= 151 and np.ptp([*levels]) > 70

  two = np.stack([middle[0] - 50, middle[0] + 50])  # About a mean of 100.
  for seed in range(10):
    low, high = jitter(two, seed, contrast=0.5)[:, 0, 0, 0].astype(int)
    assert abs(low + high - 200) <= 1 and 49 <= high - low <= 151

  red = np.zeros((1, 2, 2, 3), np.uint8)
  red[..., 0] = 200
  for seed in range(10):
    hue = jitter(red, seed, hue=0.5)[0, 0, 0]
    assert hue.max() == 200 and hue.min() == 0  # As bright and as pure.
    pale = jitter(red, seed, saturation=0.4)[0, 0, 0]
    assert pale[0] == 200 and pale[1] == pale[2] <= 80


def test_grey():
  grey = jitter(VIDEO, probability=0, to_grey=1)
  assert (grey == grey[..., :1]).all()
  expected = VIDEO @ np.array([0.299, 0.587, 0.114])
  assert np.abs(grey[..., 0] - expected).max() <= 1
  dropped = [
    (jitter(VIDEO[:1], s, probability=0, to_grey=0.3) != VIDEO[:1]).any()
    for s in range(200)
  ]
  assert 0.2 < np.mean(dropped) < 0.4


# Noise and batches


def test_fake_videos():
  name = "fake:5x6x8x3:4:9"
  source = data.open_source({"name": name, "split": "train"})
  assert len(source) == 9 and source.num_classes == 4
  assert source[0]["video"].shape == (5, 6, 8, 3)
  assert source[0]["video"].dtype == np.uint8 and "image" not in source[0]
  with pytest.raises(ValueError, match="FRAMESxHEIGHT"):
    data.open_source({"name": "fake:0x6x8x3:4", "split": "train"})


def test_batches_of_videos():
  config = {
    "name": "fake:9x8x10x3:4:9",
    "split": "train",
    "pp": "decode_video|temporal_crop(4,2)|keep('video','label')",
    "num_threads": 2,
  }
  batches = data.train_batches(config, batch_size=6, seed=0)
  batch = next(batches)
  batches.close()
  assert batch["video"].shape == (6, 4, 8, 10, 3)

  config["pp"] = (
    "decode_video|temporal_views(4,1,2)|spatial_views(6,3)"
    "|keep('video','label')"
  )
  batches = list(data.eval_batches(config, batch_size=4))
  assert [b["video"].shape for b in batches] == [(4, 6, 4, 6, 6, 3)] * 3
  assert np.concatenate([b["mask"] for b in batches]).sum() == 9


def test_stand_in_is_only_for_the_same_key():
  pp = data.parse("decode_video|temporal_crop(2,key='film')")
  assert pp.steps[0].fn is video_ops.decode_video
  pp = data.parse("decode_video(key='film')|temporal_crop(2,key='film')")
  assert pp.steps[0].fn is video_ops.decode_when_taken
