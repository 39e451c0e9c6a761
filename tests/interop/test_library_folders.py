"""Folders that timm and transformers read, with all settings beside weights.

That timm 1.0.31 and transformers 4.57.3 read them, with no missing or
unexpected names, and answer as the models here, to 2e-6 of the largest value,
was tried with the classes that the configs name.
"""

import json

import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from tests import tiny
from tests.vectors import assert_close
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.interop import __main__ as cli

REGISTERS = dict(pool="tok", registers=2)
KINDS = {
  "vit": dict(pool="tok", gelu="erf", norm_eps=1e-12),
  "deit": dict(pool="tok_dist", registers=1, gelu="erf"),
  "dinov2": dict(pool="tok_gap", gelu="erf"),
  "dinov2_with_registers": REGISTERS | dict(num_classes=None, gelu="erf"),
  "clip_vision_model": dict(
    pool="tok", pre_norm=True, gelu="quick", norm_eps=1e-5
  ),
  "siglip_vision_model": dict(pool="map", num_classes=None, gelu="tanh"),
}
TIMM = {
  "plain": dict(pool="tok", gelu="quick"),
  "distilled": dict(pool="tok_dist", registers=1, gelu="erf"),
  "registers": REGISTERS | dict(gelu="erf"),
  "after": dict(pool="gap", registers=3, norm="after_pool", gelu="tanh"),
  "clip": dict(pool="tok", pre_norm=True, gelu="erf", norm_eps=1e-5),
  "map": dict(pool="map", gelu="tanh"),
}


@pytest.fixture
def make(make_model, make_params):
  """Returns a function that makes a model and its parameters."""

  def pair(**overrides):
    model = make_model(**dict(mlp_dim=32) | overrides)
    params = make_params(model)
    if model.pre_norm:  # CLIP has none.
      params["embedding"]["bias"] *= 0
      params["head"]["bias"] *= 0
    return model, params

  return pair


def _without_note(path):
  """Removes what this library notes in a file for itself."""
  arrays = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(arrays, path)
  return arrays


def _read_again(folder, model, params):
  """Checks that a folder describes a model and holds its parameters."""
  for noted in (True, False):
    if not noted:
      _without_note(folder / "model.safetensors")
    described = interop.describe(folder)
    assert models.create(**{"name": "vit"} | described.model) == model
    loaded, _ = interop.load_params_and_report(
      folder, model, input_mean=0.5, input_std=0.5
    )
    flat = traverse_util.flatten_dict(loaded, sep="/")
    for name, array in traverse_util.flatten_dict(params, sep="/").items():
      np.testing.assert_array_equal(flat[name], array, err_msg=name)
  return described


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_face(kind, make, tmp_path):
  model, params = make(**KINDS[kind])
  folder = tmp_path / "new"
  interop.save_params(
    params,
    folder,
    "hugging_face",
    model=model,
    input_mean=(0.4, 0.5, 0.6),
    input_std=0.25,
    interpolation="bicubic",
  )
  config = json.loads((folder / "config.json").read_text())
  assert config["model_type"] == kind
  images = _read_again(folder, model, params).images
  assert images.mean == (0.4, 0.5, 0.6) and images.std == (0.25,) * 3
  assert images.size == (12, 12) and images.interpolation == "bicubic"


@pytest.mark.parametrize("kind", TIMM)
def test_timm(kind, make, tmp_path):
  model, params = make(**TIMM[kind])
  folder = tmp_path / "new"
  interop.save_params(
    params, folder, "timm", model=model, input_mean=0.5, input_std=0.5
  )
  images = _read_again(folder, model, params).images
  assert images.size == (12, 12) and images.mean == (0.5,) * 3


@pytest.mark.parametrize(
  ("mode", "crop", "ops"),
  [
    ("center", 0.75, "resize_small(16,{})|central_crop((12, 12))"),
    ("squash", 1.0, "resize((12, 12),{})"),
    ("squash", 0.75, "resize((16, 16),{})|central_crop((12, 12))"),
  ],
)
@pytest.mark.parametrize("format", ["timm", "hugging_face", "native"])
def test_a_conversion_keeps_how_images_are_prepared(
  format, mode, crop, ops, make, tmp_path
):
  model, params = make(**KINDS["vit"])
  source, target = tmp_path / "source", tmp_path / "target"
  interop.save_params(
    params, source, "timm", model=model, input_mean=0.5, input_std=0.5
  )
  _without_note(source / "model.safetensors")
  config = json.loads((source / "config.json").read_text())
  config["pretrained_cfg"] |= dict(
    interpolation="bicubic",
    crop_pct=crop,
    crop_mode=mode,
  )
  (source / "config.json").write_text(json.dumps(config))
  expected = interop.describe(source).images
  assert expected.ops == ops.format("'pillow_bicubic'")
  assert expected.interpolation == "bicubic"
  if format == "native":
    target = target.with_suffix(".npz")
  cli.main(["convert", str(source), str(target), f"--format={format}"])
  assert interop.describe(target).images == expected
  if format != "native":
    _without_note(target / "model.safetensors")
    assert interop.describe(target).images == expected


