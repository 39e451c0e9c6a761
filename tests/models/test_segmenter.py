"""Segmenter against its published code, and at any patch size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.tiny import apply, init
from tests.vectors import Vectors, assert_close, checks, dense
from tokenlearner_flexivit import models, tasks
from tokenlearner_flexivit.models import bilinear, cost, mask_transformer

TINY = dict(
  width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=4, posemb_grid=3
)
LEARNED = dict(layer=0, num_tokens=3)


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision("highest"):
    yield


# The published code


def _block(weights, prefix, heads):
  """Our parameters of a block of PyTorch's."""

  def dense(name):
    weight = weights[f"{prefix}{name}.weight"]
    return {"kernel": weight.T, "bias": weights[f"{prefix}{name}.bias"]}

  def norm(name):
    return _norm(weights, prefix + name)

  qkv, out = dense("attn.qkv"), dense("attn.proj")
  width = len(out["bias"])
  attention = {
    "out": {**out, "kernel": out["kernel"].reshape(heads, -1, width)}
  }
  for i, name in enumerate(("query", "key", "value")):
    rows = slice(i * width, (i + 1) * width)
    attention[name] = {
      "kernel": qkv["kernel"][:, rows].reshape(width, heads, -1),
      "bias": qkv["bias"][rows].reshape(heads, -1),
    }
  return {
    "LayerNorm_0": norm("norm1"),
    "LayerNorm_1": norm("norm2"),
    "MultiHeadDotProductAttention_0": attention,
    "MlpBlock_0": {"Dense_0": dense("mlp.fc1"), "Dense_1": dense("mlp.fc2")},
  }


def _norm(weights, name):
  return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def _mask_decoder(weights, meta, prefix=""):
  own = {k.removeprefix(prefix): v for k, v in weights.items()}
  blocks = {int(k.split(".")[1]) for k in own if k.startswith("blocks.")}
  return {
    "cls_emb": own["cls_emb"],
    "proj_dec": {
      "kernel": own["proj_dec.weight"].T,
      "bias": own["proj_dec.bias"],
    },
    "proj_patch": own["proj_patch"],
    "proj_classes": own["proj_classes"],
    "decoder_norm": _norm(own, "decoder_norm"),
    "mask_norm": _norm(own, "mask_norm"),
    **{
      f"block_{i}": _block(own, f"blocks.{i}.", meta["heads"]) for i in blocks
    },
  }


