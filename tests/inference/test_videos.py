"""Videos of users become what a model was trained on."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from tokenlearner_flexivit.inference import images, videos

PP = "decode_video|value_range(-1,1,key='video')|keep('video')"
SHAPE = (3, 8, 8, 3)


def png(frame):
  file = io.BytesIO()
  Image.fromarray(frame).save(file, "PNG")
  return file.getvalue()


@pytest.mark.parametrize("size", [(8, 8), (17, 30), (5, 4)])
@pytest.mark.parametrize("is_file", [False, True])
def test_videos_are_fitted_as_images_are(size, is_file, monkeypatch):
  frames = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
  video = frames
  if is_file:
    video = "video.mp4"
    stored = [png(frame) for frame in frames]
    monkeypatch.setattr(
      videos.frame_store,
      "stored",
      lambda *_: contextlib.nullcontext(stored),
    )
  prepared = videos.Preparation(PP, SHAPE, 25, 256)(video)
  one = images.Preparation("decode|value_range(-1,1)", SHAPE[1:])
  np.testing.assert_array_equal(prepared, [one(frame) for frame in frames])


@pytest.mark.parametrize(
  "shape, message",
  [
    ((4, 9, 9, 3), r"gives \[4, 8, 8, 3\] where the model takes \[3, 8,"),
    ((0, 9, 9, 3), "frames"),
    ((9, 9, 3), "video"),
    ((3, 2, 9_000_000, 3), "too narrow"),
  ],
)
def test_what_no_size_mends_is_refused(shape, message):
  prepare = videos.Preparation(PP, SHAPE, 25, 256)
  video = np.broadcast_to(np.uint8(0), shape)
  with pytest.raises(ValueError, match=message):
    prepare(video)
