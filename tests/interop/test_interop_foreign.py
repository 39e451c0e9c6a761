"""Weights of others: what is beside them is read, what differs is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from configs import transfer
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.models import patch_embed
from tokenlearner_flexivit.tasks import teachers as teachers_lib

TIMM = dict(
  architecture="vit_tiny_patch4_12",
  num_features=16,
  global_pool="token",
  model_args=dict(num_heads=2, img_size=[12, 12], embed_dim=16),
  pretrained_cfg=dict(mean=[0.5] * 3, std=[0.5] * 3, input_size=[3, 12, 12]),
)
HUGGING_FACE = dict(
  model_type="vit",
  hidden_size=16,
  num_attention_heads=2,
  hidden_act="gelu_pytorch_tanh",
  layer_norm_eps=1e-6,
  image_size=12,
)


@pytest.fixture
def library_file(tmp_path, make_model, make_params):
  """Returns a function that saves a file as a library does.

  It takes the format, what config.json holds (None for no such file), changes
  of the arrays and arguments of the model; it returns path, model and arrays.
  """

  def save(format, config, changes=None, **overrides):
    # What these libraries' models have, unless a config tells another.
    usual = dict(gelu="erf") if format == "timm" else {}
    if format == "hugging_face" and config is None:
      usual = dict(gelu="erf", norm_eps=1e-12)
    model = make_model(**dict(pool="tok") | usual | overrides)
    path = tmp_path / "model.safetensors"
    interop.save_params(make_params(model), path, format)
    arrays = safetensors.numpy.load_file(path) | (changes or {})
    arrays = {
      name: array for name, array in arrays.items() if array is not None
    }
    # Without the note on our model that `save_params` leaves.
    safetensors.numpy.save_file(arrays, path)
    if config is not None:
      (tmp_path / "config.json").write_text(json.dumps(config))
      half = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
      (tmp_path / "preprocessor_config.json").write_text(json.dumps(half))
    return path, model, arrays

  return save


@pytest.mark.parametrize(
  ("format", "config"), [("timm", TIMM), ("hugging_face", HUGGING_FACE)]
)
def test_a_config_beside_the_file(format, config, library_file):
  path, model, _ = library_file(format, config)
  described = interop.describe(path)
  assert models.ViT(**described.model) == model
  with pytest.raises(
    ValueError, match=r"has num_heads=2, as .*config\.json says"
  ):
    interop.load_params(path, model.clone(num_heads=4))
  with pytest.raises(ValueError, match="has num_heads=2"):
    interop.describe(path, num_heads=4)
  # A folder is what is in it.
  assert interop.describe(path.parent).model == described.model
  width = {"timm": "num_features", "hugging_face": "hidden_size"}[format]
  other = dict(config, model_args={}) | {width: 768}
  (path.parent / "config.json").write_text(json.dumps(other))
  with pytest.raises(ValueError, match="another model: its width is 768"):
    interop.load_params(path, model)


def test_a_bare_file_needs_its_heads(library_file):
  path, model, _ = library_file("timm", None)
  with pytest.raises(ValueError, match="how many attention heads"):
    interop.describe(path)
  described = interop.describe(path, num_heads=2)
  assert models.ViT(**described.model) == model
  text = "\n".join(described.guesses)
  for part in ("erf", "pooling", "mean and std", "posemb_grid=(3, 3)"):
    assert part in text
  with pytest.raises(ValueError, match=r"which images.*input_mean= .*--input"):
    interop.load_params(path, model)
  _, report = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  for part in ("erf", "pooling"):
    assert part in "\n".join(report.warnings)


@pytest.mark.parametrize(
  ("width", "heads"), [(1152, 16), (192, 3), (1536, None)]
)
def test_heads_of_published_widths(width, heads, library_file):
  path, model, _ = library_file(
    "timm", None, width=width, depth=1, mlp_dim=8, num_heads=heads or 24
  )
  if heads is None:  # Some have 16, some 24.
    with pytest.raises(ValueError, match="how many attention heads"):
      interop.describe(path)
    return
  described = interop.describe(path)
  assert described.model["num_heads"] == heads
  assert f"num_heads={heads}, from the width of {width}" in described.guesses
  _, report = interop.load_params_and_report(
    path, model.clone(num_heads=2 * heads), input_mean=0.5, input_std=0.5
  )
  assert f"width of {width} have {heads}" in str(report)


@pytest.mark.parametrize(
  ("format", "config", "message"),
  [
    ("timm", {"architecture": "vit_base_patch16_rope_224"}, "rotary"),
    ("timm", {"architecture": "vit_relpos_base_patch16_224"}, "relative"),
    ("timm", {"global_pool": "max"}, "global_pool='max'"),
    ("timm", {"global_pool": "map"}, "global_pool='map' without its arrays"),
    ("timm", {"model_args": {"act_layer": "relu"}}, "act_layer='relu'"),
    ("timm", {"model_args": {"qk_norm": True}}, "qk_norm=True"),
    ("hugging_face", {"hidden_act": "relu"}, "hidden_act='relu'"),
    ("hugging_face", {"model_type": "dinov3_vit"}, "rotary positions"),
    ("hugging_face", {"model_type": "beit"}, "relative positions"),
    ("hugging_face", {"model_type": "swin"}, "windowed attention"),
    ("hugging_face", {"model_type": "mpnet"}, "of the kind 'mpnet'"),
  ],
)
def test_features_that_a_config_tells(format, config, message, library_file):
  base = {"timm": TIMM, "hugging_face": HUGGING_FACE}[format]
  path, model, _ = library_file(format, base | config)
  for call in (interop.describe, lambda p: interop.load_params(p, model)):
    with pytest.raises(ValueError, match=f"{message}.*which the models here"):
      call(path)


def test_registers_that_are_not_there(library_file):
  config = TIMM | {"model_args": {"reg_tokens": 4}}
  path, _, _ = library_file("timm", config)
  with pytest.raises(ValueError, match="reg_tokens=4, the arrays 0"):
    interop.describe(path)


ROW = np.ones((16,), np.float32)
TOKEN = np.ones((1, 1, 16), np.float32)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"reg_token": TOKEN, "dist_token": TOKEN}, "reg_token and dist_token"),
    ({"blocks.0.mlp.fc1.weight": np.ones((48, 16))}, "gated MLP"),
    ({"blocks.0.attn.lambda_q1": ROW}, "differential attention"),
    ({"blocks.0.attn.q_norm.weight": ROW}, "normalised queries and keys"),
    ({"blocks.0.mlp.w12.weight": ROW}, "gated MLP"),
    ({"rope.freqs": ROW}, "rotary positions"),
    ({"blocks.0.attn.rel_pos_h": ROW}, "relative positions"),
    ({"blocks.0.gamma_1": ROW}, "LayerScale under names"),
    ({"blocks.0.attn.q_bias": ROW}, "biases of queries and values alone"),
    ({"patch_embed.backbone.conv.weight": ROW}, "hybrid"),
    ({"pos_embed": None}, "holds no 'pos_embed'"),
    ({"norm.weight": None, "norm.bias": None}, "no norm after the blocks"),
    ({"blocks.0.norm1.bias": None}, "such as RMSNorm"),
  ],
)
def test_features_that_arrays_tell(changes, message, library_file):
  path, model, _ = library_file(
    "timm",
    TIMM,
    {k: None if v is None else v.astype("f") for k, v in changes.items()},
  )
  unused = [name for name, array in changes.items() if array is not None]
  for call in (
    interop.describe,
    lambda p: interop.load_params(p, model),
    # Leaving these arrays out would give another model, so it is no way out.
    lambda p: interop.load_params(p, model, unused=unused),
  ):
    with pytest.raises(ValueError, match=message):
      call(path)


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (
      ["text_model.embeddings.token_embedding.weight"],
      "Hugging Face's CLIP or SigLIP without the image tower",
    ),
    (["visual.conv1.weight"], "CLIP's own or open_clip"),
    (["conv_proj.weight"], "torchvision"),
  ],
)
def test_families_whose_names_are_not_read(names, message, tmp_path):
  path = tmp_path / "a.safetensors"
  safetensors.numpy.save_file({name: ROW for name in names}, path)
  with pytest.raises(ValueError, match=message):
    interop.describe(path)


def test_hybrids_of_big_vision_are_refused(tmp_path, make_model, make_params):
  flat = traverse_util.flatten_dict(make_params(make_model()), sep="/")
  path = tmp_path / "a.npz"
  np.savez(path, **flat, **{"conv_root/kernel": ROW})
  with pytest.raises(ValueError, match=r"convolutions in place of patches"):
    interop.describe(path)


def test_statistics_must_be_said(library_file, logits, capsys):
  mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
  cfg = dict(TIMM["pretrained_cfg"], mean=mean, std=std)
  path, model, _ = library_file("timm", dict(TIMM, pretrained_cfg=cfg))
  described = interop.describe(path)
  assert described.input_mean == tuple(mean)
  assert "minus 0.485, 0.456, 0.406" in str(described)
  with pytest.raises(
    ValueError, match=r"expects images minus \[0.485.*init_mean"
  ):
    interop.load_params(path, model)
  config = transfer.get_config(f"init={path},runlocal")
  assert (config.init_mean, config.init_std) == (tuple(mean), tuple(std))
  teacher = teachers_lib.Teacher.create(5, "config.teachers.t", str(path))
  assert teacher.input_mean == tuple(mean)
  for _ in range(2):
    teacher.check({"image": np.zeros((24, 24, 3), np.float32)})
  assert "".join(capsys.readouterr()).count("weights expect 12 x 12 px") == 1
  absorbed, _ = interop.load_params_and_report(
    path, model, input_mean=described.input_mean, input_std=described.input_std
  )
  as_stored, report = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  assert "absorbed" not in str(report)
  images = np.random.default_rng(0).uniform(0, 1, (1, 12, 12, 3))
  np.testing.assert_allclose(
    logits(model, absorbed, 2 * images - 1),
    logits(model, as_stored, (images - np.array(mean)) / np.array(std)),
    rtol=1e-4,
    atol=1e-5,
  )


def test_statistics_of_hugging_face(library_file):
  path, model, _ = library_file("hugging_face", HUGGING_FACE)
  _, report = interop.load_params_and_report(path, model)
  assert not report.warnings
  processor = path.parent / "preprocessor_config.json"
  processor.unlink()
  with pytest.raises(ValueError, match=r"no preprocessor_config\.json beside"):
    interop.load_params(path, model)
  processor.write_text(json.dumps(dict(do_normalize=False)))
  with pytest.raises(ValueError, match=r"images minus \[0.0\]"):
    interop.load_params(path, model)


@pytest.mark.parametrize(
  ("processor", "mean", "std"),
  [
    (dict(image_mean=0.5, image_std=0.25), 0.5, 0.25),
    # The model sees -1 to 1 each time.
    (dict(image_mean=1.0, image_std=1.0, rescale_factor=2 / 255), 0.5, 0.5),
    (dict(image_mean=127.5, image_std=127.5, do_rescale=False), 0.5, 0.5),
  ],
)
def test_images_of_another_scale(processor, mean, std, library_file):
  path, _, _ = library_file("hugging_face", HUGGING_FACE)
  (path.parent / "preprocessor_config.json").write_text(json.dumps(processor))
  described = interop.describe(path)
  assert (described.input_mean, described.input_std) == ((mean,), (std,))


def test_arguments_of_timm_that_nobody_knows_are_told(library_file):
  config = TIMM | dict(
    model_args=dict(num_heads=2, img_size=12, attn_drop_rate=0.1, talking=True)
  )
  path, model, _ = library_file("timm", config)
  described = interop.describe(path)
  assert models.ViT(**described.model) == model
  told = [guess for guess in described.guesses if "meaning is unknown" in guess]
  assert len(told) == 1
  assert told[0].startswith("talking=True of ")


@pytest.mark.parametrize("format", ["timm", "hugging_face"])
def test_heads_that_do_not_divide_the_width(format, library_file):
  path, _, _ = library_file(format, None)
  with pytest.raises(ValueError, match=r"num_heads=3 does not divide .* 16"):
    interop.describe(path, num_heads=3)


@pytest.mark.parametrize("format", ["timm", "hugging_face"])
def test_a_wide_image_size_in_the_config(format, library_file):
  # 24 cells and a cls token: 25 positions, which would make a square.
  base = {"timm": TIMM, "hugging_face": HUGGING_FACE}[format]
  size = {
    "timm": {"model_args": {"num_heads": 2, "img_size": [16, 24]}},
    "hugging_face": {"image_size": [16, 24]},
  }[format]
  path, model, _ = library_file(format, base | size, posemb_grid=(4, 6))
  assert interop.describe(path).model["posemb_grid"] == (4, 6)
  loaded, report = interop.load_params_and_report(
    path, model.clone(posemb_grid=(5, 5))
  )
  assert "4x6 -> 5x5" in str(report)
  assert loaded["pos_embedding"].shape == (1, 25, 16)


def test_a_grid_that_is_no_square_must_be_said(library_file):
  path, model, _ = library_file("timm", None, posemb_grid=(2, 5))
  with pytest.raises(ValueError, match=r"11 positions.*posemb_grid=\(h, w\)"):
    interop.describe(path, num_heads=2)
  described = interop.describe(path, num_heads=2, posemb_grid=(2, 5))
  assert models.ViT(**described.model) == model


def test_a_bare_file_of_hugging_face_without_a_cls_token(library_file):
  name = "vit.embeddings.cls_token"
  cells = np.ones((1, 9, 16), np.float32)
  path, model, _ = library_file(
    "hugging_face",
    None,
    {name: None, "vit.embeddings.position_embeddings": cells},
  )
  described = interop.describe(path, num_heads=2)
  assert models.ViT(**described.model) == model.clone(pool="gap")


def test_a_square_may_be_another_grid_and_a_cls_token(library_file):
  # 4x6 and an entry for the cls token, or 5x5 without one.
  path, wide, _ = library_file("timm", None, posemb_grid=(4, 6))
  described = interop.describe(path, num_heads=2)
  assert described.model["posemb_grid"] == (5, 5)
  square = models.ViT(**described.model)
  half = dict(input_mean=0.5, input_std=0.5)
  _, report = interop.load_params_and_report(path, square, **half)
  for warnings in (described.guesses, report.warnings):
    text = "\n".join(warnings)
    assert "posemb_grid=(5, 5) and none for the cls token" in text
    assert "(4, 6) or (6, 4) and one for the cls token" in text
  described = interop.describe(path, num_heads=2, posemb_grid=(4, 6))
  assert models.ViT(**described.model) == wide
  _, report = interop.load_params_and_report(
    path, wide, posemb_grid=(4, 6), **half
  )
  for warnings in (described.guesses, report.warnings):
    assert "posemb_grid" not in "\n".join(warnings)


@pytest.mark.parametrize("format", ["timm", "hugging_face"])
def test_biases_that_are_not_there_are_zeros(format, library_file, make_model):
  config = {"timm": TIMM, "hugging_face": HUGGING_FACE}[format]
  path, model, arrays = library_file(format, config)
  kept = {
    name: array
    for name, array in arrays.items()
    if not ("bias" in name and any(p in name for p in (".qkv", ".attention.a")))
  }
  zeros = {
    name: array if name in kept else np.zeros_like(array)
    for name, array in arrays.items()
  }
  trees = []
  for content in (kept, zeros):
    safetensors.numpy.save_file(content, path)
    trees.append(interop.load_params_and_report(path, model)[0])
  flat = [traverse_util.flatten_dict(tree, sep="/") for tree in trees]
  assert len(kept) < len(arrays) and flat[0].keys() == flat[1].keys()
  for name, array in flat[0].items():
    np.testing.assert_array_equal(array, flat[1][name], err_msg=name)


def test_errors_have_the_names_of_the_file(library_file):
  path, model, _ = library_file(
    "hugging_face",
    HUGGING_FACE,
    {"vit.encoder.layer.1.intermediate.dense.weight": None},
  )
  with pytest.raises(ValueError) as error:
    interop.load_params(path, model)
  text = str(error.value)
  assert "  vit.encoder.layer.1.intermediate.dense.weight (here Trans" in text
  assert "the answers would be another model's" in text


def test_parts_of_the_pretraining_are_left_out(library_file):
  more = {"mask_token": TOKEN, "decoder_blocks.0.attn.qkv.weight": ROW}
  path, model, _ = library_file("timm", TIMM, more)
  _, report = interop.load_params_and_report(path, model)
  assert set(report.names("unused")) == set(more)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_before_arithmetic(dtype, library_file):
  gamma = np.full((16,), 1e-5, np.float32)
  path, model, arrays = library_file(
    "timm", TIMM, {"blocks.0.ls1.gamma": gamma}
  )
  half = {name: array.astype(dtype) for name, array in arrays.items()}
  # The cls token has a position, which is added to it.
  half["pos_embed"][:, 0] = half["cls_token"][:, 0] * dtype(0.37)
  wide = {name: array.astype(np.float32) for name, array in half.items()}
  model = model.clone(patch_size=(6, 6))
  loaded = []
  for content in (half, wide):
    safetensors.numpy.save_file(content, path)
    tree, _ = interop.load_params_and_report(path, model)
    loaded.append(traverse_util.flatten_dict(tree, sep="/"))
  for name, array in loaded[1].items():
    np.testing.assert_allclose(
      loaded[0][name], array, rtol=1e-6, atol=1e-12, err_msg=name
    )
  kernel = np.ones((4, 4, 3, 8), np.float32).astype(dtype)
  resized = patch_embed.resize_kernel(kernel, 7)
  assert resized.dtype == dtype


def test_a_layer_before_the_classifier_is_no_vit_of_hugging_face(library_file):
  path, _, _ = library_file(
    "hugging_face",
    HUGGING_FACE,
    {
      "vit.pooler.dense.weight": np.ones((16, 16), np.float32),
      "vit.pooler.dense.bias": ROW,
    },
  )
  with pytest.raises(ValueError, match="a pooler beside a classifier"):
    interop.describe(path)


@pytest.mark.parametrize("shape", [(1,), (8,), ()])
def test_a_layer_scale_of_another_shape_is_not_left_out(shape, library_file):
  path, model, _ = library_file(
    "timm", TIMM, {"blocks.0.ls1.gamma": np.full(shape, 0.5, np.float32)}
  )
  for call in (interop.describe, lambda p: interop.load_params(p, model)):
    with pytest.raises(ValueError, match=r"blocks.0.ls1.gamma .* not scale"):
      call(path)


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, np.int8])
def test_quantized_weights_are_named(dtype, library_file):
  head = np.ones((5, 16), np.float32).astype(dtype)
  path, model, _ = library_file("timm", TIMM, {"head.weight": head})
  with pytest.raises(
    ValueError,
    match=rf"head.weight .*of type {np.dtype(dtype).name}: .*saved as one of",
  ):
    interop.load_params(path, model)


def test_an_unknown_dtype_is_named(library_file):
  path, model, _ = library_file("timm", TIMM)
  with pytest.raises(ValueError, match="dtype='float23' is unknown"):
    interop.load_params(path, model, dtype="float23")
