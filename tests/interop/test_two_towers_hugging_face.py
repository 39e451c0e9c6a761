"""CLIP and SigLIP of Hugging Face, against float64 and their own answers."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from tests import vectors as vectors_lib
from tests.interop.test_two_towers_files import embed
from tests.tiny import apply
from tests.vectors import assert_close
from tokenlearner_flexivit import interop, models

PUBLIC = pathlib.Path(vectors_lib.REST).parent / "public_weights/transformers"
TEXTS = np.array([[3, 1, 4, 9, 5], [9, 2, 6, 5, 3]])


# What transformers computes


def _activation(x, name):
  if name == "quick":
    return x / (1 + np.exp(-1.702 * x))
  return x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2


def _dense(w, name, x):
  y = x @ w[f"{name}.weight"].T
  return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def _norm(w, name, x, eps):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
  return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def _attend(query, key, value, heads, mask=None):
  def split(x):
    b, n, d = x.shape
    return x.reshape(b, n, heads, d // heads).transpose(0, 2, 1, 3)

  query, key, value = split(query), split(key), split(value)
  logits = query @ key.swapaxes(-1, -2) / query.shape[-1] ** 0.5
  if mask is not None:
    logits = np.where(mask, logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  y = weights / weights.sum(-1, keepdims=True) @ value
  return y.transpose(0, 2, 1, 3).reshape(len(y), y.shape[2], -1)


def _encode(w, tower, x, heads, gelu, eps, mask=None):
  """Returns what the blocks of transformers' CLIP and SigLIP compute."""
  depth = 0
  while f"{tower}.encoder.layers.{depth}.layer_norm1.weight" in w:
    layer = f"{tower}.encoder.layers.{depth}"
    y = _norm(w, f"{layer}.layer_norm1", x, eps)
    qkv = [_dense(w, f"{layer}.self_attn.{p}_proj", y) for p in "qkv"]
    y = _attend(*qkv, heads, mask)
    x = x + _dense(w, f"{layer}.self_attn.out_proj", y)
    y = _norm(w, f"{layer}.layer_norm2", x, eps)
    y = _activation(_dense(w, f"{layer}.mlp.fc1", y), gelu)
    x = x + _dense(w, f"{layer}.mlp.fc2", y)
    depth += 1
  return x


def _embed_texts(w, config, texts):
  """Returns the embeddings of transformers' CLIPModel and SiglipModel."""
  w = {name: array.astype(np.float64) for name, array in w.items()}
  clip = config["model_type"] == "clip"
  eps, gelu = (1e-5, "quick") if clip else (1e-6, "tanh")
  heads = config["text_config"]["num_attention_heads"]
  x = w["text_model.embeddings.token_embedding.weight"][texts]
  n = texts.shape[1]
  x = x + w["text_model.embeddings.position_embedding.weight"][:n]
  mask = np.tril(np.ones((n, n), bool)) if clip else None
  x = _encode(w, "text_model", x, heads, gelu, eps, mask)
  x = _norm(w, "text_model.final_layer_norm", x, eps)
  if clip:
    end = config["text_config"].get("eos_token_id", 49407)
    at = np.argmax(texts if end == 2 else texts == end, axis=1)
    z = _dense(w, "text_projection", x[np.arange(len(x)), at])
  else:
    z = _dense(w, "text_model.head", x[:, -1])
  return z / np.linalg.norm(z, axis=1, keepdims=True)


