"""TokenLearner and TokenFuser: what the maps are, and nested tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import average_pooling
from tokenlearner_flexivit.models import token_learner as tl

LEARNED = ("1.1", "1.0")
VERSIONS = pytest.mark.parametrize("version", LEARNED)
GRID = (4, 5)


def normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def init(module, *args):
  """Makes parameters of noise, so that nothing is hidden behind a zero."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
  return jax.tree.map(lambda p: 0.5 * normal(p.size, *p.shape), shapes)


def setup(version="1.1", pooling="sum", num_tokens=6):
  module = models.TokenLearner(num_tokens, version=version, pooling=pooling)
  x = normal(0, 2, 20, 8)
  params = init(module, x.reshape(2, *GRID, 8))
  return functools.partial(module.apply, {"params": params}), x


def compiled(apply):
  """Takes less time than a run of one operation after the other."""
  return jax.jit(apply, static_argnames=("grid", "num_tokens"))


def test_v11_maps_sum_to_one():
  apply, x = setup("1.1")
  tokens, maps = compiled(apply)(x)
  assert (tokens.shape, maps.shape) == ((2, 6, 8), (2, 6, 20))
  np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-6)
  # A convex average of the un-normalised input.
  np.testing.assert_allclose(
    tokens, np.einsum("bsn,bnd->bsd", maps, x), atol=1e-5
  )


def test_v11_ignores_the_order_of_positions():
  apply, x = setup("1.1")
  apply = compiled(apply)
  order = np.random.default_rng(1).permutation(20)
  tokens, maps = apply(x)
  permuted_tokens, permuted_maps = apply(x[:, order])
  np.testing.assert_allclose(permuted_tokens, tokens, atol=1e-5)
  np.testing.assert_allclose(permuted_maps, maps[:, :, order], atol=1e-6)


def test_v10_sum_is_n_times_mean():
  (apply_sum, x), (apply_mean, _) = setup("1.0", "sum"), setup("1.0", "mean")
  actual = compiled(apply_sum)(x, grid=GRID)[0]
  mean = compiled(apply_mean)(x, grid=GRID)[0]
  np.testing.assert_allclose(actual, 20 * mean, rtol=1e-5)


def test_averages_are_those_of_equal_rectangles():
  module = models.TokenLearner(6, version="average")
  x = normal(0, 2, 4, 9, 8)
  assert "params" not in module.init(jax.random.key(0), x)
  tokens, maps = module.apply({}, x)  # Two rows of three.
  blocks = x.reshape(2, 2, 2, 3, 3, 8)
  np.testing.assert_allclose(
    tokens, blocks.mean((2, 4)).reshape(2, 6, 8), atol=1e-6
  )
  np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize(
  "number, grid", [(8, (7, 5)), (16, (10, 10)), (7, (2, 7)), (1, (3, 3))]
)
def test_averages_share_the_whole_grid_alike(number, grid):
  maps = average_pooling.average_maps(number, grid)
  assert maps.shape == (number, grid[0] * grid[1])
  np.testing.assert_allclose(maps.sum(1), 1)
  np.testing.assert_allclose(maps.sum(0), number / maps.shape[1])
  turned = average_pooling.average_maps(number, grid[::-1])
  turned = turned.reshape(number, *grid[::-1]).transpose(0, 2, 1)
  rows = {tuple(row) for row in np.round(turned.reshape(number, -1), 9)}
  if grid[0] != grid[1]:
    assert rows == {tuple(row) for row in np.round(maps, 9)}


def test_averages_need_no_grid_for_a_model_to_be_initialised():
  """The stored patch size, 32, does not divide 48 pixels."""
  model = models.ViT.from_variant(
    "mu",
    num_classes=3,
    token_learner=dict(layer=0, num_tokens=4, version="average"),
  )
  images = jnp.ones((1, 48, 48, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), images)
  apply = functools.partial(model.apply, patch_size=12)
  logits, out = jax.eval_shape(apply, params, images)
  assert logits.shape == (1, 3)
  assert out["token_learner"]["maps"].shape == (1, 4, 16)


def test_average_errors():
  x = normal(0, 2, 4, 9, 8)
  module = models.TokenLearner(6, version="average")
  for number in (3, jnp.int32(6)):
    with pytest.raises(ValueError, match="all 6 averages"):
      module.apply({}, x, num_tokens=number)
  with pytest.raises(ValueError, match=r"average works on the grid.* = 36"):
    module.apply({}, x.reshape(2, 36, 8))
  module = models.TokenLearner(25, version="average")
  with pytest.raises(ValueError, match=r"5 rows and 5 columns.*is 4x9"):
    module.apply({}, x)