def _whole_model(vectors):
  meta, weights = vectors.meta, vectors.flat("params/")
  posemb = weights["encoder.pos_embed"]
  depth, heads, decoder_depth = meta["encoder_layers"], meta["heads"], 2
  params = {
    "embedding": {
      "kernel": weights["encoder.patch_embed.proj.weight"].transpose(
        2, 3, 1, 0
      ),
      "bias": weights["encoder.patch_embed.proj.bias"],
    },
    # The same as a position of the cls token.
    "cls": weights["encoder.cls_token"] + posemb[:, :1],
    "pos_embedding": posemb[:, 1:],
    "Transformer": {
      "encoder_norm": _norm(weights, "encoder.norm"),
      **{
        f"encoderblock_{i}": _block(weights, f"encoder.blocks.{i}.", heads)
        for i in range(depth)
      },
    },
  }
  if meta["decoder"] == "linear":
    params["seg_head"] = {
      "kernel": weights["decoder.head.weight"].T,
      "bias": weights["decoder.head.bias"],
    }
  else:
    decoder = {k: v for k, v in weights.items() if k.startswith("decoder.")}
    params["mask_decoder"] = _mask_decoder(decoder, meta, "decoder.")
    blocks = [key for key in params["mask_decoder"] if key.startswith("block")]
    decoder_depth = len(blocks)
  model = models.Segmenter(
    num_classes=meta["n_cls"],
    width=meta["d_model"],
    depth=depth,
    mlp_dim=len(weights["encoder.blocks.0.mlp.fc1.bias"]),
    num_heads=heads,
    patch_size=meta["patch"],
    posemb_grid=[side // meta["patch"] for side in meta["image_size"]],
    pool="tok",
    decoder=meta["decoder"],
    decoder_depth=decoder_depth,
    norm_eps=meta["layer_norm_eps"],
    gelu=meta["gelu"],
  )
  return model, params


def _last(array):
  """Puts the classes, or channels, behind the places."""
  return np.moveaxis(array, 1, -1)


@checks("dense_segm_model_linear", "dense_segm_model_mask")
def test_the_published_model(name, monkeypatch):
  vectors = Vectors(name)
  model, params = _whole_model(vectors)
  # Theirs shrinks positions without antialiasing, ours as FlexiViT's code does.
  resize = functools.partial(jax.image.resize, antialias=False)
  monkeypatch.setattr(jax.image, "resize", resize)
  for size, images in vectors.flat("in/").items():
    logits, out = jax.jit(lambda p, x: model.apply({"params": p}, x))(
      params, _last(images)
    )
    assert_close(out["encoded"], vectors[f"out/{size}/tokens"], 1e-5)
    low, full = (_last(vectors[f"out/{size}/{k}"]) for k in ("masks_low", "y"))
    assert_close(out["logits_2d"], low, 1e-5)
    assert_close(logits[: len(full)], full, 1e-5)


@checks("dense_segm_linear", "dense_segm_mask")
def test_the_published_decoders_and_loss(name):
  vectors = Vectors(name)
  meta, weights = vectors.meta, vectors.flat("params/")
  grid, classes = meta["grid"], meta["n_cls"]
  size = [meta["patch"] * side for side in grid]
  masks = jnp.asarray(vectors["in/segmentation"])
  if name.endswith("mask"):
    params = _mask_decoder(weights, meta)
    decoder = mask_transformer.MaskTransformer(
      classes,
      meta["n_layers"],
      meta["heads"],
      meta["d_ff"],
      norm_eps=meta["layer_norm_eps"],
      gelu=meta["gelu"],
    )
    decode = lambda p, x: decoder.apply({"params": p}, x)  # noqa: E731
    expected = _mask_decoder(vectors.flat("grad/params/"), meta)
  else:
    params, expected = (
      {"kernel": flat["head.weight"].T, "bias": flat["head.bias"]}
      for flat in (weights, vectors.flat("grad/params/"))
    )
    decode = lambda p, x: x @ p["kernel"] + p["bias"][None, None]  # noqa: E731
  task = tasks.create(
    {"name": "segmentation"},
    model=models.Segmenter(num_classes=classes, **TINY),
    num_classes=classes,
    class_names=None,
  )
  batch = {"image": jnp.zeros((len(masks), *size, 3)), "semantic": masks}
  batch = task.prepare(batch, jax.random.key(0))

  @jax.jit
  def loss(params, tokens):
    low = decode(params, tokens).reshape(len(tokens), *grid, -1)
    full = bilinear.resize(low, size)
    return task.mask_loss(full, batch), (low, full)

  (value, (low, full)), grads = jax.jit(
    jax.value_and_grad(loss, (0, 1), has_aux=True)
  )(params, jnp.asarray(vectors["in/tokens"]))
  assert_close(low, _last(vectors["out/masks"]), 1e-5)
  upsampled = _last(vectors["out/upsampled"])
  assert_close(full[: len(upsampled)], upsampled, 1e-5)
  np.testing.assert_allclose(value, vectors["out/loss"], rtol=1e-5)
  np.testing.assert_array_equal(np.argmax(full, axis=-1), vectors["out/argmax"])
  grads, expected = (
    (traverse_util.flatten_dict(tree, sep="/") for tree in (grads[0], expected))
    if isinstance(grads[0], dict)
    else (grads[0], expected)
  )
  largest = max(np.abs(value).max() for value in expected.values())
  for key, value in expected.items():
    # Biases before a softmax or a norm have rounding errors for a gradient.
    assert_close(grads[key], value, 2e-5, floor=0.1 * largest)


# Any patch size


@pytest.mark.parametrize(
  "decoder, learned",
  [
    ("linear", None),
    ("linear", LEARNED),
    ("mask", LEARNED),
    ("mask", LEARNED | {"fuser": True}),
  ],
)
def test_sizes_cost_and_parameters(decoder, learned):
  model = models.Segmenter(
    num_classes=5, decoder=decoder, token_learner=learned, pool="tok", **TINY
  )
  images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 11, 18, 3)))
  params = init(model, images)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert count == cost.num_params(model)
  setting = {"patch_size": (3, 4)}
  logits, out = jax.eval_shape(
    lambda p: model.apply({"params": p}, images, **setting), params
  )
  assert logits.shape == (1, 11, 18, 5) and logits.dtype == jnp.float32
  assert out["logits_2d"].shape == (1, 4, 5, 5)
  assert model.check((11, 18), **setting) == (4, 5)
  if learned is None or learned.get("fuser"):
    assert out["tokens_2d"].shape == (1, 4, 5, 16)
  else:
    assert "tokens_2d" not in out
  operations = cost.operations(model, (11, 18, 3), **setting)
  counted = cost.xla_operations(model, (11, 18, 3), **setting)
  assert sum(operations.values()) == pytest.approx(counted, rel=0.02)


