"""Files of timm and transformers, against their own answers.

Those with the models of both libraries lie in a folder beside the reference
vectors; without it those tests are skipped.
"""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests import tiny
from tests import vectors as vectors_lib
from tests.vectors import assert_close
from tokenlearner_flexivit import interop, models
from tokenlearner_flexivit.interop import config_files

PUBLIC = pathlib.Path(vectors_lib.REST).parent / "public_weights"
# Folders of both towers, and of CLIP, whose tokens are those before the last
# norm, are in `test_two_towers_hugging_face`.
FAMILIES = (
  "timm/deit3_small_patch16_224",
  "timm/deit_small_distilled_patch16_224",
  "timm/flexivit_small",
  "timm/vit_base_patch16_224_miil",
  "timm/vit_base_patch16_clip_224",
  "timm/vit_base_patch16_clip_quickgelu_224",
  "timm/vit_base_patch16_siglip_224",
  "timm/vit_base_patch16_siglip_gap_224",
  "timm/vit_medium_patch16_gap_240",
  "timm/vit_medium_patch16_reg4_gap_256",
  "timm/vit_small_patch14_dinov2",
  "timm/vit_small_patch14_reg4_dinov2",
  "timm/vit_small_patch16_224",
  "timm/vit_so400m_patch14_siglip_224",
  "transformers/deit_classifier",
  "transformers/deit_distilled",
  "transformers/dinov2_classifier",
  "transformers/dinov2_model",
  "transformers/dinov2_registers_model",
  "transformers/ijepa_model",
  "transformers/siglip_vision",
  "transformers/vit_classifier",
  "transformers/vit_classifier_gelu_tanh",
  "transformers/vit_classifier_heads4",
  "transformers/vit_classifier_no_qkv_bias",
  "transformers/vit_classifier_quickgelu",
  "transformers/vit_classifier_tall_square_count",
  "transformers/vit_classifier_wide_image",
  "transformers/vit_model_pooler",
  "transformers/vitmae_pretraining",
  "transformers/vitmsn_model",
  "transformers/vivit_classifier",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_the_library(family):
  folder = PUBLIC / family
  if not folder.is_dir():
    pytest.skip(f"no {folder} (TLFV_GOLDENS)")
  described = interop.describe(folder)
  told = json.loads((folder / "meta.json").read_text())
  model = models.create(**{"name": "vit", **described.model})
  assert model.num_heads == told["heads"] and model.norm_eps == told["eps"]
  params, report = interop.load_params_and_report(
    folder, model, input_mean=0.5, input_std=0.5
  )
  assert not report.names("fresh")
  with np.load(folder / "ref.npz") as reference:
    answer, out = tiny.apply(model, params, jnp.asarray(reference["x"]))
    ours = dict(
      logits=answer, pooled=out["pre_logits"], features=out["encoded"]
    )
    for name in set(reference.files) & set(ours):
      assert_close(ours[name], reference[name], 2e-6)


# The same without these files, from arrays of any values.


def _timm(path, model, params):
  """Saves a model in timm's names and returns the arrays of the file."""
  interop.save_params(params, path, "timm")
  arrays = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(arrays, path)  # Without the note on the model.
  return arrays


def _config(path, architecture, **arguments):
  arguments = dict(num_heads=2, img_size=12) | arguments
  half = dict(mean=[0.5] * 3, std=[0.5] * 3)
  config = dict(
    architecture=architecture, model_args=arguments, pretrained_cfg=half
  )
  path.with_name("config.json").write_text(json.dumps(config))


@pytest.fixture
def family(tmp_path, make_model, make_params):
  """Returns a function that saves a tiny model as timm does.

  It takes arguments of the model; it returns the path, the model, its
  parameters and the arrays of the file.
  """

  def save(**overrides):
    model = make_model(**dict(pool="tok", gelu="erf") | overrides)
    params = make_params(model)
    if model.pre_norm:  # timm's patch embedding then has no bias.
      params["embedding"]["bias"] *= 0
    path = tmp_path / "model.safetensors"
    return path, model, params, _timm(path, model, params)

  return save


@pytest.mark.parametrize(
  ("architecture", "computes"),
  [
    ("vit_base_patch16_224", dict(gelu="erf", norm_eps=1e-6)),
    ("vit_large_patch14_clip_336", dict(gelu="erf", norm_eps=1e-5)),
    ("vit_huge_patch14_clip_quickgelu_378", dict(gelu="quick", norm_eps=1e-5)),
    ("vit_so400m_patch16_siglip_gap_384", dict(gelu="tanh", norm_eps=1e-6)),
    ("vit_so400m_patch14_siglip_384", dict(gelu="erf", norm_eps=1e-6)),
    ("vit_base_patch32_siglip_256", dict(gelu="tanh", norm_eps=1e-6)),
  ],
)
def test_what_timm_computes_by_an_architecture(architecture, computes, family):
  path, _, _, _ = family()
  _config(path, architecture)
  model = interop.describe(path).model
  assert {name: model[name] for name in computes} == computes


@pytest.mark.parametrize(
  ("architecture", "heads"),
  [
    ("vit_base_patch16_224", 12),
    ("vit_base_patch16_gap_224", 16),
    ("vit_so150m2_patch16_reg1_gap_256", 13),
    ("vit_gigantic_patch14_clip_224", 16),
    ("vit_wee_patch16_reg1_gap_256", 4),
    ("deit3_medium_patch16_224", 8),
  ],
)
def test_heads_of_an_architecture(architecture, heads, family):
  path, _, _, _ = family(width=heads * 2, num_heads=heads, depth=1)
  _config(path, architecture, num_heads=None)
  config = json.loads(path.with_name("config.json").read_text())
  del config["model_args"]["num_heads"]
  path.with_name("config.json").write_text(json.dumps(config))
  assert interop.describe(path).model["num_heads"] == heads


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_registers_with_and_without_positions(entries, family):
  path, model, params, arrays = family(registers=2)
  rng = np.random.default_rng(0)
  cells = arrays["pos_embed"][:, -9:]
  prefix = rng.standard_normal((1, entries, 16), np.float32)
  arrays["pos_embed"] = np.concatenate([prefix, cells], axis=1)
  safetensors.numpy.save_file(arrays, path)
  _config(path, "vit_base_patch16_reg4_224", no_embed_class=entries == 0)
  if entries == 1:  # As in DINOv2's own files.
    arrays["register_tokens"] = arrays.pop("reg_token")
    safetensors.numpy.save_file(arrays, path)
  assert models.ViT(**interop.describe(path).model) == model
  loaded, _ = interop.load_params_and_report(path, model)
  tokens = np.concatenate([loaded["cls"], loaded["registers"]], axis=1)
  expected = np.concatenate([params["cls"], params["registers"]], axis=1)
  expected[:, :entries] += prefix
  np.testing.assert_allclose(tokens, expected, rtol=1e-6)
  np.testing.assert_array_equal(loaded["pos_embedding"], cells)


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_a_cls_token_that_is_not_pooled_is_a_register(pool, family):
  path, model, params, arrays = family(
    pool=pool,
    registers=2,
    norm="after_pool" if pool == "gap" else "before_pool",
  )
  arrays["cls_token"], arrays["reg_token"] = np.split(arrays["reg_token"], 2, 1)
  safetensors.numpy.save_file(arrays, path)
  _config(
    path,
    "vit_base_patch16_224",
    global_pool={"gap": "avg", "map": "map"}[pool],
    no_embed_class=True,
  )
  assert models.ViT(**interop.describe(path).model) == model
  loaded, report = interop.load_params_and_report(path, model)
  assert "the cls token first, which is not pooled" in str(report)
  np.testing.assert_array_equal(loaded["registers"], params["registers"])


def test_the_mean_of_two_heads(family):
  path, model, params, _ = family(pool="tok_dist", registers=1)
  del path
  x = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3)).astype("f")
  logits, out = tiny.apply(model, params, x)
  cls, distillation = out["encoded"][:, 0], out["encoded"][:, 1]
  expected = [
    vectors_lib.dense(params[name], tokens)
    for name, tokens in (("head", cls), ("head_dist", distillation))
  ]
  assert_close(logits, np.mean(expected, axis=0), 1e-6)
  assert_close(out["pre_logits"], np.asarray(cls + distillation) / 2, 1e-6)