def test_a_classifier_of_registers_reads_a_mean_of_no_weight(make, tmp_path):
  model, params = make(**REGISTERS)
  interop.save_params(params, tmp_path / "new", "hugging_face", model=model)
  _without_note(tmp_path / "new" / "model.safetensors")
  other = models.ViT(**interop.describe(tmp_path / "new").model)
  assert other.pool == "tok_gap"
  loaded, _ = interop.load_params_and_report(
    tmp_path / "new", other, input_mean=0.5, input_std=0.5
  )
  x = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3)).astype("f")
  expected, _ = tiny.apply(model, params, x)
  assert_close(tiny.apply(other, loaded, x)[0], np.asarray(expected), 1e-6)


@pytest.mark.parametrize(
  ("format", "overrides", "message"),
  [
    ("timm", dict(pool="tok_gap"), "as with pool='tok_gap'"),
    ("timm", dict(pool="tok", norm_eps=1e-3), "norm_eps 1e-06 and 1e-05"),
    ("timm", dict(pool="tok_dist", registers=2), "no registers beside it"),
    ("hugging_face", dict(pool="map"), "SiglipVisionModel has no head"),
    ("hugging_face", dict(pool="gap", registers=1), "a cls token"),
    ("hugging_face", dict(pool="tok", norm="after_pool"), "like 'fc_norm/"),
    ("big_vision", dict(pool="tok", registers=2), "'registers'"),
    ("big_vision", dict(pool="tok", pre_norm=True), "'pre_norm/"),
    ("big_vision", dict(pool="tok_gap"), "no model with pool='tok_gap'"),
    ("scenic", dict(gelu="quick"), "no model with .*gelu='quick'"),
    ("big_vision", dict(pool="tok_dist", registers=1), "'head_dist/"),
  ],
)
def test_what_a_library_does_not_compute(
  format, overrides, message, make, tmp_path
):
  model, params = make(**overrides)
  of_jax = format in ("big_vision", "scenic")
  path = tmp_path / ("a.npz" if of_jax else "new")
  with pytest.raises(ValueError, match=message):
    interop.save_params(params, path, format, model=model)
  assert not list(tmp_path.iterdir())


def test_a_bias_that_a_clip_has_not(make, tmp_path):
  model, params = make(pool="tok", pre_norm=True, norm_eps=1e-5)
  params["embedding"]["bias"] = params["embedding"]["bias"] + 1
  for format in ("timm", "hugging_face"):
    with pytest.raises(ValueError, match="'embedding/bias', but here it is"):
      interop.save_params(params, tmp_path / "new", format, model=model)


def test_a_folder_of_another_model_is_kept(make, tmp_path):
  model, params = make(pool="tok")
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ValueError, match="of another model than these"):
    interop.save_params(params, tmp_path, "timm", model=model)
  assert (tmp_path / "config.json").read_text() == "{}"
  assert not (tmp_path / "model.safetensors").exists()


def test_a_flexivit_of_timm_has_no_position_of_cls(make, tmp_path):
  _, params = make(pool="tok", gelu="erf")
  path = tmp_path / "a.safetensors"
  interop.save_params(params, path, "timm", no_embed_class=True)
  assert _without_note(path)["pos_embed"].shape == (1, 9, 16)
  with pytest.raises(ValueError, match="no_embed_class is of timm"):
    interop.save_params(params, path, "hugging_face", no_embed_class=True)


@pytest.mark.parametrize("format", ["timm", "hugging_face"])
def test_convert_to_another_patch_size(format, make, tmp_path, capsys):
  model, params = make(pool="tok", gelu="erf")
  source, folder = tmp_path / "a.npz", tmp_path / "new"
  interop.save_params(params, source, model=model)
  turn = ["convert", str(source), str(folder), f"--format={format}"]
  cli.main([*turn, "--patch_size=2", "--posemb_method=linear"])
  assert "Saved" in capsys.readouterr().out
  _without_note(folder / "model.safetensors")
  other = models.ViT(**interop.describe(folder).model)
  assert other.patch_size == (2, 2) and other.posemb_grid == (6, 6)
  loaded, _ = interop.load_params_and_report(
    folder, other, input_mean=0.5, input_std=0.5
  )
  x = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3)).astype("f")
  expected, _ = tiny.apply(model, params, x, patch_size=2)
  assert_close(tiny.apply(other, loaded, x)[0], np.asarray(expected), 2e-6)
  with pytest.raises(SystemExit, match="--patch_size=5 must divide"):
    cli.main([*turn, "--patch_size=5"])


def test_timm_is_told_that_images_of_big_vision_are_in_minus_1_to_1(
  make, tmp_path, capsys
):
  # Where a config tells none, timm takes ImageNet's mean and std.
  params = make(pool="tok")[1]
  source, folder = tmp_path / "augreg.npz", tmp_path / "new"
  interop.save_params(params, source, "big_vision")
  convert = ["convert", str(source), str(folder), "--format=timm"]
  cli.main(convert)
  assert "taken to be in [-1, 1]" in capsys.readouterr().out
  cfg = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
  assert cfg["mean"] == cfg["std"] == [0.5] * 3
  cli.main([*convert[:2], str(tmp_path / "hf"), "--format=hugging_face"])
  file = tmp_path / "hf" / "preprocessor_config.json"
  processor = json.loads(file.read_text())
  assert processor["image_mean"] == processor["image_std"] == [0.5] * 3


def test_a_folder_for_timm_without_statistics_is_warned_of(
  make, tmp_path, caplog
):
  model, params = make(pool="tok")
  interop.save_params(params, tmp_path / "new", "timm", model=model)
  assert "timm then takes ImageNet's mean and std" in caplog.text
