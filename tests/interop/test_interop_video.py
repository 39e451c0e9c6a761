"""Weights for images in a model for videos, and Scenic's for videos."""

import jax
import numpy as np
import pytest
from flax import serialization, traverse_util

from tests import vectors as vectors_lib
from tests.tiny import apply
from tests.vectors import assert_close
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.interop import resize
from tokenlearner_flexivit.models import patch_embed, posemb

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3))
IMAGES = IMAGES.astype(np.float32)
VIDEOS = np.random.default_rng(1).uniform(-1, 1, (2, 6, 12, 12, 3))
VIDEOS = VIDEOS.astype(np.float32)
SCENIC = (
  "scenic_vit_vid_3dconv_fuse_loc1",
  "scenic_vit_vid_sampling_loc1",
  "scenic_vit_repr5d_fuse_loc1",
)


@pytest.fixture
def saved(tmp_path, make_model, make_params):
  """Returns a function that saves a model for images: path, model, params."""

  def save(**overrides):
    model = make_model(head_zeroinit=False, **overrides)
    params = make_params(model)
    path = tmp_path / "weights.npz"
    interop.save_params(params, path)
    return path, model, params

  return save


@pytest.fixture
def make_video_model(make_model):
  """Returns a function that builds one like that for images."""

  def make(**overrides):
    like = make_model()
    arguments = dict(
      num_classes=5,
      width=like.width,
      depth=like.depth,
      mlp_dim=like.mlp_dim,
      num_heads=like.num_heads,
      patch_size=(3, 4, 4),
      posemb_grid=(2, 3, 3),
    )
    return models.ViViT(**(arguments | overrides))

  return make


def rows(report):
  return {row.name: row for row in report.rows if row.fate != "loaded"}


def test_the_average_of_a_video_that_stands_still(saved, make_video_model):
  path, image_model, params = saved()
  model = make_video_model()
  loaded, report = interop.load_params_and_report(
    path, model, inflate="average"
  )
  assert rows(report).keys() == {"embedding/kernel", "pos_embedding"}
  for line in (
    "embedding/kernel [4, 4, 3, 16] -> [3, 4, 4, 3, 16] (inflated: average)",
    "pos_embedding [1, 9, 16] -> [1, 18, 16] (repeated 2 times)",
  ):
    assert line in str(report)
  for frame in loaded["embedding"]["kernel"]:
    np.testing.assert_allclose(
      frame, params["embedding"]["kernel"] / 3, rtol=1e-6
    )
  _, out = apply(model, loaded, np.repeat(IMAGES[:, None], 6, axis=1))
  _, expected = apply(image_model, params, IMAGES)
  for step in (0, 1):
    np.testing.assert_allclose(
      out["stem"][:, step], expected["stem"], atol=1e-6
    )


def test_the_central_frame_of_any_video(saved, make_video_model):
  path, image_model, params = saved()
  model = make_video_model()
  loaded, report = interop.load_params_and_report(path, model)
  assert rows(report)["embedding/kernel"].note == "inflated: central_frame"
  _, out = apply(model, loaded, VIDEOS)
  for step, frame in enumerate((1, 4)):
    _, expected = apply(image_model, params, VIDEOS[:, frame])
    np.testing.assert_allclose(
      out["stem"][:, step], expected["stem"], atol=1e-6
    )


@pytest.mark.parametrize(
  "settings, pool",
  [
    (dict(inflate="average"), "gap"),
    (dict(inflate="central_frame"), "map"),
    (dict(patch_size=(4, 4), posemb_grid=(6, 3, 3)), "gap"),
  ],
)
def test_a_video_that_stands_still_is_its_image(
  settings, pool, saved, make_video_model
):
  # Attention to copies of tokens is attention to one of them, and so are the
  # poolings; only a cls token would see itself less.
  learned = dict(layer=1, num_tokens=3, fuser=True)
  path, image_model, params = saved(pool=pool, token_learner=learned)
  settings = dict(settings)
  options = {k: settings.pop(k) for k in list(settings) if k == "inflate"}
  model = make_video_model(pool=pool, token_learner=learned, **settings)
  loaded, _ = interop.load_params_and_report(path, model, **options)
  expected, _ = apply(image_model, params, IMAGES)
  actual, _ = apply(model, loaded, np.repeat(IMAGES[:, None], 6, axis=1))
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["linear", "zoom"])
def test_other_patches_and_another_grid(method, saved, make_video_model):
  path, _, params = saved()
  model = make_video_model(patch_size=(2, 6, 4), posemb_grid=(4, 2, 5))
  loaded, report = interop.load_params_and_report(
    path, model, posemb_method=method
  )
  notes = {name: row.note for name, row in rows(report).items()}
  assert notes == {
    "embedding/kernel": "PI-resize, inflated: central_frame",
    "pos_embedding": f"{method}, 3x3 -> 2x5, repeated 4 times",
  }
  kernel = loaded["embedding"]["kernel"]
  np.testing.assert_allclose(
    kernel[1],
    patch_embed.resize_kernel(params["embedding"]["kernel"], (6, 4)),
    rtol=1e-6,
  )
  assert not kernel[0].any()
  steps = loaded["pos_embedding"].reshape(4, 10, 16)
  for step in steps:
    np.testing.assert_array_equal(step, steps[0])
  if method == "linear":
    frame = posemb.resize_posemb(params["pos_embedding"], (3, 3), (2, 5))
    np.testing.assert_allclose(steps[0], frame[0], rtol=1e-6)


