"""Compares the video model with vectors computed by the published code."""

import jax
import pytest

from tests import vectors as vectors_lib
from tests.tiny import apply
from tests.vectors import assert_close


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision("highest"):
    yield


@vectors_lib.checks(
  "scenic_vit_vid_3dconv_fuse_loc1",
  "scenic_vit_vid_sampling_loc1",
  "scenic_vit_repr5d_fuse_loc1",
)
def test_scenic_video(name):
  vectors = vectors_lib.Vectors(name)
  model = vectors_lib.scenic_video_model(vectors)
  params = vectors_lib.scenic_params(vectors)
  y, out = apply(model, params, vectors["in/x"])
  # There frames are rows of one tall image, or images of a larger batch.
  stem = out["stem"].reshape(vectors["out/embedding"].shape)
  assert_close(stem, vectors["out/embedding"])
  assert_close(out["encoded"], vectors["out/Transformer"])
  if model.num_classes is None:
    # The representation is the tokens of every frame.
    assert_close(out["encoded"], vectors["out/y"])
  else:
    assert_close(out["pre_logits"], vectors["out/pre_logits"])
    assert_close(y, vectors["out/y"])
