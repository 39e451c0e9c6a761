"""Videos: how they are cut, joint attention, and the two dials."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests import tiny
from tests.tiny import apply
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import hyperparameters, patch_embed
from tokenlearner_flexivit.models.video import vivit

VIDEOS = np.random.default_rng(0).uniform(-1, 1, (2, 4, 16, 24, 3))
VIDEOS = VIDEOS.astype(np.float32)
# Most tests say the same of one block as of many, and compile it sooner.
LEARNED = dict(layer=0, num_tokens=4)
# Tubelets of two frames, and single frames.
PATCH_SIZES = pytest.mark.parametrize("patch_size", [(2, 8, 8), (8, 8)])


def build(**overrides):
  """A model of one block whose logits are not zero."""
  kwargs = dict(
    num_classes=5,
    width=16,
    depth=1,
    mlp_dim=32,
    num_heads=2,
    patch_size=(2, 8, 8),
    posemb_grid=(2, 2, 3),
    head_zeroinit=False,
  )
  return models.ViViT(**(kwargs | overrides))


def init(model, videos=VIDEOS):
  """Parameters of noise, so that nothing is hidden behind a zero."""
  return tiny.init(model, videos)


@pytest.mark.parametrize(
  "pool,fuser,version",
  [
    ("gap", False, "1.1"),
    ("map", False, "1.1"),
    ("tok", True, "1.1"),
    ("gap", True, "1.0"),
  ],
)
def test_traced_num_tokens_equals_static(pool, fuser, version):
  model = build(
    pool=pool, token_learner=LEARNED | dict(fuser=fuser, version=version)
  )
  params = init(model)
  static, static_out = apply(model, params, VIDEOS, num_tokens=2)
  traced, traced_out = jax.jit(
    lambda n: model.apply({"params": params}, VIDEOS, num_tokens=n)
  )(jnp.int32(2))
  np.testing.assert_allclose(traced, static, atol=2e-5)
  if fuser:
    np.testing.assert_allclose(
      traced_out["encoded"], static_out["encoded"], atol=5e-5
    )
  # The first tokens of every frame.
  tokens = [out["token_learner"]["tokens"] for out in (traced_out, static_out)]
  np.testing.assert_allclose(tokens[0][:, :, :2], tokens[1], atol=2e-5)
  assert not np.any(tokens[0][:, :, 2:])


@pytest.mark.parametrize(
  "pool, num_tokens", [("gap", None), ("tok", 3), ("map", 3)]
)
def test_a_video_of_one_frame_is_an_image(pool, num_tokens):
  arguments = dict(
    num_classes=5,
    width=16,
    depth=1,
    mlp_dim=32,
    num_heads=2,
    pool=pool,
    patch_size=8,
    token_learner=LEARNED | dict(fuser=True),
  )
  video_model = models.ViViT(**arguments, posemb_grid=(1, 3, 3))
  image_model = models.ViT(**arguments, posemb_grid=(3, 3))
  params = init(video_model, VIDEOS[:, :1])
  settings = dict(patch_size=4, num_tokens=num_tokens)
  actual, _ = apply(video_model, params, VIDEOS[:, :1], **settings)
  expected, _ = apply(image_model, params, VIDEOS[:, 0], **settings)
  np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
  "patch_size, fuser", [((2, 8, 8), False), ((8, 8), True)]
)
def test_a_video_that_stands_still(patch_size, fuser):
  model = build(
    patch_size=patch_size, token_learner=LEARNED | dict(fuser=fuser)
  )
  params = init(model)
  # Positions that tell nothing about time.
  cells = params["pos_embedding"].reshape(2, 6, 16)[:1]
  params["pos_embedding"] = jnp.tile(cells, (1, 2, 1))
  still = np.repeat(VIDEOS[:, :1], 4, axis=1)
  logits, out = apply(model, params, still)
  steps = [out["stem"], *out["token_learner"].values()]
  for array in steps:
    np.testing.assert_allclose(array, array[:, ::-1], atol=1e-5)
  # Attention to copies is attention to one of them.
  shorter, _ = apply(model, params, still[:, :2])
  np.testing.assert_allclose(logits, shorter, atol=1e-5)


@PATCH_SIZES
def test_frames_are_summarised_alone_and_attended_to_together(patch_size):
  model = build(patch_size=patch_size, token_learner=LEARNED)
  params = init(model)
  other = VIDEOS.copy()
  other[:, -1] += 1
  outs = []
  for videos in (VIDEOS, other):
    logits, out = apply(model, params, videos)
    np.testing.assert_array_equal(out["logits"], logits)
    sums = out["token_learner"]["maps"].sum(axis=-1)
    np.testing.assert_allclose(sums, np.ones(sums.shape), rtol=1e-5)
    outs.append(out)
  for key in ("maps", "tokens"):
    before, after = (out["token_learner"][key] for out in outs)
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
    assert not np.allclose(before[:, -1], after[:, -1], atol=1e-3)
  before, after = (out["encoder"]["block00"]["+sa"][:, 0] for out in outs)
  assert not np.allclose(before, after, atol=1e-4)


def stem(params, videos, patch_size):
  model = build()
  return jax.jit(
    lambda p: model.apply({"params": p}, videos, patch_size=patch_size)[1][
      "stem"
    ]
  )(params)


@pytest.mark.parametrize("patch_size", [None, (4, 12), (4, 8, 8), (1, 4, 4)])
def test_tubelets_equal_strided_convolution(patch_size):
  params = init(build())
  kernel = params["embedding"]["kernel"]
  assert kernel.shape == (2, 8, 8, 3, 16)
  kernel = patch_embed.resize_kernel(kernel, patch_size or (8, 8))
  expected = jax.lax.conv_general_dilated(
    VIDEOS,
    kernel,
    window_strides=kernel.shape[:3],
    padding="VALID",
    dimension_numbers=("NTHWC", "THWIO", "NTHWC"),
  )
  expected += params["embedding"]["bias"][None, None, None, None, :]
  actual = stem(params, VIDEOS, patch_size)
  np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("pool", hyperparameters.POOLS)
def test_outputs(pool):
  model = build(depth=3, pool=pool, token_learner=LEARNED | dict(layer=2))
  call = functools.partial(model.apply, patch_size=4, num_tokens=3)
  logits, out = jax.eval_shape(call, {"params": init(model)}, VIDEOS)
  cls = int(pool == "tok")
  assert out["stem"].shape == (2, 2, 4, 6, 16)
  assert out["with_posemb"].shape == (2, 48, 16)
  lengths = model.seq_lens((4, 16, 24), 4, num_tokens=3)
  assert lengths == (48 + cls, 48 + cls, 6 + cls)
  assert sorted(out["encoder"]) == ["block00", "block01", "block02"]
  for block, n in zip(out["encoder"].values(), lengths, strict=True):
    for key in ("sa", "+sa", "mlp", "+mlp"):
      assert block[key].shape == (2, n, 16)
  assert out["token_learner"]["maps"].shape == (2, 2, 3, 24)
  assert out["token_learner"]["tokens"].shape == (2, 2, 3, 16)
  assert out["encoded"].shape == (2, 6 + cls, 16)
  assert out["pre_logits"].shape == (2, 16)
  assert logits.shape == out["logits"].shape == (2, 5)


def test_seq_lens():
  assert build(depth=3).seq_lens((4, 16, 24)) == (12,) * 3
  assert build(patch_size=(8, 8)).seq_lens((4, 16, 24), 4) == (96,)
  learner = LEARNED | dict(layer=1)
  sampled = build(
    depth=3, patch_size=(8, 8), num_frames=3, token_learner=learner
  )
  assert sampled.seq_lens((9, 16, 24)) == (18, 12, 12)
  assert sampled.seq_lens((2, 16, 24)) == (12, 8, 8)
  assert build().check((8, 16, 24), (4, 8, 8)) == (2, 2, 3)


@pytest.mark.parametrize(
  "total,num_frames,expected",
  # Halves are rounded to even; as in the published code, except for 8 and 2,
  # of which it makes 3, 5 and 7.
  [
    (6, 3, [2, 3, 4]),
    (10, 3, [2, 5, 8]),
    (8, 2, [3, 5]),
    (8, 8, range(8)),
    (5, 8, range(5)),
    (9, 1, [4]),
  ],
)
def test_sampled_frames(total, num_frames, expected):
  frames = np.tile(np.arange(total)[None, :, None], (2, 1, 3))
  sampled = vivit.sample_frames(jnp.asarray(frames), num_frames)
  assert sampled[1, :, 2].tolist() == list(expected)


@PATCH_SIZES
def test_only_sampled_frames_matter(patch_size):
  model = build(patch_size=patch_size, num_frames=2)
  params = init(model)
  videos = np.zeros((2, 5, 16, 24, 3), np.float32)
  videos[:, [2, 3]] = VIDEOS[:, :2]
  actual, _ = apply(model, params, videos)
  expected, _ = apply(model.clone(num_frames=None), params, VIDEOS[:, :2])
  np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("patch_size", [(2, 8, 8), (8, 8)])
def test_parameters_depend_on_no_size(patch_size):
  model = build(patch_size=patch_size, token_learner=LEARNED)
  shapes = [
    jax.eval_shape(
      lambda k, x, p=p: model.init(k, x, patch_size=p), jax.random.key(0), x
    )
    for x, p in [
      (VIDEOS, None),
      (VIDEOS, 4),
      (VIDEOS[:, :2], (16, 6)),
      # The stored size divides neither these frames nor their number.
      (jnp.ones((1, 3, 30, 20, 3)), None),
    ]
  ]
  for other in shapes[1:]:
    chex.assert_trees_all_equal_shapes(shapes[0], other)
  params = shapes[0]["params"]
  assert params["pos_embedding"].shape == (1, 12, 16)
  names = set(traverse_util.flatten_dict(params, sep="/"))
  image_model = models.ViT(5, 16, 1, 32, 2, token_learner=LEARNED)
  images = jax.eval_shape(
    image_model.init, jax.random.key(0), jnp.ones((1, 32, 32, 3))
  )
  assert names == set(traverse_util.flatten_dict(images["params"], sep="/"))


def test_the_number_of_frames_is_a_dial():
  """A call on more frames than it asks for is one on the sampled ones."""
  model = build(token_learner=LEARNED, num_frames=3)
  params = init(model)
  two, out = apply(model, params, VIDEOS, num_frames=2)
  assert out["token_learner"]["tokens"].shape == (2, 1, 4, 16)
  expected, _ = apply(model, params, vivit.sample_frames(VIDEOS, 2))
  np.testing.assert_allclose(two, expected, atol=1e-6)
  # There are no more than four; a call beats the constructor.
  nine, _ = apply(model, params, VIDEOS, num_frames=9)
  every, _ = apply(model.clone(num_frames=None), params, VIDEOS)
  np.testing.assert_array_equal(nine, every)
  assert not np.allclose(two, every, atol=1e-3)
  assert model.seq_lens((4, 16, 24), num_frames=2) == (4,)
  with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
    model.check((4, 16, 24), num_frames=0)


@pytest.mark.parametrize("fuser", [False, True])
def test_all_tokens_are_a_model_without_token_learner(fuser):
  model = build(token_learner=LEARNED | dict(fuser=fuser), pool="tok")
  params = init(model)
  off, out = apply(model, params, VIDEOS, num_tokens="all")
  assert "token_learner" not in out
  kept = {
    name: value
    for name, value in params["Transformer"].items()
    if not name.startswith("Token")
  }
  plain, _ = apply(build(pool="tok"), params | {"Transformer": kept}, VIDEOS)
  np.testing.assert_allclose(off, plain, atol=1e-5)
  assert model.seq_lens((4, 16, 24), num_tokens="all") == (13,)


def test_longer_tubelets_of_a_slower_video_are_the_same():
  """PI-resize is exact upward in time as it is in space."""
  params = init(build())
  # One alone, since a resize of several mixes them where they meet.
  tubelet = VIDEOS[:, :2, :8, :8]
  slow = jax.image.resize(tubelet, (2, 4, 16, 16, 3), "linear", antialias=False)
  np.testing.assert_allclose(
    stem(params, slow, (4, 16, 16)),
    stem(params, tubelet, None),
    rtol=1e-4,
    atol=1e-4,
  )


def test_bfloat16():
  model = build(dtype="bfloat16", token_learner=LEARNED)
  params = init(model)
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  logits, out = apply(model, params, VIDEOS, patch_size=4, num_tokens=3)
  assert logits.dtype == jnp.float32
  assert out["stem"].dtype == out["encoded"].dtype == jnp.bfloat16
  exact, _ = apply(
    model.clone(dtype="float32"), params, VIDEOS, patch_size=4, num_tokens=3
  )
  np.testing.assert_allclose(logits, exact, atol=0.05)


def test_variants():
  model = models.ViViT.from_variant("B/16x2", num_classes=400)
  assert (model.patch_size, model.posemb_grid) == ((2, 16, 16), (16, 14, 14))
  assert models.ViViT.from_variant("B/16", num_classes=400) == model
  assert models.create("vivit", "B/16x2", num_classes=400) == model
  videos = jax.ShapeDtypeStruct((1, 32, 224, 224, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), videos)["params"]
  count = sum(p.size for p in jax.tree.leaves(params))
  # ViT-B/16 of 400 classes has 86.1 M: one more kernel, 16 times the positions.
  assert abs(count / 1e6 - (86.1 + 0.59 + 15 * 0.15)) < 0.06
  flexible = models.ViViT.from_variant("S", depth=2)
  assert flexible.patch_size == (2, 32, 32)
  assert flexible.posemb_grid == (16, 7, 7)
  for name in ("B/16x", "B/16x0", "B/16x2x2"):
    with pytest.raises(ValueError, match=r'after the x.*"B/16x2"'):
      models.ViViT.from_variant(name)
  with pytest.raises(ValueError, match="mu, Ti, S, M, B, L, H, g, G"):
    models.ViViT.from_variant("XLx2")
  with pytest.raises(ValueError, match="Unknown variant 'B/16x2'"):
    models.ViT.from_variant("B/16x2")
  with pytest.raises(ValueError, match=r"'frames'. Did you mean 'num_frames'"):
    models.ViViT.from_variant("B", frames=3)


@pytest.mark.parametrize(
  "kwargs,message",
  [
    (dict(posemb_grid=(2, 3)), r"posemb_grid is \(frames.*got \(2, 3\)"),
    (dict(posemb_grid=3), r"posemb_grid is \(frames.*got 3"),
    (dict(patch_size=(2, 2, 8, 8)), "positive integers.*2, 2, 8, 8"),
    (dict(patch_size=(0, 8, 8)), "positive integers"),
    (dict(posemb="sincos2d"), "posemb 'sincos2d'. Known: learn"),
    (dict(pool="max"), "pool 'max'. Known: gap, tok, map"),
    (dict(num_frames=0), "num_frames must be at least 1, got 0"),
    (dict(token_learner=LEARNED | dict(layer=1)), "layer=1.*depth is 1"),
  ],
)
def test_constructor_errors(kwargs, message):
  with pytest.raises(ValueError, match=message):
    build(**kwargs)


@pytest.mark.usefixtures("unchecked_shapes")
def test_call_errors():
  tubelets, frames = build(), build(patch_size=(8, 8))
  learner = build(token_learner=LEARNED)
  for model, videos, kwargs, message in (
    (
      tubelets,
      VIDEOS,
      dict(patch_size=(3, 8, 8)),
      "3x8x8 does not divide the video size 4x16x24. Frames that do: 1, 2, 4",
    ),
    (
      tubelets,
      VIDEOS,
      dict(patch_size=5),
      "2x5x5 does not divide .*Heights that do: 1, 2, 4, 8, 16",
    ),
    (frames, VIDEOS, dict(patch_size=5), "5x5 does not divide the image size"),
    (frames, VIDEOS, dict(patch_size=(2, 8, 8)), "height and width alone"),
    (tubelets, VIDEOS, dict(num_tokens=2), "has no token_learner"),
    (learner, VIDEOS, dict(num_tokens=5), "num_tokens=5 .* 1 to 4"),
    (tubelets, VIDEOS[0], {}, r"float videos \[B, T, H, W.*\[4, 16, 24, 3\]"),
    (tubelets, VIDEOS.astype("uint8"), {}, "got uint8"),
  ):
    with pytest.raises(ValueError, match=message):
      model.apply({"params": {}}, videos, **kwargs)
    if videos is VIDEOS:
      with pytest.raises(ValueError, match=message):
        model.check((4, 16, 24), **kwargs)
  with pytest.raises(ValueError, match=r"size of a video is \(frames"):
    tubelets.check((16, 24))


def test_one_trace_per_patch_size():
  model = build(token_learner=LEARNED)
  params = init(model)
  chex.clear_trace_counter()

  @functools.partial(jax.jit, static_argnames="patch_size")
  @chex.assert_max_traces(n=2)
  def step(params, videos, num_tokens, patch_size):
    return model.apply(
      {"params": params}, videos, patch_size=patch_size, num_tokens=num_tokens
    )[0]

  for patch_size in (8, (4, 8, 8), 8, (4, 8, 8)):
    for num_tokens in (1, 3):
      step(params, VIDEOS, jnp.int32(num_tokens), patch_size=patch_size)