def test_v11_pooling_makes_no_difference():
  (apply_sum, x), (apply_mean, _) = setup("1.1", "sum"), setup("1.1", "mean")
  np.testing.assert_array_equal(
    compiled(apply_sum)(x)[0], compiled(apply_mean)(x)[0]
  )


@VERSIONS
def test_pools_the_input_before_normalisation(version):
  # A shift of all features by position leaves the maps alone, LayerNorm
  # removing it, and moves the tokens.
  apply, x = setup(version)
  apply = compiled(apply)
  shift = normal(3, 2, 20, 1)
  tokens, maps = apply(x, grid=GRID)
  shifted_tokens, shifted_maps = apply(x + shift, grid=GRID)
  np.testing.assert_allclose(shifted_maps, maps, atol=1e-5)
  np.testing.assert_allclose(
    shifted_tokens - tokens,
    np.broadcast_to(maps @ shift, tokens.shape),
    atol=1e-4,
  )


@VERSIONS
def test_accepts_a_grid(version):
  apply, x = setup(version)
  apply = compiled(apply)
  flat, square = apply(x, grid=GRID), apply(x.reshape(2, *GRID, 8))
  np.testing.assert_array_equal(flat[0], square[0])
  np.testing.assert_array_equal(flat[1], square[1])


@VERSIONS
def test_slice_equals_mask(version):
  apply, x = setup(version)
  sliced = compiled(apply)
  mask = jax.jit(lambda n: apply(x, GRID, num_tokens=n))
  every, _ = sliced(x, grid=GRID)
  for number in (1, 4, 6):
    tokens, maps = sliced(x, grid=GRID, num_tokens=number)
    assert (tokens.shape, maps.shape) == ((2, number, 8), (2, number, 20))
    np.testing.assert_allclose(tokens, every[:, :number], atol=2e-5)
    masked, masked_maps = mask(number)
    np.testing.assert_allclose(masked[:, :number], tokens, atol=2e-5)
    np.testing.assert_allclose(masked_maps[:, :number], maps, atol=1e-5)
    assert not masked[:, number:].any()


def test_slice_computes_only_its_maps():
  # The second Dense layer has as many outputs as tokens are asked for.
  apply, x = setup("1.1")
  program = jax.make_jaxpr(lambda x: apply(x, num_tokens=2))(x)
  shapes = [v.aval.shape for e in program.eqns for v in e.outvars]
  assert (2, 20, 2) in shapes
  assert (2, 20, 6) not in shapes


@VERSIONS
def test_nothing_larger_than_the_maps_is_materialised(version):
  apply, x = setup(version, num_tokens=32)
  program = jax.make_jaxpr(lambda x: apply(x, GRID))(x)
  sizes = [v.aval.size for e in program.eqns for v in e.outvars]
  assert max(sizes) < 2 * 32 * 20 * 8


def test_dropout_needs_train():
  module = models.TokenLearner(3, dropout_rate=0.5)
  x = normal(0, 1, 9, 8)
  variables = {"params": init(module, x)}
  key = {"dropout": jax.random.key(1)}
  run = jax.jit(module.apply, static_argnames="train")
  dropped = run(variables, x, train=True, rngs=key)[0]
  assert not np.allclose(dropped, run(variables, x)[0])


@pytest.mark.usefixtures("unchecked_shapes")
def test_errors():
  apply, x = setup("1.0")
  for grid in (None, (3, 5)):
    with pytest.raises(ValueError, match=r"grid=\(h, w\) with h \* w = 20"):
      apply(x, grid)
  for number in (0, -1, 7):
    with pytest.raises(ValueError, match=f"num_tokens={number}.* 1 to 6"):
      apply(x, GRID, num_tokens=number)
  for number in (jnp.ones((2,), "int32"), jnp.float32(1), "al"):
    with pytest.raises(ValueError, match="integer scalar"):
      apply(x, GRID, num_tokens=number)
  with pytest.raises(
    ValueError, match=r"version '2'. Known: 1.1, 1.0, average"
  ):
    setup("2")
  with pytest.raises(ValueError, match=r"pooling 'max'. Known: sum, mean"):
    setup("1.1", "max")


