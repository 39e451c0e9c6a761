"""The text tower against its published code, and what each token may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import apply
from tests.vectors import Vectors, assert_close, checks, largest
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import attention

TINY = dict(
  vocab_size=11, max_len=6, width=16, depth=2, mlp_dim=24, num_heads=2
)


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision("highest"):
    yield


def tower(**overrides):
  return models.TextTransformer.from_variant(**(TINY | overrides))


def noise(model, texts):
  """Parameters of noise, so that nothing is hidden behind a zero."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), texts)["params"]
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape), p.dtype), shapes
  )


def with_our_blocks(params):
  """Big_vision's parameters of a text tower by our names."""
  encoder = {
    name.replace("encoderblock_", "block_"): value
    for name, value in params["Encoder_0"].items()
  }
  return params | {"Encoder_0": encoder}


# The published code


@checks(
  "dense_bv_text_last",
  "dense_bv_text_map",
  "dense_bv_text_mean",
  "dense_bv_text_first",
  "dense_bv_text_max",
)
def test_published_text_tower(name):
  vectors = Vectors(name)
  cfg = dict(vectors.meta["cfg"])
  embed_dim = cfg.pop("num_classes")
  pool = cfg.pop("pool_type", "last")
  texts = vectors["in/text"]
  model = models.TextTransformer(
    **cfg, embed_dim=embed_dim, pool=pool, max_len=texts.shape[1]
  )
  params = with_our_blocks(vectors.tree("params/"))
  expected = vectors.tree("grad/params/")
  if not expected:
    y, out = apply(model, params, texts)
  else:

    @jax.jit
    def output_and_gradients(params):
      y, vjp, out = jax.vjp(
        lambda p: model.apply({"params": p}, texts), params, has_aux=True
      )
      return y, out, vjp(jnp.asarray(vectors["grad/cotangent"]))[0]

    y, out, gradients = output_and_gradients(params)
    # Some are zero but for rounding, such as that of a key's bias.
    floor = 0.1 * largest(expected)
    jax.tree.map(
      lambda a, b: assert_close(a, b, floor=floor),
      gradients,
      with_our_blocks(expected),
    )
  assert_close(y, vectors["out/y"])
  assert_close(out["pre_logits"], vectors["out/pre_logits"])
  assert_close(out["transformed"], vectors["out/transformed"])


# What a token sees


def test_causal_attention_is_that_of_each_beginning():
  rng = np.random.default_rng(0)
  query, key, value = jnp.asarray(rng.normal(size=(3, 2, 5, 2, 4)), "float32")
  y = attention.causal_attention(query, key, value)
  for n in range(1, 6):
    last = attention.dot_product_attention(
      query[:, n - 1 : n], key[:, :n], value[:, :n]
    )
    assert_close(y[:, n - 1 : n], np.asarray(last), 1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_who_sees_a_later_token(causal):
  model = tower(causal=causal)
  texts = np.array([[3, 1, 4, 1, 5, 9]])
  params = noise(model, texts)
  changed = texts.copy()
  changed[0, 3] = 7
  before, after = (
    apply(model, params, t)[1]["transformed"] for t in (texts, changed)
  )
  same = np.all(np.abs(before - after)[0] < 1e-6, axis=-1)
  assert same.tolist() == [causal] * 3 + [False] * 3


def test_a_causal_tower_needs_no_padding():
  model = tower(causal=True, pool="eot", embed_dim=5)
  texts = np.array([[3, 1, 10, 0, 0, 0], [2, 10, 4, 4, 4, 4]])
  params = noise(model, texts)
  z, out = apply(model, params, texts)
  # What follows the end token is not seen, nor need be there.
  padded = np.where(np.arange(6) > 2, 9, texts)
  np.testing.assert_allclose(apply(model, params, padded)[0], z, atol=1e-6)
  short, _ = apply(model, params, texts[:, :3])
  np.testing.assert_allclose(short, z, atol=1e-6)
  np.testing.assert_array_equal(out["pre_logits"][0], out["transformed"][0, 2])
  np.testing.assert_array_equal(out["pre_logits"][1], out["transformed"][1, 1])


def test_the_end_token_may_be_any():
  texts = np.array([[3, 2, 10, 2, 0, 0], [1, 1, 1, 1, 1, 1]])
  model = tower(pool="eot", end_id=2, depth=1)
  params = noise(model, texts)
  z, out = apply(model, params, texts)
  # The first one; the first token of a text without any.
  np.testing.assert_array_equal(z[0], out["transformed"][0, 1])
  np.testing.assert_array_equal(z[1], out["transformed"][1, 0])


def test_half_precision_inside_alone():
  texts = np.array([[3, 1, 4, 1, 5, 9]])
  params = noise(tower(embed_dim=5), texts)
  z, _ = apply(tower(embed_dim=5), params, texts)
  half, out = apply(tower(embed_dim=5, dtype="bfloat16"), params, texts)
  assert out["transformed"].dtype == jnp.bfloat16
  assert half.dtype == out["pre_logits"].dtype == jnp.float32
  assert_close(half, np.asarray(z), 0.03)


# Arguments


def test_a_variant_has_the_sizes_of_the_image_tower():
  text = models.TextTransformer.from_variant("So400m", vocab_size=9, max_len=4)
  image = models.ViT.from_variant("So400m/14")
  for name in ("width", "depth", "mlp_dim", "num_heads"):
    assert getattr(text, name) == getattr(image, name)
  assert text.mlp_dim == 4304


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (dict(vocab_size=None), "needs vocab_size, the number of different"),
    (dict(max_len=None), "needs max_len, the number of tokens"),
    (dict(variant="B/16"), "Unknown variant 'B/16' of a text tower"),
    (dict(num_classes=3), "no key 'num_classes'"),
    (dict(num_heads=3), "width=16 is not divisible by num_heads=3"),
    (dict(pool="cls"), "Unknown pool 'cls'. Known: last, first"),
    (dict(end_id=3), "end_id=3 has no use with pool='last'"),
    (dict(norm_eps=0.0), "norm_eps must be above 0"),
    (dict(gelu="relu"), "Unknown gelu 'relu'"),
    (dict(causal=1), "causal must be True or False"),
  ],
)
def test_wrong_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    tower(**arguments)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
  ("texts", "message"),
  [
    (np.zeros((2, 7), int), "7 tokens do not fit .* 1 to max_len=6"),
    (np.zeros((2, 0), int), "0 tokens do not fit"),
    (np.zeros((2, 6)), r"whole numbers \[M, L\], got float32\[2, 6\]"),
    (np.zeros((6,), int), r"whole numbers \[M, L\], got int32\[6\]"),
  ],
)
def test_wrong_texts(texts, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(tower().init, jax.random.key(0), texts)
