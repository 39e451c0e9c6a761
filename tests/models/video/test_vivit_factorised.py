"""The factorised encoder: space within frames, then time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests import tiny
from tests.tiny import apply
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import hyperparameters

VIDEOS = np.random.default_rng(0).uniform(-1, 1, (2, 4, 8, 12, 3))
VIDEOS = VIDEOS.astype(np.float32)
LEARNED = dict(layer=1, num_tokens=3)
ARGUMENTS = dict(
  num_classes=5,
  width=16,
  depth=2,
  mlp_dim=32,
  num_heads=2,
  head_zeroinit=False,
)


def build(**overrides):
  video = dict(patch_size=(2, 4, 4), posemb_grid=(2, 2, 3), temporal_depth=1)
  return models.ViViTFactorised(**(ARGUMENTS | video | overrides))


def init(model, videos=VIDEOS):
  """Parameters of noise, so that nothing is hidden behind a zero."""
  return tiny.init(model, videos, scale=0.3)


@pytest.mark.parametrize(
  "pool",
  [
    pytest.param(pool, marks=[] if pool == "tok" else [pytest.mark.slow])
    for pool in hyperparameters.POOLS
  ],
)
def test_each_frame_is_an_image(pool):
  """The first encoder is the image model, by the names of its parameters."""
  learned = dict(token_learner=LEARNED | dict(fuser=True), pool=pool)
  model = build(patch_size=(4, 4), posemb_grid=(4, 2, 3), **learned)
  image_model = models.ViT(
    **(ARGUMENTS | dict(num_classes=None)),
    patch_size=(4, 4),
    posemb_grid=(2, 3),
    **learned,
  )
  params = init(model)
  settings = dict(patch_size=2, num_tokens=2)
  _, out = apply(model, params, VIDEOS, **settings)
  images = VIDEOS.reshape(8, 8, 12, 3)
  needed = jax.eval_shape(image_model.init, jax.random.key(0), images)
  second = {name for name in params if name.endswith("TemporalTransformer")}
  assert len(second) == (3 if pool == "tok" else 2)
  heads = {"head"} | ({"MAPHead_1"} if pool == "map" else set())
  assert params.keys() - needed["params"].keys() == second | heads
  frames, image_out = apply(
    image_model,
    {name: params[name] for name in needed["params"]},
    images,
    **settings,
  )
  np.testing.assert_allclose(
    out["frames"].reshape(8, 16), frames, rtol=1e-4, atol=1e-4
  )
  for key in ("maps", "tokens"):
    np.testing.assert_allclose(
      out["token_learner"][key].reshape(8, 2, -1),
      image_out["token_learner"][key],
      rtol=1e-4,
      atol=1e-4,
    )


def test_frames_meet_in_the_second_encoder_alone():
  model = build(token_learner=LEARNED)
  params = init(model)
  other = VIDEOS.copy()
  other[:, 2:] += 1
  (logits, before), (other_logits, after) = (
    apply(model, params, videos) for videos in (VIDEOS, other)
  )
  np.testing.assert_array_equal(before["frames"][:, 0], after["frames"][:, 0])
  assert not np.allclose(before["frames"][:, 1], after["frames"][:, 1])
  assert not np.allclose(logits, other_logits)
  # Time has an order: by its position embedding and nothing else.
  backwards = VIDEOS.reshape(2, 2, 2, 8, 12, 3)[:, ::-1].reshape(VIDEOS.shape)
  turned, _ = apply(model, params, backwards)
  assert not np.allclose(turned, logits, atol=1e-3)
  name = "pos_embedding_TemporalTransformer"
  still = params | {name: jnp.zeros_like(params[name])}
  np.testing.assert_allclose(
    *(apply(model, still, videos)[0] for videos in (VIDEOS, backwards)),
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.slow
def test_traced_num_tokens_equals_static():
  model = build(token_learner=LEARNED)
  params = init(model)
  static, _ = apply(model, params, VIDEOS, num_tokens=2)
  traced = jax.jit(
    lambda n: model.apply({"params": params}, VIDEOS, num_tokens=n)[0]
  )(jnp.int32(2))
  np.testing.assert_allclose(traced, static, atol=2e-5)


def test_outputs():
  model = build(token_learner=LEARNED, pool="tok", num_frames=4)
  params = init(model)
  logits, out = apply(model, params, VIDEOS, patch_size=(1, 2, 4))
  lengths = model.seq_lens((4, 8, 12), (1, 2, 4))
  assert lengths == (13, 4, 5)
  spatial, temporal = out["encoder"], out["temporal_encoder"]
  assert (sorted(spatial), sorted(temporal)) == (
    ["block00", "block01"],
    ["block00"],
  )
  shapes = [b["+mlp"].shape for b in (*spatial.values(), *temporal.values())]
  assert shapes == [(2, 4, 13, 16), (2, 4, 4, 16), (2, 5, 16)]
  assert out["stem"].shape == (2, 4, 4, 3, 16)
  assert out["with_posemb"].shape == (2, 48, 16)
  assert out["token_learner"]["maps"].shape == (2, 4, 3, 12)
  assert out["frames"].shape == (2, 4, 16)
  assert out["encoded"].shape == (2, 5, 16)
  np.testing.assert_array_equal(out["logits"], logits)
  assert model.seq_lens((4, 8, 12), num_tokens="all") == (7, 7, 3)


def test_switched_off_and_looped():
  """All tokens are a model without TokenLearner; loops change nothing."""
  model = build(token_learner=LEARNED)
  params = init(model)
  off, _ = apply(model, params, VIDEOS, num_tokens="all")
  flat = traverse_util.flatten_dict(params, sep="/")
  kept = {k: v for k, v in flat.items() if "TokenLearner_" not in k}
  plain = build(scan=True, remat=True)
  looped, _ = apply(plain, traverse_util.unflatten_dict(kept, sep="/"), VIDEOS)
  np.testing.assert_allclose(looped, off, rtol=1e-4, atol=1e-4)
  assert plain.scanned_runs == ()


def test_by_name():
  model = models.create("vivit_factorised", "L/16x2", num_classes=400)
  assert model.temporal_depth == 4
  assert model.seq_lens((32, 224, 224)) == (196,) * 24 + (16,) * 4
  with pytest.raises(ValueError, match="temporal_depth must be at least 1"):
    build(temporal_depth=0)
  with pytest.raises(ValueError, match="does not divide the video size"):
    build().check((4, 8, 12), 5)