def fuser_setup(learned=None):
  module = models.TokenFuser(learned)
  tokens, original = normal(1, 2, 6, 8), normal(2, 2, 20, 8)
  return module, init(module, tokens, original), tokens, original


def test_fuser_is_zero_at_init():
  module, _, tokens, original = fuser_setup()

  @jax.jit
  def fused(key):
    variables = module.init(key, tokens, original)
    return module.apply(variables, tokens, original)

  assert not fused(jax.random.key(0)).any()


def test_fuser_keeps_the_shape():
  module, params, tokens, original = fuser_setup()
  apply = jax.jit(module.apply)
  flat = apply({"params": params}, tokens, original)
  assert flat.shape == original.shape
  square = original.reshape(2, *GRID, 8)
  fused = apply({"params": params}, tokens, square)
  assert fused.shape == square.shape
  np.testing.assert_array_equal(fused.reshape(flat.shape), flat)


def test_fuser_slice_equals_mask():
  module, params, tokens, original = fuser_setup(6)
  apply = functools.partial(module.apply, {"params": params})
  mask = jax.jit(lambda n: apply(tokens, original, num_tokens=n))
  sliced = jax.jit(apply, static_argnames="num_tokens")
  smaller = jax.jit(models.TokenFuser().apply)
  for number in (1, 4, 6):
    few = tokens[:, :number]
    fused = sliced(few, original, num_tokens=number)
    np.testing.assert_allclose(mask(number), fused, atol=1e-5)
    # Fewer tokens are those of a smaller fuser.
    small = jax.tree.map(lambda p: p, params)  # Copies the dicts.
    small["Dense_0"] = dict(
      kernel=params["Dense_0"]["kernel"][:number, :number],
      bias=params["Dense_0"]["bias"][:number],
    )
    small["token_masking"]["Dense_1"] = jax.tree.map(
      lambda p, n=number: p[..., :n], params["token_masking"]["Dense_1"]
    )
    expected = smaller({"params": small}, few, original)
    np.testing.assert_allclose(fused, expected, atol=1e-6)


def test_fuser_errors():
  module, params, tokens, original = fuser_setup(6)
  variables = {"params": params}
  with pytest.raises(ValueError, match="num_tokens=7"):
    module.apply(variables, jnp.ones((2, 7, 8)), original)
  with pytest.raises(ValueError, match="num_tokens=3, but tokens given: 6"):
    module.apply(variables, tokens, original, num_tokens=3)


def test_config():
  config = tl.TokenLearnerConfig.from_dict(dict(layer=2, num_tokens=8))
  assert (config.version, config.pooling, config.fuser) == ("1.1", "sum", False)
  with pytest.raises(ValueError, match=r"Unknown.*tokens.*layer, num_tokens"):
    tl.TokenLearnerConfig.from_dict(dict(layer=2, num_tokens=8, tokens=1))
  with pytest.raises(ValueError, match=r"Missing.*num_tokens"):
    tl.TokenLearnerConfig.from_dict(dict(layer=2))
  with pytest.raises(ValueError, match="num_tokens must be at least 1"):
    tl.TokenLearnerConfig.from_dict(dict(layer=2, num_tokens=0))


@pytest.mark.parametrize("version", ["1.1", "1.0", "average"])
def test_half_precision_sums_in_float32(version):
  # At 900 positions equal weights rounded to bfloat16 would all be off alike.
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 900, 8)) + 1)
  x = x.astype(jnp.bfloat16)
  tokens, maps = {}, {}
  for dtype in (jnp.bfloat16, jnp.float32):
    module = models.TokenLearner(
      6, version=version, pooling="mean", dtype=dtype
    )
    params = {}
    if version != "average":
      shapes = jax.eval_shape(
        lambda x, m=module: m.init(jax.random.key(0), x, (30, 30)), x
      )
      params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    apply = jax.jit(lambda p, x, m=module: m.apply(p, x, (30, 30)))
    tokens[dtype], maps[dtype] = apply(params, x)
  assert maps[jnp.bfloat16].dtype == jnp.float32
  np.testing.assert_allclose(
    maps[jnp.bfloat16].sum(-1), 0.5 if version == "1.0" else 1, rtol=1e-5
  )
  assert tokens[jnp.bfloat16].dtype == jnp.bfloat16
  # Nothing but the result is rounded.
  np.testing.assert_array_equal(
    tokens[jnp.bfloat16], tokens[jnp.float32].astype(jnp.bfloat16)
  )
