"""Files in the formats of the published code give its logits."""

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization, traverse_util

from tests import tiny
from tests import vectors as vectors_lib
from tests.vectors import assert_close
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.interop import resize


def load(path, model, **options):
  """Loads, and checks that nothing had to be changed."""
  params, report = interop.load_params_and_report(path, model, **options)
  assert {row.fate for row in report.rows} == {"loaded"}
  return params, report


@pytest.mark.parametrize("pool", ["gap", "tok", "map", "gap_sincos"])
def test_flexivit(pool, vectors, tmp_path, logits):
  reference = vectors(f"bv_flexivit_{pool}")
  arrays = reference.flat("params/")
  path = tmp_path / "weights.npz"
  # As released: the parameters of a training state.
  np.savez(path, **{f"params/{k}": v for k, v in arrays.items()})

  cfg = reference.meta["cfg"]
  # No file tells the grid whose sines are computed.
  grid = cfg["posemb_size"] if cfg["posemb"] == "sincos2d" else None
  model = models.ViT(**interop.describe(path, posemb_grid=grid).model)
  params, report = load(path, model)
  assert report.format == "big_vision"
  # The model itself is compared at all calls, where its tests are.
  call, settings = next(iter(reference.meta["calls"].items()))
  images = reference["in/" + call.split("@")[0]]
  y = logits(model, params, images, patch_size=settings["patch"])
  assert_close(y, reference[f"out/{call}/logits"])