def test_cls_and_mean_side_by_side(make_model, make_params):
  model = make_model(pool="tok_gap", registers=3)
  x = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3)).astype("f")
  _, out = tiny.apply(model, make_params(model), x)
  tokens = np.asarray(out["encoded"])
  expected = np.concatenate([tokens[:, 0], tokens[:, 4:].mean(1)], axis=1)
  assert_close(out["pre_logits"], expected, 1e-6)
  assert out["tokens_2d"].shape == (2, 3, 3, 16)


@pytest.mark.parametrize(
  "prefix",
  ["module.", "model.", "_orig_mod.", "net.backbone.", "visual.trunk."],
)
def test_prefixes_of_frameworks(prefix, family):
  path, model, params, arrays = family()
  behind = {f"{prefix}{name}": array for name, array in arrays.items()}
  loss = {"criterion.weight": np.ones(3, np.float32)}
  safetensors.numpy.save_file(behind | loss, path)
  _config(path, "vit_base_patch16_224")
  described = interop.describe(path)
  assert models.ViT(**described.model) == model
  loaded, report = interop.load_params_and_report(path, model)
  np.testing.assert_array_equal(
    loaded["head"]["kernel"], params["head"]["kernel"]
  )
  for text in (str(described), str(report)):
    assert "left out what is not behind" in text and "criterion.weight" in text
  del behind[f"{prefix}blocks.1.mlp.fc1.weight"]
  safetensors.numpy.save_file(behind, path)
  with pytest.raises(ValueError, match=rf"{prefix}blocks\.1\.mlp\.fc1\.weight"):
    interop.load_params(path, model)


