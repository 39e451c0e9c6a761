"""Differences between a file and a model are bridged by rule, or refused."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from tokenlearner_flexivit import interop
from tokenlearner_flexivit.interop import grids, resize
from tokenlearner_flexivit.models import patch_embed, posemb

LEARNED = dict(layer=0, num_tokens=3, bottleneck_dim=8)


@pytest.fixture
def saved(tmp_path, make_model, make_params):
  """Returns a function that saves a model: its path and parameters."""

  def save(**overrides):
    params = make_params(make_model(**overrides))
    path = tmp_path / "weights.npz"
    interop.save_params(params, path)
    return path, params

  return save


def shown(report, fate):
  """The rows of one fate, without those that fit as they were."""
  return {row.name: row for row in report.rows if row.fate == fate}


def test_patch_size(saved, make_model, logits):
  path, params = saved()
  model = make_model(patch_size=(6, 4))
  loaded, report = interop.load_params_and_report(path, model)
  assert list(shown(report, "resized")) == ["embedding/kernel"]
  assert "embedding/kernel [4, 4, 3, 16] -> [6, 4, 3, 16] (PI-resize)" in str(
    report
  )
  np.testing.assert_allclose(
    loaded["embedding"]["kernel"],
    patch_embed.resize_kernel(params["embedding"]["kernel"], (6, 4)),
    rtol=1e-6,
  )
  # Growing patches lose nothing: both models compute the same at /6x4.
  images = np.random.default_rng(0).uniform(-1, 1, (1, 18, 12, 3))
  np.testing.assert_allclose(
    logits(model, loaded, images),
    logits(make_model(), params, images, patch_size=(6, 4)),
    rtol=1e-4,
    atol=1e-6,
  )


@pytest.mark.parametrize("method", ["linear", "zoom"])
def test_grid(method, saved, make_model, logits):
  path, params = saved()
  model = make_model(posemb_grid=(2, 5))
  loaded, report = interop.load_params_and_report(
    path, model, posemb_method=method
  )
  row = shown(report, "resized")["pos_embedding"]
  assert (row.file_shape, row.model_shape) == ((1, 9, 16), (1, 10, 16))
  assert row.note == f"{method}, 3x3 -> 2x5"
  images = np.random.default_rng(0).uniform(-1, 1, (1, 8, 20, 3))
  before = logits(make_model(), params, images)
  same = np.allclose(logits(model, loaded, images), before, rtol=1e-5)
  # "linear" is what the model does anyway, "zoom" is something else.
  assert same == (method == "linear")


def test_zoom_keeps_the_corners():
  cells = np.arange(12, dtype=np.float32).reshape(1, 12, 1)
  zoomed = resize.resize_posemb(cells, (3, 4), (5, 7), "zoom").reshape(5, 7)
  assert zoomed[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [0, 3, 8, 11]
  assert zoomed[1, 1] == 2.5
  with pytest.raises(ValueError, match="Known: linear, zoom, bicubic"):
    resize.resize_posemb(cells, (3, 4), (5, 7), "cubic")


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ((9, True), ((3, 3), False)),
    ((10, True), ((3, 3), True)),
    ((10, False), (None, False)),
    ((10, True, (2, 5)), ((2, 5), False)),
    ((16, True, (3, 5)), ((3, 5), True)),
    ((16, True, (3, 5), (4, 4)), ((4, 4), False)),
    ((7, True, None, (2, 3)), ((2, 3), True)),
    ((1, True), ((1, 1), False)),
  ],
)
def test_guess_of_a_grid(arguments, expected):
  assert grids.posemb_grid(*arguments) == expected


def test_wrong_grid_is_refused(saved, make_model):
  path, _ = saved()
  with pytest.raises(ValueError, match="has 8 cells, but the file's"):
    interop.load_params(path, make_model(), posemb_grid=(2, 4))


def test_position_of_the_cls_token(
  saved, make_model, make_params, logits, tmp_path
):
  # As in timm and Hugging Face: the embedding covers the cls token.
  path, params = saved(pool="tok")
  flat = traverse_util.flatten_dict(params, sep="/")
  first = np.full((1, 1, 16), 0.5, np.float32)
  flat["pos_embedding"] = np.concatenate([first, flat["pos_embedding"]], 1)
  np.savez(path, **flat)
  model = make_model(pool="tok", posemb_grid=(6, 6))
  loaded, report = interop.load_params_and_report(path, model)
  np.testing.assert_array_equal(loaded["cls"], params["cls"] + 0.5)
  np.testing.assert_allclose(
    loaded["pos_embedding"],
    posemb.resize_posemb(params["pos_embedding"], (3, 3), (6, 6)),
    rtol=1e-6,
  )
  assert shown(report, "loaded")["cls"].note == "with its position"


@pytest.mark.parametrize("num_classes", [7, None])
def test_another_head(num_classes, saved, make_model):
  path, _ = saved(rep_size=6)
  model = make_model(num_classes=num_classes, head_zeroinit=False)
  loaded, report = interop.load_params_and_report(path, model, seed=3)
  unused = {"pre_logits/kernel", "pre_logits/bias"}
  head = {"head/kernel", "head/bias"}
  if num_classes:
    assert set(shown(report, "unused")) == unused
    assert set(shown(report, "fresh")) == head
    images = np.zeros((1, 12, 12, 3), np.float32)
    head = jax.jit(lambda key: model.init(key, images)["params"]["head"])
    np.testing.assert_array_equal(
      loaded["head"]["kernel"], head(jax.random.key(3))["kernel"]
    )
    assert np.any(loaded["head"]["kernel"])
  else:
    assert set(shown(report, "unused")) == unused | head
    assert "head" not in loaded


def test_head_after_another_layer_is_refused(saved, make_model):
  path, _ = saved(rep_size=16)
  with pytest.raises(ValueError, match=r"unexpected:\n  pre_logits/bias"):
    interop.load_params(path, make_model())


@pytest.mark.parametrize("learned", [LEARNED, LEARNED | dict(fuser=True)])
def test_token_learner_is_inserted(learned, saved, make_model, capsys):
  path, params = saved(depth=1)
  model = make_model(depth=1, token_learner=learned)
  loaded = interop.load_params(path, model)
  printed = capsys.readouterr().out
  assert "TokenLearner_0/LayerNorm_0/scale [16] (inserted)" in printed
  assert loaded["Transformer"]["TokenLearner_0"]
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded))
  np.testing.assert_array_equal(
    loaded["head"]["kernel"], params["head"]["kernel"]
  )
  images = np.zeros((1, 12, 12, 3), np.float32)
  answer, _ = jax.eval_shape(model.apply, {"params": loaded}, images)
  assert answer.shape == (1, 5)


def test_fresh_arrays_from_given_parameters(saved, make_model, make_params):
  path, params = saved()
  model = make_model(num_classes=7)
  mine = make_params(model, seed=5)
  loaded, _ = interop.load_params_and_report(path, model, params=mine)
  np.testing.assert_array_equal(loaded["head"]["bias"], mine["head"]["bias"])
  np.testing.assert_array_equal(
    loaded["embedding"]["bias"], params["embedding"]["bias"]
  )


@pytest.mark.parametrize(
  "mean, std",
  [
    ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ([0.5], [-0.5]),  # Inverted, by value_range(1,-1).
  ],
)
def test_statistics_of_the_input(mean, std, saved, make_model, logits):
  path, params = saved()
  model = make_model()
  loaded, report = interop.load_params_and_report(
    path, model, input_mean=mean, input_std=std
  )
  assert "absorbed mean" in str(report)
  images = np.random.default_rng(0).uniform(0, 1, (1, 12, 12, 3))
  np.testing.assert_allclose(
    logits(model, loaded, 2 * images - 1),
    logits(model, params, (images - np.array(mean)) / np.array(std)),
    rtol=1e-4,
  )
  with pytest.raises(ValueError, match="one value for all channels, or 3"):
    interop.load_params(path, model, input_mean=[0.5, 0.5], input_std=0.5)
  with pytest.raises(ValueError, match="must not contain 0"):
    interop.load_params(path, model, input_mean=0.5, input_std=[0])
  with pytest.raises(ValueError, match="must be finite"):
    interop.load_params(path, model, input_mean=0.5, input_std=[np.nan])
  other = path.with_name("other.npz")
  for alone in (dict(input_mean=0.4), dict(input_std=0.2), dict(input_std=0.5)):
    with pytest.raises(ValueError, match="give both"):
      interop.load_params(path, model, **alone)
    with pytest.raises(ValueError, match="give both"):
      interop.save_params(params, other, **alone)
  assert not other.exists()


def test_statistics_of_bytes_are_refused(saved, make_model, make_params):
  path, _ = saved()
  model = make_model()
  wrong = dict(input_mean=[123.7, 116.3, 103.5], input_std=[58.4, 57.1, 57.4])
  with pytest.raises(ValueError, match="Divide both by 255"):
    interop.load_params(path, model, **wrong)
  with pytest.raises(ValueError, match="Divide both by 255"):
    interop.save_params(make_params(model), path, model=model, **wrong)


def test_a_file_without_arrays(tmp_path, make_model):
  path = tmp_path / "none.safetensors"
  safetensors.numpy.save_file({}, path)
  with pytest.raises(ValueError, match="It has no arrays"):
    interop.load_params(path, make_model())


@pytest.mark.parametrize("pool", ["tok", "gap"])
def test_no_rule(pool, saved, make_model):
  path, _ = saved(pool=pool)
  model = make_model(pool="map", width=24, depth=1, posemb="sincos2d")
  with pytest.raises(ValueError) as error:
    interop.load_params(path, model)
  lines = str(error.value).splitlines()
  assert lines[0] == f"{path} does not fit the model; nothing was loaded."
  missing, unexpected, misshapen = map(
    lines.index, ("missing:", "unexpected:", "misshapen:")
  )
  assert "  MAPHead_0/probe [1, 1, 24]" in lines[missing:unexpected]
  assert "  pos_embedding [1, 9, 16]" in lines[unexpected:misshapen]
  assert ("  cls [1, 1, 16]" in lines[unexpected:misshapen]) == (pool == "tok")
  block = "Transformer/encoderblock_1/LayerNorm_0/bias [16]"
  assert f"  {block}" in lines[unexpected:misshapen]
  norm = "Transformer/encoder_norm/bias [16], the model's is [24]"
  assert f"  {norm}" in lines[misshapen:]


def test_exceptions_that_the_caller_makes(saved, make_model):
  path, _ = saved(depth=1, pool="tok")
  model = make_model(depth=1, pool="map")
  loaded, report = interop.load_params_and_report(
    path, model, fresh=("MAPHead_0/",), unused=("cls",)
  )
  assert list(shown(report, "unused")) == ["cls"]
  assert set(shown(report, "fresh")) == {
    f"MAPHead_0/{name}"
    for name in traverse_util.flatten_dict(loaded["MAPHead_0"], sep="/")
  }
  path, _ = saved(depth=2, pool="tok")
  _, report = interop.load_params_and_report(
    path, model, fresh=("MAPHead_0/", "Transformer/"), unused=("cls",)
  )
  unused = shown(report, "unused")  # The second block of the file.
  assert unused and {
    name.split("/")[1] for name in unused if name != "cls"
  } == {"encoderblock_1"}
  with pytest.raises(ValueError, match="'MapHead': no array's name begins so"):
    interop.load_params(path, model, fresh=("MapHead",), unused=("cls",))


def test_layer_scale_is_folded(saved, tmp_path, make_model, make_params):
  model = make_model(pool="tok")
  params = make_params(model)
  path = tmp_path / "model.safetensors"
  interop.save_params(params, path, "timm")
  arrays = safetensors.numpy.load_file(path)
  gamma = np.linspace(0.5, 2, 16, dtype=np.float32)
  safetensors.numpy.save_file(arrays | {"blocks.1.ls2.gamma": gamma}, path)
  loaded, _ = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  for name in ("kernel", "bias"):
    scaled, plain = (
      tree["Transformer"]["encoderblock_1"]["MlpBlock_0"]["Dense_1"][name]
      for tree in (loaded, params)
    )
    np.testing.assert_array_equal(
      scaled, plain * gamma.reshape((1,) * (plain.ndim - 1) + (-1,))
    )


@pytest.mark.parametrize("method", ["central_frame", "average"])
def test_kernel_for_video(method):
  kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 8), np.float32)
  inflated = interop.inflate_kernel(kernel, 3, method)
  assert inflated.shape == (3, 4, 4, 3, 8) and inflated.dtype == np.float32
  # A video that stands still gives the tokens of the image.
  np.testing.assert_allclose(inflated.sum(axis=0), kernel, rtol=1e-6)
  if method == "central_frame":
    np.testing.assert_array_equal(inflated[1], kernel)
  with pytest.raises(ValueError, match="Known: central_frame, average"):
    interop.inflate_kernel(kernel, 3, "tile")


@pytest.mark.usefixtures("unchecked_shapes")
def test_kernel_for_video_of_another_rank():
  with pytest.raises(ValueError, match="at least one frame"):
    interop.inflate_kernel(np.zeros((4, 3, 8), np.float32), 3)