def test_the_tower_is_that_of_a_vit():
  """So weights of a ViT fit, and rates by layer find the same names."""
  images = jnp.zeros((1, 12, 12, 3))
  trees = [
    init(cls(num_classes=4, **TINY), images)
    for cls in (models.ViT, models.Segmenter)
  ]
  for tree, head in zip(trees, ("head", "seg_head"), strict=True):
    del tree[head]
  assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])


def test_padding_is_that_of_the_image_itself():
  model = models.Segmenter(num_classes=4, **TINY)
  images = np.random.default_rng(0).normal(size=(2, 10, 12, 3)).astype("f4")
  params = init(model, images)
  padded = np.pad(images, ((0, 0), (0, 2), (0, 0), (0, 0)))
  full, _ = apply(model, params, padded)
  cut, _ = apply(model, params, images)
  np.testing.assert_allclose(cut, full[:, :10], atol=1e-5)


def test_learned_tokens_without_fuser():
  model = models.Segmenter(
    num_classes=4,
    decoder="mask",
    decoder_depth=1,
    token_learner=LEARNED,
    **TINY,
  )
  images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype("f4")
  params = init(model, images)
  run = jax.jit(lambda p, x, n: model.apply({"params": p}, x, num_tokens=n)[0])
  masked = run(params, images, jnp.int32(1))
  sliced, out = apply(model, params, images, num_tokens=1)
  np.testing.assert_allclose(masked, sliced, atol=2e-4)
  # Each patch has logits of its own, whatever the number of tokens.
  assert np.ptp(out["logits_2d"], axis=(1, 2)).min() > 1e-3


def test_learned_tokens_return_to_where_they_came_from():
  """The linear decoder of one token, which all patches share."""
  model = models.Segmenter(
    num_classes=4, token_learner=LEARNED | {"num_tokens": 1}, **TINY
  )
  images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype("f4")
  params = init(model, images)
  _, out = apply(model, params, images)
  patches = out["with_posemb"]
  patches -= patches.mean(axis=-1, keepdims=True)
  patches /= np.sqrt((patches**2).mean(axis=-1, keepdims=True) + 1e-6)
  norm = params["seg_norm"]
  patches = patches * norm["scale"][None, None] + norm["bias"][None, None]
  expected = dense(params["seg_head"], patches + out["encoded"])
  np.testing.assert_allclose(
    out["logits_2d"].reshape(2, 9, 4), expected, atol=1e-4
  )


def test_scanned_blocks_give_the_same():
  learned = LEARNED | {"layer": 1}
  arguments = TINY | {"depth": 3, "token_learner": learned}
  images = np.random.default_rng(0).normal(size=(1, 12, 12, 3)).astype("f4")
  model = models.Segmenter(num_classes=4, **arguments)
  params = init(model, images)
  scanned = models.Segmenter(num_classes=4, scan=True, **arguments)
  expected, _ = apply(model, params, images)
  np.testing.assert_allclose(
    apply(scanned, params, images)[0], expected, atol=1e-5
  )


@pytest.mark.parametrize("decoder", ["linear", "mask"])
def test_one_program_takes_any_number_of_images(decoder):
  """As exports need it."""
  model = models.Segmenter(
    num_classes=4, decoder=decoder, token_learner=LEARNED, **TINY
  )
  params = init(model, jnp.zeros((1, 12, 12, 3)))
  number = jax.export.symbolic_shape("number")[0]
  images = jax.ShapeDtypeStruct((number, 10, 12, 3), jnp.float32)
  program = jax.jit(lambda x: model.apply({"params": params}, x)[0])
  (answer,) = jax.export.export(program)(images).out_avals
  assert answer.shape == (number, 10, 12, 4)


@pytest.mark.parametrize(
  "arguments, words",
  [
    ({"num_classes": None}, "num_classes must be a whole number"),
    ({"decoder": "conv"}, "Unknown decoder 'conv'. Known: linear, mask"),
    ({"decoder_depth": 0}, "decoder_depth must be at least 1"),
    ({"decoder_dropout": 1}, r"decoder_dropout must be in \[0, 1\), got 1"),
    ({"pool": "map"}, "pool='map'.*no use"),
    ({"rep_size": 8}, "rep_size=8 would have weights of no use"),
    ({"gelu": "relu"}, "Unknown gelu 'relu'. Known: tanh, erf, quick"),
    ({"norm_eps": 0}, "norm_eps must be above 0, got 0"),
  ],
)
def test_errors_of_its_construction(arguments, words):
  with pytest.raises(ValueError, match=words):
    models.create("segmenter", **(TINY | {"num_classes": 3} | arguments))