@vectors_lib.checks(
  "bv_vit_learn_gap",
  "bv_vit_learn_map",
  "bv_vit_learn_tok",
  "bv_vit_sincos_gap",
  "bv_vit_sincos_tok",
  "bv_vit_scan",
)
def test_vit(name, vectors, tmp_path, logits):
  reference = vectors(name)
  path = tmp_path / "weights.npz"
  np.savez_compressed(path, **reference.flat("params/"))
  _, height, width, _ = reference["in/x"].shape
  patch = reference.meta["cfg"]["patch_size"]
  grid = (height // patch[0], width // patch[1])
  model = models.ViT(**interop.describe(path, posemb_grid=grid).model)
  params, _ = load(path, model)
  y = logits(model, params, reference["in/x"])
  assert_close(y, reference["out/logits"])


def test_representation(vectors, tmp_path):
  reference = vectors("bv_vit_none_rep")
  path = tmp_path / "weights.npz"
  np.savez(path, **reference.flat("params/"))
  description = interop.describe(path)
  assert description.model["num_classes"] is None
  assert description.model["rep_size"] == 12
  model = models.ViT(**description.model)
  params, _ = load(path, model)
  run = jax.jit(lambda p, x: model.apply({"params": p}, x)[1]["encoded"])
  assert_close(run(params, reference["in/x"]), reference["out/encoded"])


def as_augreg(arrays):
  """Names, and one position for the cls token, as released in 2021."""
  arrays = dict(arrays)
  first = np.full((1, 1, arrays["cls"].shape[-1]), 0.25, np.float32)
  positions = [first, arrays.pop("pos_embedding")]
  arrays["cls"] = arrays["cls"] - first
  arrays["Transformer/posembed_input/pos_embedding"] = np.concatenate(
    positions, axis=1
  )
  new = {}
  for name, array in arrays.items():
    name = name.replace("LayerNorm_1", "LayerNorm_2")
    name = name.replace("MultiHeadDotProductAttention_0", "Attention")
    name = name.replace("Attention", "MultiHeadDotProductAttention_1")
    new[name.replace("MlpBlock_0", "MlpBlock_3")] = array
  return new


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/img/"])
def test_augreg(prefix, vectors, tmp_path, logits):
  reference = vectors("bv_vit_learn_tok")
  arrays = as_augreg(reference.flat("params/"))
  path = tmp_path / "weights.npz"
  state = {} if not prefix else {"opt/state/step": np.int32(7)}
  np.savez(path, **{prefix + k: v for k, v in arrays.items()}, **state)
  description = interop.describe(path)
  assert description.model["posemb_grid"] == (4, 4)
  model = models.ViT(**description.model)
  params, report = load(path, model)
  assert "cls [1, 1, 32] (with its position)" in str(report)
  assert ("Left out, as no parameters: 1 array." in str(report)) == bool(prefix)
  y = logits(model, params, reference["in/x"])
  assert_close(y, reference["out/logits"])


def test_bfloat16_without_a_type(vectors, tmp_path, logits):
  # Reference parameters have few digits, so bfloat16 holds them exactly.
  reference = vectors("bv_vit_learn_gap")
  arrays = reference.flat("params/")
  path = tmp_path / "weights.npz"
  np.savez(
    path,
    **{k: v.astype(ml_dtypes.bfloat16).view("V2") for k, v in arrays.items()},
  )
  model = models.ViT(**interop.describe(path).model)
  params, _ = load(path, model)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
  y = logits(model, params, reference["in/x"])
  assert_close(y, reference["out/logits"])
  params, _ = load(path, model, dtype=None)
  assert {x.dtype for x in jax.tree.leaves(params)} == {
    np.dtype(ml_dtypes.bfloat16)
  }


@pytest.fixture
def as_in_timm(monkeypatch):
  """Computes as timm did: resized bicubically."""
  vectors_lib.interpolate_as_timm(monkeypatch)


@vectors_lib.checks(
  "timm_flexivit_tok", "timm_flexivit_map", "timm_flexivit_avg"
)
def test_timm(name, vectors, tmp_path, as_in_timm):
  reference = vectors(name)
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file(reference.flat("params/"), path)
  model = models.ViT(**interop.describe(path, num_heads=4, gelu="erf").model)
  params, report = load(path, model, input_mean=0.5, input_std=0.5)
  assert report.format == "timm"
  images = reference["in/x"].transpose(0, 2, 3, 1)
  for size in reference.meta["patches"]:
    _, out = tiny.apply(model, params, images, patch_size=size)
    expected = reference.flat(f"out/patch{size}/")
    assert_close(out["encoded"], expected["features"])
    assert_close(out["pre_logits"], expected["pre_logits"])
    assert_close(out["logits"], expected["logits"])


@pytest.mark.parametrize("pool", ["tok", "map", "avg"])
def test_saved_for_timm(pool, vectors, tmp_path):
  """What is saved is what `load_state_dict(..., strict=True)` wants.

  That was also tried with timm 1.0.31 and torch 2.13.0: for
  VisionTransformer(img_size=48, act_layer="gelu_tanh")
  with global_pool "token", "avg" (class_token=False, fc_norm=False) and "map"
  (class_token=False) logits were the same to 3e-7, and so were those that
  timm's own reader of big_vision files gave; transformers 5.23.0 read what is
  saved for it, with no missing or unexpected names, to 2e-7.
  """
  arrays = {
    # Its default for "avg" is another model: see the next test.
    name.replace("fc_norm.", "norm."): array
    for name, array in vectors(f"timm_flexivit_{pool}").flat("params/").items()
  }
  first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
  safetensors.numpy.save_file(arrays, first)
  model = models.ViT(**interop.describe(first, num_heads=4, gelu="erf").model)
  params, _ = load(first, model, input_mean=0.5, input_std=0.5)
  interop.save_params(params, second, "timm")
  saved = safetensors.numpy.load_file(second)
  assert saved.keys() == arrays.keys()
  if pool == "tok":
    # timm's models have a position for the cls token, but for a few.
    arrays["pos_embed"] = np.pad(arrays["pos_embed"], ((0, 0), (1, 0), (0, 0)))
  for name, array in arrays.items():
    np.testing.assert_array_equal(saved[name], array, err_msg=name)


@pytest.mark.parametrize("suffix", ["npz", "msgpack"])
@pytest.mark.parametrize(
  "name", ["fuse_loc1", "loc0", "fuse_loc0_v10", "patch"]
)
def test_scenic(name, suffix, vectors, tmp_path, logits):
  reference = vectors(f"scenic_vit_img_{name}")
  path = tmp_path / f"checkpoint_1.{suffix}"
  arrays = reference.flat("params/")
  if suffix == "npz":
    np.savez(path, **arrays)
  else:
    params = traverse_util.unflatten_dict(arrays, sep="/")
    state = {"optimizer": {"target": params}, "global_step": 3}
    path.write_bytes(serialization.msgpack_serialize(state))
  description = interop.describe(path)
  assert description.format == "scenic"
  arguments = description.model
  tokenizer = reference.meta["tokenizer"]
  if name != "patch":
    assert arguments["token_learner"]["fuser"] == tokenizer["use_tokenfuse"]
    arguments["token_learner"]["layer"] = tokenizer["tokenlearner_loc"]
  model = models.ViT(**arguments)
  params, _ = load(path, model)
  if reference.meta["classifier"] == "gap":
    y = logits(model, params, reference["in/x"])
    assert_close(y, reference["out/y"])


def test_position_embeddings_as_big_vision_loads_them(vectors):
  reference = vectors("bv_posemb")
  for name, expected in reference.flat("out/load/").items():
    old, new = map(int, name.split("->"))
    resized = resize.resize_posemb(
      reference[f"in/{old}"], (old, old), (new, new), "zoom"
    )
    assert_close(resized, expected)
