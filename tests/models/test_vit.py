"""The two dials of the ViT, its outputs, and its errors."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import core, traverse_util

from tests import tiny
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import hyperparameters

POOLS = pytest.mark.parametrize("pool", hyperparameters.POOLS)
IMAGES = jnp.asarray(
  np.random.default_rng(0).uniform(-1, 1, size=(2, 24, 24, 3)), "float32"
)


# Most tests say the same of one block as of many, and compile it sooner.
LEARNED = dict(layer=0, num_tokens=4)


def build(**overrides):
  """A model of one block whose logits are not zero."""
  kwargs = dict(
    num_classes=5,
    width=16,
    depth=1,
    mlp_dim=32,
    num_heads=2,
    patch_size=8,
    posemb_grid=3,
    head_zeroinit=False,
  )
  return models.ViT(**(kwargs | overrides))


def init(model):
  """Parameters of noise, so that nothing is hidden behind a zero."""
  return tiny.init(model, IMAGES)


def apply(model, params, **kwargs):
  return tiny.apply(model, params, IMAGES, **kwargs)


def apply_traced(model, params, num_tokens):
  run = jax.jit(lambda p, n: model.apply({"params": p}, IMAGES, num_tokens=n))
  return run(params, jnp.int32(num_tokens))


# The pooling sees the learned tokens only without fuser.
@pytest.mark.parametrize(
  "pool,fuser,version",
  [
    ("gap", False, "1.1"),
    ("tok", False, "1.1"),
    ("map", False, "1.0"),
    ("gap", True, "1.0"),
    ("tok", True, "1.1"),
  ],
)
def test_traced_num_tokens_equals_static(pool, fuser, version):
  model = build(
    pool=pool, token_learner=LEARNED | dict(fuser=fuser, version=version)
  )
  params = init(model)
  static, static_out = apply(model, params, num_tokens=2)
  traced, traced_out = apply_traced(model, params, 2)
  np.testing.assert_allclose(traced, static, atol=2e-5)
  if fuser:
    np.testing.assert_allclose(
      traced_out["encoded"], static_out["encoded"], atol=5e-5
    )


@pytest.mark.parametrize(
  "pool,fuser,scan",
  [
    ("gap", False, False),
    ("tok", True, False),
    ("map", False, True),
    ("tok", True, True),
  ],
)
def test_all_tokens_are_those_of_a_model_without_token_learner(
  pool, fuser, scan
):
  depth = 3 if scan else 1  # A loop is over two blocks or more.
  model = build(
    pool=pool,
    depth=depth,
    scan=scan,
    token_learner=dict(layer=depth // 2, num_tokens=4, fuser=fuser),
  )
  params = init(model)
  logits, out = apply(model, params, num_tokens="all")
  plain = build(pool=pool, depth=depth)
  np.testing.assert_allclose(logits, apply(plain, params)[0], atol=2e-5)
  assert "token_learner" not in out
  assert model.seq_lens(24, 4, "all") == plain.seq_lens(24, 4)


def test_num_tokens_changes_the_logits():
  model = build(token_learner=LEARNED)
  params = init(model)
  logits = [apply(model, params, num_tokens=n)[0] for n in (None, 4, 3)]
  np.testing.assert_array_equal(logits[0], logits[1])
  assert not np.allclose(logits[0], logits[2], atol=1e-3)


def initial(model, *path):
  """The initial values of some parameters, without computing the others."""

  def choose(key):
    params = model.init(key, IMAGES)["params"]
    return functools.reduce(lambda tree, name: tree[name], path, params)

  return jax.jit(choose)(jax.random.key(0))


def test_fused_blocks_are_the_identity_at_init():
  model = build(token_learner=LEARNED | dict(fuser=True))
  params = init(model)
  params["Transformer"]["TokenFuser_0"] = initial(
    model, "Transformer", "TokenFuser_0"
  )
  params["Transformer"]["encoder_norm"] = dict(
    scale=jnp.ones(16), bias=jnp.zeros(16)
  )
  _, out = apply(model, params)
  x = out["with_posemb"]
  x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  np.testing.assert_allclose(out["encoded"], x, atol=1e-3)


@POOLS
def test_outputs(pool):
  model = build(pool=pool, depth=3, token_learner=dict(layer=2, num_tokens=4))
  params = init(model)
  logits, out = jax.eval_shape(
    lambda p: model.apply({"params": p}, IMAGES, patch_size=4), params
  )
  cls = int(pool == "tok")
  assert jax.tree.map(jnp.shape, out["stem"]) == (2, 6, 6, 16)
  assert out["with_posemb"].shape == (2, 36, 16)
  assert sorted(out["encoder"]) == ["block00", "block01", "block02"]
  for block, n in zip(out["encoder"].values(), (36, 36, 4), strict=True):
    for key in ("sa", "+sa", "mlp", "+mlp"):
      assert block[key].shape == (2, n + cls, 16)
  assert out["token_learner"]["maps"].shape == (2, 4, 36)
  assert out["token_learner"]["tokens"].shape == (2, 4, 16)
  assert out["encoded"].shape == (2, 4 + cls, 16)
  assert "tokens_2d" not in out  # Four learned tokens have no places.
  assert out["pre_logits"].shape == (2, 16)
  assert logits.shape == (2, 5)


@pytest.mark.parametrize(
  "pool, learner, num_tokens",
  [
    ("tok", None, None),
    ("map", LEARNED, "all"),
    ("gap", LEARNED | dict(fuser=True), 3),
    ("tok", LEARNED | dict(fuser=True), 3),
  ],
)
def test_patches_that_are_kept_lie_on_their_grid(pool, learner, num_tokens):
  model = build(pool=pool, token_learner=learner)
  logits, out = apply(
    model, init(model), patch_size=(4, 8), num_tokens=num_tokens
  )
  np.testing.assert_array_equal(out["logits"], logits)
  patches = out["encoded"][:, int(pool == "tok") :]
  assert out["tokens_2d"].shape == (2, 6, 3, 16)
  np.testing.assert_array_equal(
    out["tokens_2d"][:, 4, 1], patches[:, 4 * 3 + 1]
  )


def test_without_classes_the_representation_is_returned():
  model = build(num_classes=None, rep_size=7)
  params = init(model)
  assert "head" not in params
  x, out = apply(model, params)
  assert x.shape == (2, 7) and "logits" not in out
  np.testing.assert_array_equal(x, out["pre_logits"])
  model = build(rep_size=True)
  assert init(model)["pre_logits"]["kernel"].shape == (16, 16)
  assert init(model)["head"]["kernel"].shape == (16, 5)


def test_head_starts_at_zero_with_a_bias():
  model = build(head_zeroinit=True, head_bias_init=-3.0)
  params = init(model) | {"head": initial(model, "head")}
  logits, _ = apply(model, params)
  np.testing.assert_array_equal(logits, jnp.full((2, 5), -3.0))


@pytest.mark.parametrize("posemb", ["learn", "sincos2d"])
def test_parameters_depend_on_no_patch_size(posemb):
  model = build(posemb=posemb, token_learner=LEARNED)
  shapes = [
    jax.eval_shape(
      lambda k, x, p=p: model.init(k, x, patch_size=p), jax.random.key(0), x
    )
    for x, p in [
      (IMAGES, None),
      (IMAGES, 4),
      (IMAGES, (12, 6)),
      # The stored 8x8 does not divide this image, which is no obstacle here.
      (jnp.ones((1, 30, 20, 3)), None),
    ]
  ]
  for other in shapes[1:]:
    chex.assert_trees_all_equal_shapes(shapes[0], other)
  assert ("pos_embedding" in shapes[0]["params"]) == (posemb == "learn")


def test_parameter_names():
  model = build(
    pool="map",
    depth=3,
    token_learner=dict(layer=1, num_tokens=4, fuser=True),
  )
  names = set(traverse_util.flatten_dict(init(model), sep="/"))
  block = "Transformer/encoderblock_2"
  for name in (
    "embedding/kernel",
    "pos_embedding",
    f"{block}/LayerNorm_0/scale",
    f"{block}/LayerNorm_1/bias",
    f"{block}/MlpBlock_0/Dense_1/kernel",
    f"{block}/MultiHeadDotProductAttention_0/query/kernel",
    "Transformer/TokenLearner_0/token_masking/Dense_0/kernel",
    "Transformer/TokenLearner_1/LayerNorm_0/scale",
    "Transformer/TokenFuser_1/fuser_mix_norm1/scale",
    "Transformer/encoder_norm/scale",
    "MAPHead_0/probe",
    "MAPHead_0/MultiHeadDotProductAttention_0/out/bias",
    "MAPHead_0/LayerNorm_0/scale",
    "MAPHead_0/MlpBlock_0/Dense_0/bias",
    "head/kernel",
  ):
    assert name in names


# Millions, with a head of 1000 classes at 224 px.
@pytest.mark.parametrize(
  "variant,millions",
  [
    ("Ti/16", 5.7),
    ("S/16", 22.0),
    ("M/16", 38.8),
    ("B/16", 86.6),
    ("B/32", 88.2),
    ("L/16", 304.3),
    ("H/14", 632.0),
    ("g/14", 1012.6),
    ("G/14", 1844.4),
  ],
)
def test_parameter_counts(variant, millions):
  model = models.ViT.from_variant(variant, num_classes=1000)
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  # All blocks have as many; tracing 48 of them takes long.
  shapes = jax.eval_shape(model.clone(depth=1).init, jax.random.key(0), images)[
    "params"
  ]
  block, rest = (
    sum(p.size for p in jax.tree.leaves(tree))
    for tree in (shapes["Transformer"].pop("encoderblock_0"), shapes)
  )
  assert abs((model.depth * block + rest) / 1e6 - millions) < 0.06


def test_variants():
  flexi = models.ViT.from_variant("B")
  assert (flexi.patch_size, flexi.posemb_grid) == ((32, 32), (7, 7))
  plain = models.ViT.from_variant("B/16", posemb_grid=(7, 9), depth=2)
  assert (plain.patch_size, plain.posemb_grid) == ((16, 16), (7, 9))
  assert (plain.width, plain.depth, plain.num_classes) == (768, 2, None)
  assert models.ViT.from_variant("H/14").posemb_grid == (16, 16)
  for name in ("XXL", "B/", "B/a", "B/0", "b"):
    with pytest.raises(ValueError, match="mu, Ti, S, M, B, L, H, g, G"):
      models.ViT.from_variant(name)


def test_create():
  model = models.create(
    variant="mu", depth=3, token_learner=dict(layer=2, num_tokens=8)
  )
  assert isinstance(model, models.ViT) and model.depth == 3
  fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
  fields = {k: v for k, v in fields.items() if k not in ("parent", "name")}
  assert models.create("vit", **fields) == model
  with pytest.raises(
    ValueError, match=r"Unknown model 'resnet'\. Known: .*, vit,"
  ):
    models.create("resnet")
  with pytest.raises(ValueError, match=r"patchsize.*Did you mean 'patch_size'"):
    models.create(variant="mu", patchsize=8)


@pytest.mark.parametrize(
  "wrap", [ml_collections.ConfigDict, core.FrozenDict, dict]
)
def test_token_learner_comes_as_any_mapping(wrap):
  model = build(token_learner=wrap(LEARNED))
  assert model.token_learner["version"] == "1.1"
  assert model == build(token_learner=LEARNED)
  assert hash(model) == hash(model.clone())


@pytest.mark.parametrize(
  "kwargs,message",
  [
    (dict(pool="max"), "pool 'max'. Known: gap, tok, map"),
    (dict(posemb="rope"), "posemb 'rope'. Known: learn, sincos2d"),
    (dict(posemb="sincos2d", width=6), "divisible by 4"),
    (dict(dtype="int8"), "dtype 'int8'. Known: float32, bfloat16"),
    (dict(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
    (dict(stochastic_depth=-0.1), "stochastic_depth must be"),
    (dict(num_heads=3), "width=16 is not divisible by num_heads=3"),
    (dict(patch_size=(8, 8, 8)), "positive integers"),
    (dict(token_learner=dict(layer=2, num_tokens=4)), "layer=2.*depth is 2"),
    (dict(token_learner=dict(layer=-1, num_tokens=4)), "layer=-1.*0 to 1"),
    (dict(depth=0), "depth must be at least 1, got 0"),
    (dict(token_learner=dict(layer=1)), "Missing.*num_tokens"),
    (
      dict(token_learner=dict(layer=1, num_tokens=4, fuse=True)),
      "Unknown.*fuse.*fuser",
    ),
    (
      dict(token_learner=dict(layer=1, num_tokens=4, version="1.2")),
      "version '1.2'. Known: 1.1, 1.0",
    ),
    (
      dict(token_learner=dict(layer=1, num_tokens=4, pooling="max")),
      "pooling 'max'. Known: sum, mean",
    ),
  ],
)
def test_constructor_errors(kwargs, message):
  with pytest.raises(ValueError, match=message):
    build(**(dict(depth=2) | kwargs))


@pytest.mark.usefixtures("unchecked_shapes")
def test_call_errors():
  plain = build()
  learner = build(token_learner=LEARNED)
  for model, images, kwargs, message in (
    (plain, IMAGES, dict(patch_size=7), "7x7 does not divide.* 24x24"),
    (plain, IMAGES, dict(num_tokens=2), "has no token_learner"),
    (learner, IMAGES, dict(num_tokens=0), "num_tokens=0 .* 1 to 4"),
    (learner, IMAGES, dict(num_tokens=5), "num_tokens=5 .* 1 to 4"),
    (plain, IMAGES[0], {}, r"float images \[B, H, W"),
    (plain, IMAGES.astype("uint8"), {}, r"got uint8\[2, 24, 24, 3\]"),
  ):
    with pytest.raises(ValueError, match=message):
      model.apply({"params": {}}, images, **kwargs)
    if images is IMAGES:
      with pytest.raises(ValueError, match=message):
        model.check(24, **kwargs)


def test_seq_lens():
  assert build(depth=2).seq_lens(24) == (9, 9)
  assert build(depth=2, pool="tok").seq_lens((24, 16), (4, 8)) == (13,) * 2
  for fuser in (False, True):
    token_learner = dict(layer=1, num_tokens=4, fuser=fuser)
    model = build(depth=3, token_learner=token_learner)
    assert model.seq_lens(24, 4) == (36, 4, 4)
    assert model.seq_lens(24, 4, num_tokens=2) == (36, 2, 2)
  with pytest.raises(ValueError, match="5x5 does not divide"):
    build().seq_lens(24, 5)


@POOLS
def test_bfloat16(pool):
  kwargs = dict(pool=pool, token_learner=LEARNED)
  model = build(dtype=jnp.bfloat16, **kwargs)
  assert model == build(dtype="bfloat16", **kwargs)
  params = init(model)
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  logits, out = apply(model, params, patch_size=4, num_tokens=3)
  assert logits.dtype == jnp.float32
  for key in ("stem", "with_posemb", "encoded"):
    assert out[key].dtype == jnp.bfloat16
  exact, _ = apply(build(**kwargs), params, patch_size=4, num_tokens=3)
  np.testing.assert_allclose(logits, exact, atol=0.05)


def test_remat_keeps_the_gradients():
  grads = []
  for remat in ("none", "dots", "blocks"):
    # Random numbers have to be the same when they are drawn again.
    model = build(remat=remat, dropout=0.2)
    params = init(model)

    def loss(params, model=model):
      logits, _ = model.apply(
        {"params": params},
        IMAGES,
        train=True,
        rngs={"dropout": jax.random.key(0)},
      )
      return jnp.sum(logits**2)

    grads.append(jax.jit(jax.grad(loss))(params))
  chex.assert_trees_all_close(*grads, rtol=1e-4, atol=1e-5)


def test_remat_of_true_and_false_are_names():
  assert build(remat=True) == build(remat="blocks")
  assert build(remat=False) == build(remat="none") == build()
  with pytest.raises(
    ValueError, match=r"remat 'some'.*none, dots, blocks, auto"
  ):
    build(remat="some")


def test_stochastic_depth_grows_with_depth():
  model = build(depth=3, stochastic_depth=0.999)
  params = init(model)
  _, out = jax.jit(
    lambda p: model.apply(
      {"params": p}, IMAGES, train=True, rngs={"dropout": jax.random.key(0)}
    )
  )(params)
  blocks = list(out["encoder"].values())
  # Never in the first block, nearly always in the last.
  np.testing.assert_allclose(
    blocks[0]["+mlp"], blocks[0]["+sa"] + blocks[0]["mlp"], atol=1e-6
  )
  np.testing.assert_array_equal(blocks[2]["+mlp"], blocks[1]["+mlp"])


def test_one_trace_per_patch_size():
  model = build(token_learner=LEARNED)
  params = init(model)
  chex.clear_trace_counter()

  @functools.partial(jax.jit, static_argnames="patch_size")
  @chex.assert_max_traces(n=2)
  def step(params, images, num_tokens, patch_size):
    return model.apply(
      {"params": params}, images, patch_size=patch_size, num_tokens=num_tokens
    )[0]

  for patch_size in (4, 8, 4, 8):
    for num_tokens in (1, 3):
      step(params, IMAGES, jnp.int32(num_tokens), patch_size=patch_size)


@pytest.mark.parametrize(
  ("section", "message"),
  [
    (dict(depth=2), "ViT needs width, mlp_dim, num_heads"),
    (dict(variant="mu", width="8"), "width must be a whole number, got '8'"),
    (dict(variant="mu", depth=2.0), "depth must be a whole number, got 2.0"),
    (dict(variant="mu", dropout="x"), "dropout must be a number, got 'x'"),
    (dict(variant="mu", scan=1), "scan must be True or False, got 1"),
    (dict(variant="mu", patch_size="a"), "patch_size: Expected one or two"),
    (dict(variant="mu", token_learner=3), "token_learner=3 must be None or"),
    (
      dict(variant="mu", token_learner=dict(layer=0, num_tokens="2")),
      "token_learner.num_tokens must be a whole number, got '2'",
    ),
    (dict(name=["vit"]), "Unknown model"),
    (dict(name="vivit_bottleneck", variant="M", stages=3), "cannot be built"),
  ],
)
def test_wrong_types_in_a_config_name_the_key(section, message):
  with pytest.raises(ValueError, match=message):
    models.create(**section)
