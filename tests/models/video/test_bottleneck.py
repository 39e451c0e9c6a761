"""Convolutions, TokenLearner, vector attention: for videos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import apply
from tests.vectors import dense
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost, token_learner
from tokenlearner_flexivit.models.video import (
  bottleneck,
  vector_attention,
  x2plus1d,
)

VIDEOS = np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 24, 3))
VIDEOS = VIDEOS.astype(np.float32)
LEARNED = dict(layer=0, num_tokens=3, version="1.0", pooling="mean")


def build(**overrides):
  """One block after two stages, the second of which has two blocks."""
  arguments = dict(
    num_classes=5,
    stages=((24, 1), (24, 2)),
    width=24,
    depth=1,
    mlp_dim=32,
    num_heads=4,
    posemb_grid=(2, 2, 3),
    token_learner=LEARNED,
    head_zeroinit=False,
  )
  return models.BottleneckViViT(**(arguments | overrides))


@pytest.fixture(scope="module")
def params():
  """Parameters of noise, so that nothing is hidden behind a zero."""
  shapes = jax.eval_shape(build().init, jax.random.key(0), VIDEOS)["params"]
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape), p.dtype), shapes
  )


def noise(shapes):
  rng = np.random.default_rng(2)
  return jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), shapes
  )


def test_vector_attention_is_its_formula():
  module = vector_attention.VectorAttention(num_heads=4)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 32)), "float32")
  params = noise(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
  assert params["query"]["kernel"].shape == (32, 2)
  q, k, v = (
    np.asarray(dense(params[name], x)) for name in ("query", "key", "value")
  )
  expected = np.zeros((2, 5, 32), np.float32)
  for b, n in np.ndindex(2, 5):
    relation = np.maximum(q[b, n][None] - k[b, :4], 0)
    logits = relation @ np.asarray(params["weights"]["kernel"])
    weights = np.exp(logits - logits.max(axis=0))
    weights /= weights.sum(axis=0)
    # Eight channels share a weight.
    expected[b, n] = (weights.repeat(8, axis=1) * v[b, :4]).sum(axis=0)
  mask = jnp.arange(5) < 4  # The bias of the weights is lost in the softmax.
  actual = module.apply({"params": params}, x, mask)
  np.testing.assert_allclose(
    actual, dense(params["out"], expected), rtol=1e-4, atol=1e-4
  )


def test_equal_weights_of_half_precision_sum_to_one():
  module = vector_attention.VectorAttention(num_heads=1, dtype=jnp.bfloat16)
  # 1/11 rounded to bfloat16 is 0.2 % too large, for all 11 tokens alike.
  x = jnp.ones((1, 11, 4))
  params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
  params = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params)
  for name in ("value", "out"):
    params[name]["kernel"] = jnp.eye(4)
  np.testing.assert_array_equal(
    jax.jit(module.apply)({"params": params}, x).astype(jnp.float32), x
  )


def test_a_single_convolution_makes_the_maps():
  module = bottleneck.ConvTokenLearner(3, version="1.0", pooling="mean")
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 8)), "float32")
  shapes = jax.eval_shape(
    lambda key: module.init(key, x, (3, 4)), jax.random.key(0)
  )
  params = noise(shapes["params"])
  assert set(params) == {"LayerNorm_0", "Conv_0"}
  tokens, maps = module.apply({"params": params}, x, (3, 4))
  np.testing.assert_allclose(tokens, maps @ x, rtol=1e-5, atol=1e-5)
  # The middle of a kernel alone is a dense layer.
  params["Conv_0"]["kernel"] *= np.eye(9)[4].reshape(3, 3, 1, 1)
  _, maps = module.apply({"params": params}, x, (3, 4))
  y = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  norm = params["LayerNorm_0"]
  y = y * norm["scale"][None, None] + norm["bias"][None, None]
  y = y @ params["Conv_0"]["kernel"][1, 1]
  expected = jax.nn.sigmoid(y).transpose(0, 2, 1) / 12
  np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)
  # The other versions are those of everywhere.
  ours, theirs = (
    jax.eval_shape(cls(3).init, jax.random.key(0), x)
    for cls in (bottleneck.ConvTokenLearner, token_learner.TokenLearner)
  )
  assert ours == theirs


def test_the_dial_of_tokens(params):
  model = build()
  static, out = apply(model, params, VIDEOS, num_tokens=2)
  traced = jax.jit(
    lambda n: model.apply({"params": params}, VIDEOS, num_tokens=n)[0]
  )(jnp.int32(2))
  np.testing.assert_allclose(traced, static, atol=2e-5)
  assert out["stem"].shape == (2, 3, 2, 3, 24)
  assert out["token_learner"]["maps"].shape == (2, 3, 2, 6)
  assert out["encoder"]["block00"]["+mlp"].shape == (2, 6, 24)
  assert model.seq_lens((3, 16, 24), num_tokens=2) == (6,)
  assert model.seq_lens((3, 16, 24), num_tokens="all") == (18,)


def test_the_stem_keeps_time_and_halves_space():
  stem = x2plus1d.X2Plus1D(((24, 1), (24, 2)), 48)
  shapes = jax.eval_shape(stem.init_with_output, jax.random.key(0), VIDEOS)
  y, variables = shapes
  assert y.shape == (2, 3, 2, 3, 48)
  flat = {
    "/".join(key.key for key in path): leaf.shape
    for path, leaf in jax.tree.leaves_with_path(variables["params"])
  }
  assert flat["space/conv/kernel"] == (1, 3, 3, 3, 24)
  assert flat["time/conv/kernel"] == (5, 1, 1, 1, 24)
  # 2.25 times as wide inside, where each channel is convolved alone.
  assert flat["stage1_block1/space/conv/kernel"] == (1, 3, 3, 1, 54)
  assert flat["stage1_block1/time/conv/kernel"] == (3, 1, 1, 1, 54)
  # No residual has to be brought to size but where a stage begins.
  assert {name.split("/")[0] for name in flat if "project" in name} == {
    "stage0_block0",
    "stage1_block0",
  }


def test_variants():
  model = models.create("vivit_bottleneck", "M", num_classes=157)
  assert model.patch_size == (32, 32)
  assert model.check((64, 224, 224)) == (64, 7, 7)
  # What is reported: 4,096 positions, of which 512 tokens are learned.
  assert model.seq_lens((64, 256, 256)) == (512,) * 3
  assert model.seq_lens((64, 256, 256), num_tokens="all") == (4096,) * 3
  with pytest.raises(ValueError, match=r"Unknown variant 'B'\. Known: M, L"):
    models.create("vivit_bottleneck", "B")


def test_cost_is_counted(params):
  """By XLA: 2 % of it and less are no products, in a model of some width."""
  model = build()
  count = sum(p.size for p in jax.tree.leaves(params))
  assert cost.num_params(model) == count
  macs = cost.macs(model, VIDEOS.shape[1:])
  operations = cost.operations(model, VIDEOS.shape[1:])
  assert operations["matmul"] == 2 * macs
  counted = cost.xla_operations(model, VIDEOS.shape[1:])
  assert sum(operations.values()) == pytest.approx(counted, abs=2)
  # The first convolution alone is a lower bound.
  assert macs > 3 * 8 * 12 * 27 * 24


@pytest.mark.parametrize(
  "kwargs, message",
  [
    (dict(patch_size=16), "patch_size=16, but the stem's stride is .8, 8."),
    (dict(stages=((24, 0),)), "Each stage needs blocks"),
    (dict(stages=((32, 1),)), "32 channels .* multiples of 24"),
    (dict(width=40), "40 channels .* multiples of 24"),
  ],
)
def test_constructor_errors(kwargs, message):
  with pytest.raises(ValueError, match=message):
    build(**kwargs)


def test_call_errors():
  model = build()
  assert model.check((3, 16, 24), (8, 8)) == model.check((3, 16, 24))
  for settings, message in (
    (dict(patch_size=4), "patch_size=4, but .* stride .8, 8."),
    (dict(num_tokens=4), "num_tokens=4 .* 1 to 3"),
  ):
    with pytest.raises(ValueError, match=message):
      model.check((3, 16, 24), **settings)
  with pytest.raises(
    ValueError, match="8x8 does not divide the image size 20x24"
  ):
    model.check((3, 20, 24))