def test_heads_beside_the_encoder_of_hugging_face(tmp_path, family):
  _, model, params, _ = family()
  path = tmp_path / "model.safetensors"
  interop.save_params(params, path, "hugging_face")
  arrays = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(
    {f"model.{name}": array for name, array in arrays.items()}, path
  )
  loaded, _ = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  np.testing.assert_array_equal(
    loaded["head"]["kernel"], params["head"]["kernel"]
  )


def test_two_networks_are_both_named(family):
  path, model, _, arrays = family()
  both = {
    f"{prefix}.{name}": array
    for prefix in ("model", "model_ema")
    for name, array in arrays.items()
  }
  safetensors.numpy.save_file(both, path)
  for call in (interop.describe, lambda p: interop.load_params(p, model)):
    with pytest.raises(ValueError, match=r"'model\.\.\.\.' and 'model_ema\."):
      call(path)


def test_the_gelu_of_a_clip_must_be_said(family):
  path, model, _, _ = family(pre_norm=True, norm_eps=1e-5, gelu="quick")
  with pytest.raises(ValueError, match=r"gelu='quick' .*or 'erf'"):
    interop.describe(path, num_heads=2)
  described = interop.describe(path, num_heads=2, gelu="quick")
  assert models.ViT(**described.model) == model
  _config(path, "vit_base_patch16_clip_quickgelu_224")
  with pytest.raises(ValueError, match="has gelu=quick, not erf"):
    interop.describe(path, gelu="erf")


def test_images_that_weights_expect(family):
  path, _, _, _ = family()
  config = dict(
    architecture="vit_base_patch16_224",
    label_names=["ant", "bee", "cat", "dog", "elk"],
    model_args=dict(num_heads=2, img_size=12),
    pretrained_cfg=dict(
      input_size=[3, 12, 12],
      interpolation="bicubic",
      crop_pct=0.875,
      mean=[0.4, 0.5, 0.6],
      std=[0.2, 0.2, 0.3],
    ),
  )
  path.with_name("config.json").write_text(json.dumps(config))
  described = interop.describe(path)
  images = described.images
  assert images.size == (12, 12) and images.interpolation == "bicubic"
  assert images.crop == 0.875 and images.mean == (0.4, 0.5, 0.6)
  assert "12 x 12 px, bicubic, central crop of 0.875" in str(described)
  assert interop.class_names(path) == config["label_names"]