def _embed_images(w, config, images):
  w = {name: array.astype(np.float64) for name, array in w.items()}
  clip = config["model_type"] == "clip"
  eps, gelu = (1e-5, "quick") if clip else (1e-6, "tanh")
  heads = config["vision_config"]["num_attention_heads"]
  kernel = w["vision_model.embeddings.patch_embedding.weight"]
  b, side, p = len(images), images.shape[1], kernel.shape[-1]
  x = images.reshape(b, side // p, p, side // p, p, 3)
  x = np.einsum("bhpwqc,dcpq->bhwd", x, kernel).reshape(b, -1, len(kernel))
  if clip:
    cls = w["vision_model.embeddings.class_embedding"]
    x = np.concatenate([np.broadcast_to(cls, (b, 1, len(cls))), x], axis=1)
  else:
    x = x + w["vision_model.embeddings.patch_embedding.bias"]
  x = x + w["vision_model.embeddings.position_embedding.weight"]
  if clip:
    x = _norm(w, "vision_model.pre_layrnorm", x, eps)
  x = _encode(w, "vision_model", x, heads, gelu, eps)
  x = _norm(w, "vision_model.post_layernorm", x, eps)
  if clip:
    z = _dense(w, "visual_projection", x[:, 0])
  else:
    head = "vision_model.head"
    parts = np.split(w[f"{head}.attention.in_proj_weight"], 3)
    biases = np.split(w[f"{head}.attention.in_proj_bias"], 3)
    probe = np.broadcast_to(w[f"{head}.probe"], (b, 1, x.shape[2]))
    inputs = (probe, x, x)
    y = _attend(
      *(i @ p.T + c for i, p, c in zip(inputs, parts, biases, strict=True)),
      heads,
    )
    x = _dense(w, f"{head}.attention.out_proj", y)
    y = _norm(w, f"{head}.layernorm", x, eps)
    y = _activation(_dense(w, f"{head}.mlp.fc1", y), gelu)
    z = (x + _dense(w, f"{head}.mlp.fc2", y))[:, 0]
  return z / np.linalg.norm(z, axis=1, keepdims=True)


def _layer_shapes(tower, width, hidden):
  square = {f"self_attn.{p}_proj": (width, width) for p in ("q", "k", "v")}
  square |= {"self_attn.out_proj": (width, width)}
  mlp = {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
  shapes = {"layer_norm1": (width,), "layer_norm2": (width,)} | square | mlp
  return {
    f"{tower}.encoder.layers.0.{name}.{kind}": shape
    if kind == "weight"
    else shape[:1]
    for name, shape in shapes.items()
    for kind in ("weight", "bias")
  }


def _tower_shapes(family):
  """Returns the shapes of a CLIPModel or a SiglipModel by their names."""
  d, e = 12, 6
  vision, text = "vision_model", "text_model"
  shapes = _layer_shapes(vision, d, 10) | _layer_shapes(text, 8, 14)
  embeddings = f"{vision}.embeddings"
  shapes |= {
    f"{embeddings}.patch_embedding.weight": (d, 3, 4, 4),
    f"{embeddings}.position_embedding.weight": (9 + (family == "clip"), d),
    f"{text}.embeddings.token_embedding.weight": (11, 8),
    f"{text}.embeddings.position_embedding.weight": (5, 8),
  }
  for norm in (f"{vision}.post_layernorm", f"{text}.final_layer_norm"):
    width = d if norm.startswith(vision) else 8
    shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
  if family == "clip":
    return shapes | {
      f"{embeddings}.class_embedding": (d,),
      f"{vision}.pre_layrnorm.weight": (d,),
      f"{vision}.pre_layrnorm.bias": (d,),
      "visual_projection.weight": (e, d),
      "text_projection.weight": (e, 8),
      "logit_scale": (),
    }
  head = f"{vision}.head"
  return shapes | {
    f"{embeddings}.patch_embedding.bias": (d,),
    f"{head}.probe": (1, 1, d),
    f"{head}.attention.in_proj_weight": (3 * d, d),
    f"{head}.attention.in_proj_bias": (3 * d,),
    f"{head}.attention.out_proj.weight": (d, d),
    f"{head}.attention.out_proj.bias": (d,),
    f"{head}.layernorm.weight": (d,),
    f"{head}.layernorm.bias": (d,),
    f"{head}.mlp.fc1.weight": (10, d),
    f"{head}.mlp.fc1.bias": (10,),
    f"{head}.mlp.fc2.weight": (d, 10),
    f"{head}.mlp.fc2.bias": (d,),
    f"{text}.head.weight": (d, 8),
    f"{text}.head.bias": (d,),
    "logit_scale": (1,),
    "logit_bias": (1,),
  }


# Files


@pytest.fixture
def hugging_face(tmp_path):
  """Returns a function that writes a small CLIPModel or SiglipModel."""

  def write(family, changes=None, **text_config):
    rng = np.random.default_rng(0)
    arrays = {
      name: np.asarray(0.4 * rng.standard_normal(shape), np.float32)
      for name, shape in _tower_shapes(family).items()
    }
    config = dict(
      model_type=family,
      vision_config=dict(hidden_size=12, num_attention_heads=3, image_size=12),
      text_config=dict(hidden_size=8, num_attention_heads=2) | text_config,
    )
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays | (changes or {}), path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    half = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(half))
    return path, config, arrays

  return write


@pytest.mark.parametrize(
  ("family", "text_config"),
  [
    ("clip", {"eos_token_id": 2}),
    ("clip", {"eos_token_id": 5}),
    ("siglip", {}),
  ],
)
def test_models_of_hugging_face(family, text_config, hugging_face):
  path, config, arrays = hugging_face(family, **text_config)
  model = models.create(**interop.describe(path).model)
  assert model.text["num_heads"] == 2 and model.num_heads == 3
  assert (model.bias_init is None) == (family == "clip")
  params, report = interop.load_params_and_report(path, model)
  assert {row.fate for row in report.rows} == {"loaded"}
  images = np.random.default_rng(1).uniform(-1, 1, (2, 12, 12, 3))
  zimg, ztxt, out = embed(model, params, np.float32(images), TEXTS)
  assert_close(zimg, _embed_images(arrays, config, images), 2e-6)
  assert_close(ztxt, _embed_texts(arrays, config, TEXTS), 2e-6)
  scale = arrays["logit_scale"]
  np.testing.assert_allclose(out["t"], np.exp(scale.ravel()), rtol=1e-6)


@pytest.mark.parametrize("family", ["clip_model", "siglip_model"])
def test_public_two_towers(family):
  path = PUBLIC / family / "model.safetensors"
  if not path.exists():
    pytest.skip(f"no {path} (TLFV_GOLDENS)")
  model = models.create(**interop.describe(path).model)
  params, report = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  assert {row.fate for row in report.rows} == {"loaded"}
  config = json.loads((path.parent / "config.json").read_text())
  texts = np.random.default_rng(0).integers(0, 64, (3, 16))
  with np.load(path.parent / "ref.npz") as reference:
    zimg, ztxt, _ = embed(model, params, reference["x"], texts)
    assert_close(zimg, reference["embeds"], 2e-6)
  arrays = safetensors.numpy.load_file(path)
  assert_close(ztxt, _embed_texts(arrays, config, texts), 2e-6)


@pytest.mark.parametrize("family", ["clip_vision_projection", "siglip_vision"])
def test_public_image_towers(family):
  path = PUBLIC / family / "model.safetensors"
  if not path.exists():
    pytest.skip(f"no {path} (TLFV_GOLDENS)")
  model = models.ViT(**interop.describe(path).model)
  params, report = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  assert {row.fate for row in report.rows} == {"loaded"}
  with np.load(path.parent / "ref.npz") as reference:
    z, out = apply(model, params, reference["x"])
    if family == "siglip_vision":
      assert_close(z, reference["pooled"], 2e-6)
      assert_close(out["encoded"], reference["features"], 2e-6)
    else:
      # The tokens of CLIP are those before the last norm.
      assert_close(z, reference["embeds"], 2e-6)
      last = out["encoder"]["block01"]["+mlp"]
      assert_close(last, reference["features"], 2e-6)


def test_an_image_tower_of_hugging_face_alone(hugging_face):
  path, _, arrays = hugging_face("clip")
  described = interop.describe(path)
  model = models.ViT(**described.image_model)
  params, report = interop.load_params_and_report(path, model)
  assert model.num_classes == 6 and model.pre_norm
  assert "Left out the text tower" in str(report)
  only = {n: a for n, a in arrays.items() if n.startswith("vis")}
  old = {"vision_model.embeddings.position_ids": np.arange(10)[None]}
  safetensors.numpy.save_file(only | old, path)
  alone = dict(
    model_type="clip_vision_model",
    hidden_size=12,
    num_attention_heads=3,
    image_size=12,
  )
  (path.parent / "config.json").write_text(json.dumps(alone))
  assert models.ViT(**interop.describe(path).model) == model
  again, _ = interop.load_params_and_report(path, model)
  flat = [traverse_util.flatten_dict(tree, sep="/") for tree in (params, again)]
  for name, array in flat[0].items():
    np.testing.assert_array_equal(array, flat[1][name])


def test_another_model_than_the_config_tells(hugging_face):
  path, _, _ = hugging_face("clip")
  arguments = interop.describe(path).model
  text = arguments["text"] | dict(causal=False)
  model = models.create(**arguments | dict(gelu="tanh", text=text))
  _, report = interop.load_params_and_report(path, model)
  assert "gelu='tanh' of the model is 'quick'" in str(report)
  assert "text.causal=False of the model is True" in str(report)
  text = arguments["text"] | dict(num_heads=4)
  with pytest.raises(ValueError, match=r"has text.num_heads=2, as .*config"):
    interop.load_params(path, models.create(**arguments | dict(text=text)))
  text = arguments["text"] | dict(depth=2)
  with pytest.raises(
    ValueError, match=r"text_model.encoder.layers.1.layer_norm1.weight \(here"
  ):
    interop.load_params(path, models.create(**arguments | dict(text=text)))


@pytest.mark.parametrize(
  ("config", "changes", "message"),
  [
    (None, {}, "Put its config.json beside it"),
    ({"model_type": "siglip2"}, {}, "a model of the kind 'siglip2'"),
    ({"vision_config": {"hidden_size": 9}}, {}, "its width is 9"),
    ({"text_config": {"hidden_size": 9}}, {}, "its width is 9"),
    (
      {"text_config": {"hidden_size": 8, "hidden_act": "relu"}},
      {},
      "hidden_act='relu'",
    ),
    ({}, {"classifier.weight": np.ones((3, 12))}, "a classifier of the mean"),
    ({}, {"lora_A.weight": np.ones((3, 12))}, "LoRA"),
  ],
)
def test_what_is_refused(config, changes, message, hugging_face):
  changes = {name: x.astype(np.float32) for name, x in changes.items()}
  path, base, _ = hugging_face("clip", changes)
  beside = path.parent / "config.json"
  if config is None:
    beside.unlink()
  else:
    beside.write_text(json.dumps(base | config))
  with pytest.raises(ValueError, match=message):
    interop.describe(path)


def test_statistics_of_clip_must_be_said(hugging_face):
  path, _, _ = hugging_face("clip")
  processor = dict(image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28])
  (path.parent / "preprocessor_config.json").write_text(json.dumps(processor))
  described = interop.describe(path)
  model = models.create(**described.model)
  with pytest.raises(ValueError, match=r"expects images minus \[0.48"):
    interop.load_params(path, model)
  absorbed, _ = interop.load_params_and_report(
    path, model, input_mean=described.input_mean, input_std=described.input_std
  )
  as_stored, _ = interop.load_params_and_report(
    path, model, input_mean=0.5, input_std=0.5
  )
  images = np.random.default_rng(0).uniform(0, 1, (1, 12, 12, 3))
  mean, std = (np.array(processor[f"image_{x}"]) for x in ("mean", "std"))
  y, _ = apply(model, absorbed, np.float32(2 * images - 1))
  expected, _ = apply(model, as_stored, np.float32((images - mean) / std))
  assert_close(y, np.asarray(expected), 1e-5)
