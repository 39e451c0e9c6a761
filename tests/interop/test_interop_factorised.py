"""Weights in a factorised model for videos: Scenic's, and those for images."""

import re

import jax
import numpy as np
import pytest
from flax import traverse_util

from tokenlearner_flexivit import interop, models

# Ours and Scenic's.
NAMES = (
  (r"^Transformer/", "SpatialTransformer/"),
  (r"^cls$", "cls_SpatialTransformer"),
  (r"^pos_embedding$", "SpatialTransformer/posembed_input/pos_embedding"),
  (
    r"^pos_embedding_TemporalTransformer$",
    "TemporalTransformer/posembed_input/pos_embedding",
  ),
  (r"^head/", "output_projection/"),
)


def make(pool):
  """A model and flat parameters of noise."""
  model = models.ViViTFactorised(
    num_classes=5,
    width=16,
    depth=2,
    mlp_dim=24,
    num_heads=2,
    patch_size=(2, 4, 4),
    posemb_grid=(2, 3, 3),
    temporal_depth=1,
    pool=pool,
  )
  videos = np.zeros((1, 4, 12, 12, 3), "f4")
  shapes = jax.eval_shape(model.init, jax.random.key(0), videos)["params"]
  flat = traverse_util.flatten_dict(shapes, sep="/")
  rng = np.random.default_rng(0)
  return model, {k: rng.normal(size=v.shape) for k, v in flat.items()}


@pytest.mark.parametrize("pool", ["gap", "tok"])
def test_scenic_names(pool, tmp_path):
  model, params = make(pool)
  theirs = {}
  for name, array in params.items():
    for pattern, replacement in NAMES:
      name = re.sub(pattern, replacement, name)
    if pool == "tok" and name.endswith("pos_embedding"):
      # There the cls token has a position, which is added to it.
      array = np.concatenate([np.ones((1, 1, 16)), array], axis=1)
    theirs[f"params/{name}"] = array.astype("f4")
  np.savez(tmp_path / "scenic.npz", **theirs)
  loaded, report = interop.load_params_and_report(
    tmp_path / "scenic.npz", model
  )
  assert report.format == "scenic"
  loaded = traverse_util.flatten_dict(loaded, sep="/")
  assert loaded.keys() == params.keys()
  for name, array in params.items():
    expected = array + 1 if name.startswith("cls") else array
    np.testing.assert_allclose(loaded[name], expected, rtol=1e-5, err_msg=name)


def test_a_model_for_images_is_the_encoder_of_frames(tmp_path):
  model, params = make("tok")
  image = {k: v for k, v in params.items() if "TemporalTransformer" not in k}
  image["embedding/kernel"] = image["embedding/kernel"][0]
  image["pos_embedding"] = np.ones((1, 16, 16))  # Of 4x4 patches.
  path = tmp_path / "image.npz"
  interop.save_params(traverse_util.unflatten_dict(image, sep="/"), path)
  starts = ("", "pos_embedding_", "cls_")
  optional = [f"{start}TemporalTransformer" for start in starts]
  like = traverse_util.unflatten_dict(params, sep="/")
  loaded, report = interop.load_params_and_report(
    path, model, params=like, optional=optional
  )
  assert loaded["pos_embedding"].shape == (1, 9, 16)
  assert len(report.names("resized")) == 2
  fresh = report.names("fresh")
  assert sorted(fresh) == [k for k in sorted(params) if "Temporal" in k]
  np.testing.assert_allclose(loaded["cls"], image["cls"], rtol=1e-6)
  with pytest.raises(ValueError, match=r"missing:\n  TemporalTransformer/"):
    interop.load_params_and_report(path, model, params=like)
  with pytest.raises(ValueError, match=r"optional='Temporary': no array's"):
    interop.load_params(path, model, params=like, optional=["Temporary"])


def test_a_model_for_videos_keeps_its_encoder_of_time(tmp_path):
  """And one that lacks a part of what may be missing does not fit."""
  model, params = make("tok")
  path = tmp_path / "video.npz"
  optional = ["TemporalTransformer", "pos_embedding_TemporalTransformer"]
  interop.save_params(traverse_util.unflatten_dict(params, sep="/"), path)
  loaded, report = interop.load_params_and_report(
    path, model, optional=optional
  )
  loaded = traverse_util.flatten_dict(loaded, sep="/")
  for name, array in params.items():
    np.testing.assert_allclose(loaded[name], array, rtol=1e-6, err_msg=name)
  assert not report.names("fresh")
  del params[
    next(name for name in params if name.startswith("TemporalTransformer/"))
  ]
  interop.save_params(traverse_util.unflatten_dict(params, sep="/"), path)
  with pytest.raises(ValueError, match=r"missing:\n  TemporalTransformer/"):
    interop.load_params(path, model, optional=optional)


def test_joint_attention_is_no_encoder_of_frames(tmp_path):
  model, params = make("gap")
  joint = {k: v for k, v in params.items() if "TemporalTransformer" not in k}
  joint["pos_embedding"] = np.ones((1, 16, 16))  # 4x2x2, no 4x4.
  path = tmp_path / "joint.npz"
  interop.save_params(traverse_util.unflatten_dict(joint, sep="/"), path)
  fresh = ["TemporalTransformer", "pos_embedding_TemporalTransformer"]
  with pytest.raises(ValueError, match=r"joint\.npz .* at once"):
    interop.load_params_and_report(path, model, fresh=fresh)


@pytest.mark.parametrize("name", ["scenic", "big_vision"])
def test_other_formats_have_no_second_encoder(name, tmp_path):
  _, params = make("gap")
  nested = traverse_util.unflatten_dict(params, sep="/")
  with pytest.raises(ValueError, match="native"):
    interop.save_params(nested, tmp_path / "x.npz", format=name)