def test_zoom_keeps_first_and_last_frames():
  cells = np.arange(12, dtype=np.float32).reshape(1, 12, 1)
  zoomed = resize.resize_posemb(cells, (3, 2, 2), (5, 2, 2), "zoom")
  expected = np.linspace(0, 8, 5)[:, None] + np.arange(4)
  np.testing.assert_array_equal(zoomed.reshape(5, 4), expected)


def test_unknown_ways_to_inflate(saved, make_video_model):
  path, *_ = saved()
  with pytest.raises(ValueError, match=r"'tile'.*Known: central_frame"):
    interop.load_params(path, make_video_model(), inflate="tile")


def test_statistics_of_the_input(saved, make_video_model):
  path, *_ = saved()
  mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
  model = make_video_model()
  options = dict(inflate="average")
  plain, _ = interop.load_params_and_report(path, model, **options)
  options |= dict(input_mean=mean, input_std=std)
  absorbed, _ = interop.load_params_and_report(path, model, **options)
  expected, _ = apply(model, plain, (VIDEOS - np.array(mean)) / np.array(std))
  actual, _ = apply(model, absorbed, 2 * VIDEOS - 1)
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)
  # Likewise if the file has tubelets.
  interop.save_params(plain, path)
  again, _ = interop.load_params_and_report(
    path, model, input_mean=mean, input_std=std
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), again, absorbed
  )


@pytest.fixture
def saved_video(tmp_path, make_video_model, make_params):
  """Returns a function that saves a model for videos: path and parameters."""

  def save(**overrides):
    params = make_params(make_video_model(**overrides), shape=(6, 12, 12))
    path = tmp_path / "video.npz"
    interop.save_params(params, path)
    return path, params

  return save


@pytest.mark.parametrize("patch_size", [(3, 4, 4), (4, 4)])
def test_native_round_trip(
  patch_size, saved_video, make_video_model, assert_same
):
  settings = dict(
    patch_size=patch_size, token_learner=dict(layer=1, num_tokens=3)
  )
  path, params = saved_video(**settings)
  loaded, report = interop.load_params_and_report(
    path, make_video_model(**settings)
  )
  assert {row.fate for row in report.rows} == {"loaded"}
  assert_same(loaded, params)


def test_longer_tubelets_and_another_number_of_them(
  saved_video, make_video_model
):
  path, params = saved_video()
  model = make_video_model(patch_size=(6, 4, 4), posemb_grid=(1, 3, 3))
  with pytest.raises(ValueError, match="pass the file's posemb_grid"):
    interop.load_params(path, model)
  loaded, report = interop.load_params_and_report(
    path, model, posemb_grid=(2, 3, 3)
  )
  notes = {name: row.note for name, row in rows(report).items()}
  assert notes == {
    "embedding/kernel": "PI-resize",
    "pos_embedding": "linear, 2x3x3 -> 1x3x3",
  }
  # Growing tubelets lose nothing: both models compute the same with them.
  smaller, _ = apply(make_video_model(), params, VIDEOS, patch_size=(6, 4, 4))
  larger, _ = apply(model, loaded, VIDEOS)
  np.testing.assert_allclose(larger, smaller, rtol=1e-4, atol=1e-5)


