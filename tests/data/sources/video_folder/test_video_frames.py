"""The ops on images treat all frames of a video alike."""

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data

RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 256, (5, 9, 12, 3), np.uint8)
OPS = (
  "resize((6,7))",
  "resize_small(6)",
  "central_crop((4,6))",
  "random_crop(5)",
  "inception_crop(6)",
  "inception_crop",
  "flip_lr",
  "value_range(-1,1)",
  "standardize(2,(3,4,5))",
)


def run(op, frames, key, seed):
  before = frames.copy()
  call = op[:-1] + "," if op.endswith(")") else op + "("
  pp = data.parse(f"{call}key={key!r})")
  result = pp({key: frames}, np.random.default_rng(seed))[key]
  np.testing.assert_array_equal(frames, before)
  return result


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("channels", [1, 3])
def test_like_an_image_with_the_same_draws(op, channels):
  if op.startswith("standardize") and channels == 1:
    op = "standardize(2,3)"
  video = VIDEO[..., :channels]
  for seed in range(6):
    expected = [run(op, frame, "image", seed) for frame in video]
    got = run(op, video, "video", seed)
    np.testing.assert_array_equal(got, np.stack(expected))
    assert got.dtype == expected[0].dtype
    # And in several views of a video.
    views = run(op, np.stack([video, video]), "video", seed)
    np.testing.assert_array_equal(views, np.stack([got, got]))


def test_too_small_and_still_encoded():
  for crop in ("central_crop(10)", "random_crop(10)"):
    with pytest.raises(ValueError, match=r"only 9 x 12 pixels: put resize"):
      run(crop, VIDEO, "video", 0)
  frames = [cv2.imencode(".png", frame)[1].tobytes() for frame in VIDEO]
  with pytest.raises(ValueError, match=r"shape \(5,\) instead of"):
    data.parse("value_range(key='video')")({"video": frames})


def test_the_papers_preprocessing():
  frames = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in VIDEO]
  example = {"video": frames, "label": np.int32(0)}
  pp = data.parse(
    "decode_video|temporal_crop(4)|resize_small(16,key='video')"
    "|video_scale_jitter(0.9,1.33)|random_crop(12,key='video')"
    "|video_colour_jitter|flip_lr(key='video')"
    "|value_range(-1,1,key='video')|keep('video','label')"
  )
  clip = pp(example, np.random.default_rng(0))["video"]
  assert clip.shape == (4, 12, 12, 3) and clip.dtype == np.float32
  assert -1 <= clip.min() < clip.max() <= 1
  pp = data.parse(
    "decode_video|temporal_views(2,1,4)|resize_small(14,key='video')"
    "|spatial_views(12,3)|value_range(-1,1,key='video')|keep('video','label')"
  )
  assert pp(example)["video"].shape == (12, 2, 12, 12, 3)
