"""Two towers against the published code; their image tower is that of ViT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.models.test_text_transformer import with_our_blocks
from tests.tiny import apply, init
from tests.vectors import Vectors, assert_close, checks, largest
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost

TEXT = dict(vocab_size=11, max_len=5, width=8, depth=1, mlp_dim=12, num_heads=2)
TINY = dict(
  width=16,
  depth=1,
  mlp_dim=24,
  num_heads=2,
  patch_size=4,
  posemb_grid=3,
  text=TEXT,
)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3))
TEXTS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9]])


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision("highest"):
    yield


def towers(**overrides):
  return models.create("two_towers", **(TINY | overrides))


def of_images(params):
  """The parameters of the image tower alone."""
  return {k: v for k, v in params.items() if k not in ("txt", "t", "b")}


# The published code


def _from_published(vectors):
  """Returns the model and a function that gives its parameters our names."""
  cfg, image = vectors.meta["cfg"], dict(vectors.meta["cfg"]["image"])
  text = dict(cfg["text"])
  text["pool"] = text.pop("pool_type", "last")
  patch = image["patch_size"]
  _, height, width, _ = vectors["in/image"].shape
  out_dim = cfg["out_dim"]
  out_dim = out_dim if isinstance(out_dim, list) else [out_dim] * 2
  model = models.TwoTowers(
    num_classes=out_dim[0],
    pool=image.pop("pool_type"),
    posemb_grid=(height // patch[0], width // patch[1]),
    text=text | dict(max_len=vectors["in/text"].shape[1], embed_dim=out_dim[1]),
    bias_init=cfg["bias_init"],
    temperature_init=cfg["temperature_init"],
    **image,
  )

  def ours(params):
    txt = with_our_blocks(params["txt"])
    scalars = {k: params[k] for k in ("t", "b") if k in params}
    return {**params["img"], "txt": txt, **scalars}

  return model, ours


def _siglip_loss(model, params, images, texts):
  """Returns the sum over texts and mean over images, and all outputs."""
  zimg, out = model.apply({"params": params}, images, texts)
  logits = out["t"][None] * (zimg @ out["ztxt"].T) + out["b"][None]
  signs = 2 * jnp.eye(len(zimg)) - 1
  loss = -jnp.mean(jnp.sum(jax.nn.log_sigmoid(signs * logits), axis=-1))
  return loss, (zimg, out)


@checks(
  "dense_bv_two_towers_tok",
  "dense_bv_two_towers_map",
  "dense_bv_two_towers_gap_nobias",
)
def test_published_two_towers(name):
  vectors = Vectors(name)
  model, ours = _from_published(vectors)
  params = ours(vectors.tree("params/"))
  images, texts = vectors["in/image"], vectors["in/text"]
  if model.bias_init is None:
    zimg, out = jax.jit(model.apply)({"params": params}, images, texts)
    assert "b" not in out
  else:
    step = jax.value_and_grad(
      lambda p: _siglip_loss(model, p, images, texts), has_aux=True
    )
    (loss, (zimg, out)), gradients = jax.jit(step)(params)
    assert_close(loss, vectors["out/siglip_loss"], 1e-5)
    expected = vectors.tree("grad/siglip_loss/params/")
    expected = traverse_util.flatten_dict(ours(expected))
    gradients = traverse_util.flatten_dict(gradients)
    floor = 0.1 * largest(expected)
    for key, gradient in expected.items():  # Those of some parts are left out.
      assert_close(gradients[key], gradient, floor=floor)
  assert_close(zimg, vectors["out/zimg"], 1e-5)
  for key in ("ztxt", "t", "img_norm", "txt_norm"):
    assert_close(out[key], vectors[f"out/{key}"], 1e-5)
  assert_close(out["pre_logits"], vectors["out/img_pre_logits"], 1e-5)
  assert_close(out["txt"]["pre_logits"], vectors["out/txt_pre_logits"], 1e-5)


# Images, texts and dials


@pytest.fixture(scope="module")
def learned():
  """A model with both dials, and parameters."""
  model = towers(num_classes=6, token_learner=dict(layer=0, num_tokens=3))
  return model, init(model, IMAGES)


def test_all_parameters_come_from_images_alone(learned):
  model, params = learned
  with_texts = jax.eval_shape(
    model.init, jax.random.key(0), IMAGES, texts=TEXTS
  )["params"]
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, with_texts)
  assert "head" in params and "b" not in params
  locked = towers(bias_init=-3.0)

  @jax.jit
  def scalars_and_head(key):
    params = locked.init(key, IMAGES)["params"]
    assert "head" not in params
    return params["t"], params["b"], params["txt"]["head"]["kernel"]

  t, b, kernel = scalars_and_head(jax.random.key(0))
  np.testing.assert_allclose(np.exp(t), [10.0], rtol=1e-6)
  np.testing.assert_array_equal(b, [-3.0])
  assert kernel.shape == (8, 16)


@pytest.mark.parametrize(
  "setting", [dict(patch_size=6, num_tokens=2), dict(num_tokens="all")]
)
def test_the_image_tower_is_that_of_vit(setting, learned):
  model, params = learned
  zimg, out = apply(model, params, IMAGES, **setting)
  alone = {k: v for k, v in TINY.items() if k != "text"}
  vit = models.ViT(num_classes=6, token_learner=model.token_learner, **alone)
  logits, expected = apply(vit, of_images(params), IMAGES, **setting)
  np.testing.assert_allclose(np.linalg.norm(zimg, axis=1), 1, rtol=1e-6)
  assert_close(zimg * out["img_norm"], np.asarray(logits), 1e-6)
  assert_close(out["pre_logits"], np.asarray(expected["pre_logits"]), 1e-6)
  assert "ztxt" not in out and "logits" not in out


def test_texts_alone_are_those_beside_images(learned):
  model, params = learned
  _, out = jax.jit(model.apply)({"params": params}, IMAGES, TEXTS)
  ztxt, alone = jax.jit(
    lambda p, texts: model.apply({"params": p}, texts, method="embed_texts")
  )(params, TEXTS)
  assert_close(ztxt, np.asarray(out["ztxt"]), 1e-6)
  assert_close(alone["txt_norm"], np.asarray(out["txt_norm"]), 1e-6)
  np.testing.assert_array_equal(alone["t"], out["t"])
  np.testing.assert_allclose(np.linalg.norm(ztxt, axis=1), 1, rtol=1e-6)


def test_the_costs_are_those_of_images(learned):
  model, params = learned
  leaves = jax.tree.leaves(params)
  assert cost.num_params(model) == sum(leaf.size for leaf in leaves)
  alone = {k: v for k, v in TINY.items() if k != "text"}
  vit = models.ViT(num_classes=6, token_learner=model.token_learner, **alone)
  assert model.cost((12, 12, 3)) == vit.cost((12, 12, 3))
  assert model.check((12, 12), patch_size=6, num_tokens=2) == (2, 2)


@pytest.mark.parametrize("pool", ["last", "map"])
def test_the_products_of_a_text_are_counted(pool):
  wide = dict(width=64, depth=2, mlp_dim=192, num_heads=2, max_len=9)
  model = towers(num_classes=32, text=TEXT | wide | dict(pool=pool))
  params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  texts = jax.ShapeDtypeStruct((1, 9), jnp.int32)
  embed = jax.jit(lambda p, x: model.apply(p, x, method="embed_texts")[0])
  by_xla = embed.lower(params, texts).cost_analysis()["flops"]
  # Beside the products it counts norms, activations and biases.
  assert 0.94 < 2 * model.text_cost(9) / by_xla < 1


# The norm before the blocks


def test_a_norm_before_the_blocks():
  alone = {k: v for k, v in TINY.items() if k != "text"}
  model = models.ViT(num_classes=None, pool="tok", pre_norm=True, **alone)
  params = init(model, IMAGES)
  norm = jax.tree.map(np.asarray, params["pre_norm"])
  _, out = apply(model, params, IMAGES)
  block = jax.tree.map(np.asarray, out["encoder"]["block00"])
  seen = (block["+sa"] - block["sa"] - norm["bias"]) / norm["scale"]
  np.testing.assert_allclose(seen.mean(-1), 0, atol=1e-3)
  np.testing.assert_allclose(seen.std(-1), 1, atol=1e-3)
  leaves = jax.tree.leaves(params)
  assert cost.num_params(model) == sum(leaf.size for leaf in leaves)
  counted = sum(cost.operations(model, (12, 12, 3)).values())
  by_xla = cost.xla_operations(model, (12, 12, 3))
  np.testing.assert_allclose(counted, by_xla, rtol=0.01)


# Arguments


def test_the_text_tower_follows_the_image_tower():
  model = towers(gelu="quick", norm_eps=1e-5, rep_size=6)
  assert model.text["gelu"] == "quick" and model.text["norm_eps"] == 1e-5
  assert model.text["embed_dim"] == model.embed_dim == 6
  model = towers(num_classes=4, text=dict(variant="mu", **TEXT, gelu="erf"))
  assert model.text["gelu"] == "erf" and model.text["embed_dim"] == 4
  headless = towers(width=8, text=TEXT | dict(embed_dim=None))
  assert headless.text["embed_dim"] is None and headless.embed_dim == 8
  # The arguments of a model build it again.
  again = towers(num_classes=4, text=dict(model.text))
  assert again == model and hash(again) == hash(model)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (dict(text=None), "text=None must be a mapping"),
    (dict(text=dict(max_len=4)), "needs vocab_size"),
    (dict(text=TEXT | dict(embed_dim=3)), "3 features .*images of 16 .no head"),
    (
      dict(num_classes=5, text=TEXT | dict(embed_dim=3)),
      "3 features .*images of 5 .num_classes",
    ),
    (dict(text=TEXT | dict(embed_dim=None)), "of 8 features"),
    (dict(text=TEXT | dict(dtype="bfloat16")), "text.dtype='bfloat16'"),
    (dict(text=TEXT | dict(layers=3)), "no key 'layers'"),
    (dict(head_zeroinit=True), "no direction"),
    (dict(temperature_init=0), "above 0, got 0"),
    (dict(bias_init="x"), "bias_init must be a number"),
    (dict(texts=3), "has no key 'texts'. Did you mean 'text'"),
  ],
)
def test_wrong_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    towers(**arguments)