def test_a_grid_that_may_be_of_images_or_of_videos(
  saved, saved_video, make_video_model
):
  # 36 cells are 6x6, or four times 3x3.
  model = make_video_model(patch_size=(4, 4), posemb_grid=(6, 3, 3))
  for path, grid, note in (
    (saved(posemb_grid=(6, 6))[0], (6, 6), "6x6 -> 3x3, repeated 6 times"),
    (
      saved_video(patch_size=(4, 4), posemb_grid=(4, 3, 3))[0],
      (4, 3, 3),
      "4x3x3 -> 6x3x3",
    ),
  ):
    with pytest.raises(ValueError, match="pass the file's posemb_grid"):
      interop.load_params(path, model)
    _, report = interop.load_params_and_report(path, model, posemb_grid=grid)
    assert rows(report)["pos_embedding"].note == f"linear, {note}"
  # For tubelets the kernel tells that it is of images.
  _, report = interop.load_params_and_report(
    saved(posemb_grid=(6, 6))[0], make_video_model()
  )
  assert "6x6 -> 3x3, repeated 2 times" in str(report)


def test_a_grid_of_as_many_cells_is_told(saved_video, make_video_model):
  path, _ = saved_video()  # Of 2x3x3.
  model = make_video_model(posemb_grid=(1, 3, 6))
  _, report = interop.load_params_and_report(path, model)
  (warning,) = report.warnings
  assert "18 positions are taken as a grid (1, 3, 6), but nothing" in warning
  _, report = interop.load_params_and_report(path, model, posemb_grid=(2, 3, 3))
  assert rows(report)["pos_embedding"].note == "linear, 2x3x3 -> 1x3x6"
  assert not report.warnings


def test_position_of_the_cls_token(saved_video, make_video_model):
  # As in Scenic's ViViT: the embedding covers the cls token.
  path, params = saved_video(pool="tok")
  flat = traverse_util.flatten_dict(params, sep="/")
  first = np.full((1, 1, 16), 0.5, np.float32)
  flat["pos_embedding"] = np.concatenate([first, flat["pos_embedding"]], 1)
  np.savez(path, **flat)
  loaded, report = interop.load_params_and_report(
    path, make_video_model(pool="tok")
  )
  np.testing.assert_array_equal(loaded["cls"], params["cls"] + 0.5)
  np.testing.assert_array_equal(
    loaded["pos_embedding"], params["pos_embedding"]
  )
  assert "cls [1, 1, 16] (with its position)" in str(report)


def test_a_video_model_is_none_for_images(saved_video, make_model, tmp_path):
  path, params = saved_video()
  with pytest.raises(ValueError, match=r"embedding/kernel \[3, 4, 4, 3, 16\],"):
    interop.load_params(path, make_model())
  with pytest.raises(ValueError, match=r"pos_embedding \[1, 18, 16\],"):
    interop.load_params(path, make_model(), posemb_grid=(2, 3, 3))
  with pytest.raises(ValueError, match=r"\(18, 18\) has 324 cells"):
    interop.load_params(path, make_model(), posemb_grid=[18])
  with pytest.raises(ValueError, match=r"Build a models\.ViViT"):
    interop.describe(path)
  for name, suffix in (
    ("big_vision", "npz"),
    ("timm", "safetensors"),
    ("hugging_face", "safetensors"),
  ):
    other = tmp_path / f"other.{suffix}"
    with pytest.raises(ValueError, match=f"{name} has no model for videos"):
      interop.save_params(params, other, name)
    assert not other.exists()


@pytest.mark.parametrize("suffix", ["npz", "msgpack"])
@pytest.mark.parametrize("name", SCENIC)
def test_scenic(name, suffix, vectors, tmp_path, assert_same):
  reference = vectors(name)
  path = tmp_path / f"checkpoint_1.{suffix}"
  arrays = reference.flat("params/")
  if suffix == "npz":
    np.savez(path, **arrays)
  else:
    params = traverse_util.unflatten_dict(arrays, sep="/")
    state = {"optimizer": {"target": params}, "global_step": 3}
    path.write_bytes(serialization.msgpack_serialize(state))
  model = vectors_lib.scenic_video_model(reference)
  params, report = interop.load_params_and_report(path, model)
  assert report.format == "scenic"
  assert {row.fate for row in report.rows} == {"loaded"}
  logits, out = apply(model, params, reference["in/x"])
  y = out["encoded"] if model.num_classes is None else logits
  assert_close(y, reference["out/y"])

  interop.save_params(params, path, "scenic")
  again, _ = interop.load_params_and_report(path, model)
  assert_same(again, params)