@pytest.mark.parametrize("mode", [None, "border"])
def test_images_of_a_silent_config_of_timm_and_of_padded_images(mode, family):
  path, _, _, _ = family()
  _config(path, "vit_base_patch16_224")
  config = json.loads(path.with_name("config.json").read_text())
  config["pretrained_cfg"] |= dict(input_size=[3, 14, 14])
  if mode:
    config["pretrained_cfg"]["crop_mode"] = mode
  path.with_name("config.json").write_text(json.dumps(config))
  described = interop.describe(path)
  images, text = described.images, " ".join(described.guesses)
  assert images.mean == (0.5, 0.5, 0.5)
  if mode:  # The longer side is resized, and the rest filled.
    assert images.ops is None
    assert "crop_mode='border' of " in text
  else:  # timm's own defaults.
    expected = "resize_small(16,'pillow_bicubic')|central_crop((14, 14))"
    assert images.ops == expected
    assert "crop_mode" not in text


@pytest.mark.parametrize(
  ("processor", "size", "crop", "keeps"),
  [
    (dict(size={"height": 12, "width": 16}), (12, 16), 1, False),
    (
      dict(size={"shortest_edge": 16}, crop_size={"height": 12, "width": 12}),
      (12, 12),
      0.75,
      True,
    ),
    (dict(size={"shortest_edge": 16}), (16, 16), 1, True),
    (dict(size=14, crop_size=12, do_center_crop=False), (14, 14), 1, False),
    (dict(size=16, crop_size=12), (12, 12), 0.75, True),
    # transformers' DeiTImageProcessor resizes to both sides, and then crops.
    (
      dict(
        size=16, crop_size=12, feature_extractor_type="DeiTFeatureExtractor"
      ),
      (12, 12),
      0.75,
      False,
    ),
    (
      dict(size={"height": 16, "width": 16}, crop_size=12),
      (12, 12),
      0.75,
      False,
    ),
  ],
)
def test_images_of_hugging_face(processor, size, crop, keeps, tmp_path):
  path = tmp_path / "preprocessor_config.json"
  path.write_text(json.dumps(processor | {"resample": 3}))
  images = config_files.images_of_hugging_face(tmp_path / "model.safetensors")
  assert images.interpolation == "bicubic" and images.mean is None
  assert (images.size, images.crop, images.keeps_shape) == (size, crop, keeps)


@pytest.mark.parametrize(
  ("processor", "kind", "interpolation"),
  [
    (dict(feature_extractor_type="ViTFeatureExtractor"), "deit", "bilinear"),
    (dict(image_processor_type="ViTImageProcessorFast"), None, "bilinear"),
    (dict(image_processor_type="CLIPImageProcessor"), "vit", "bicubic"),
    (dict(size=16), "vit", "bilinear"),
    (dict(size=16), "dinov2", "bicubic"),
    (dict(size=16, resample=0), "vit", "nearest"),
    (dict(size=16), "another", None),
    (dict(), "vit", None),  # Nothing is known of its images.
  ],
)
def test_silent_configs_of_hugging_face_mean_its_defaults(
  processor, kind, interpolation, tmp_path
):
  for name, content in (
    ("preprocessor_config.json", processor),
    ("config.json", {"model_type": kind}),
  ):
    (tmp_path / name).write_text(json.dumps(content))
  images = config_files.images_of_hugging_face(tmp_path / "model.safetensors")
  assert images.interpolation == interpolation


def test_ops_for_images_that_weights_expect():
  images = config_files.Images(size=(12, 12), crop=0.75)
  assert images.ops == "resize_small(16,'area')|central_crop((12, 12))"
  squashed = config_files.Images(size=(12, 16), crop=1, keeps_shape=False)
  assert squashed.ops == "resize((12, 16),'area')"
  # As timm's crop_mode "squash" has it, too.
  cut = dataclasses.replace(squashed, crop=0.8)
  assert cut.ops == "resize((15, 20),'area')|central_crop((12, 16))"
  # 224 / (224 / 375) is 374.99999999999994.
  images = config_files.Images(size=(224, 224), crop=224 / 375)
  assert images.resized == (375, 375)
  assert config_files.UNKNOWN.ops is None


def test_a_bare_siglip_needs_its_gelu(family):
  """Some have that of erf, some that of tanh, and no array tells."""
  path, model, _, _ = family(pool="map", gelu="tanh")
  with pytest.raises(ValueError, match=r"is of a SigLIP.*gelu='erf' or"):
    interop.describe(path, num_heads=2)
  described = interop.describe(path, num_heads=2, gelu="tanh")
  assert models.ViT(**described.model) == model
