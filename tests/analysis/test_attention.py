"""Rollout and relevance: by hand for a layer, and what they sum to."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.analysis import attention

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 12, 12, 3)).astype(np.float32)
SIX = dials.Setting((6, 6))
LEARNER = dict(layer=1, num_tokens=3)


def make(**kwargs):
  model = models.ViT(
    **{
      **dict(
        num_classes=5,
        width=16,
        depth=2,
        mlp_dim=32,
        num_heads=2,
        patch_size=6,
        posemb_grid=2,
        head_zeroinit=False,
      ),
      **kwargs,
    }
  )
  # Larger than at the start, so that attention is not even.
  return model, tiny.init(model, IMAGES[:1], scale=0.5)


@functools.partial(jax.jit, static_argnums=0)
def watched(model, params, shifts=None):
  return attention._watched(model, params, IMAGES, SIX, shifts)


@functools.partial(jax.jit, static_argnums=0)
def gradients(model, params, classes, shifts):
  """Returns the sum of logits, what else is watched, and the gradients."""

  def logit(shifts):
    logits, out, found = attention._watched(model, params, IMAGES, SIX, shifts)
    return logits[jnp.arange(3), classes].sum(), (out, found)

  return jax.value_and_grad(logit, has_aux=True)(shifts)


POOLS = pytest.mark.parametrize(
  "pool", ["gap", "tok", pytest.param("map", marks=pytest.mark.slow)]
)


@pytest.mark.parametrize(
  "pool",
  ["tok", *(pytest.param(p, marks=pytest.mark.slow) for p in ("gap", "map"))],
)
def test_what_is_watched_is_what_the_model_does(pool):
  model, params = make(
    pool=pool, depth=3, token_learner=LEARNER, scan=True, remat=True
  )
  logits, out, found = watched(model, params)
  expected = tiny.apply(model, params, IMAGES, **SIX)
  chex.assert_trees_all_close((logits, out), expected, rtol=1e-4, atol=1e-4)
  cls = int(pool == "tok")
  shapes = {
    "encoderblock_0": (4 + cls,) * 2,
    "encoderblock_1": (3 + cls,) * 2,
    "encoderblock_2": (3 + cls,) * 2,
  }
  pools = {"map": "MAPHead_0", "gap": "encoder_norm"}
  shapes |= {pools[pool]: (1, 3)} if pool in pools else {}
  assert {name: x.shape[2:] for name, x in found.items()} == shapes
  for x in found.values():
    np.testing.assert_allclose(x.sum(axis=-1), 1, rtol=1e-5)
  for name in set(shapes) - {"encoder_norm"}:  # Its weights are equal.
    assert float(found[name].std()) > 0.01


@POOLS
def test_rollout_of_a_layer_by_hand(pool):
  model, params = make(pool=pool, depth=1)
  _, _, found = watched(model, params)
  mean = np.asarray(found["encoderblock_0"]).mean(axis=1)
  tokens = (np.eye(mean.shape[-1]) + mean) / 2
  if pool == "tok":
    expected = tokens[:, 0, 1:]
  elif pool == "gap":
    expected = tokens.mean(axis=1)
  else:
    head = np.asarray(found["MAPHead_0"]).mean(axis=1)
    expected = (head @ tokens)[:, 0]
  maps = attention.rollout(model, params, IMAGES, SIX)
  np.testing.assert_allclose(maps.reshape(3, 4), expected, rtol=1e-5)


@pytest.mark.parametrize(
  "pool, learner",
  [
    ("gap", LEARNER | dict(version="1.0", pooling="mean")),
    ("tok", LEARNER),
    ("map", None),
  ],
)
def test_rollout_sums_to_one(pool, learner):
  model, params = make(pool=pool, token_learner=learner)
  maps = attention.rollout(model, params, IMAGES, dials.Setting((4, 4)))
  assert maps.shape == (3, 3, 3) and maps.min() >= 0
  total = maps.sum(axis=(1, 2))
  if pool == "tok":  # The rest is the cls token's own.
    assert ((total > 0.3) & (total < 1)).all()
  else:
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_relevance_of_a_layer_by_hand():
  """For cls: the heads' mean of what weight times its gradient is above 0."""
  model, params = make(pool="tok", depth=1)
  classes = np.array([4, 0, 2])

  def compute(shift):
    return gradients(model, params, classes, {"encoderblock_0": shift})

  zeros = jnp.zeros((3, 2, 5, 5))
  (_, (_, found)), gradient = compute(zeros)
  found, gradient = found["encoderblock_0"], gradient["encoderblock_0"]
  # The gradient is that of the weights as they are used.
  one = zeros.at[1, 0, 0, 2].set(1e-2)
  slope = (compute(one)[0][0] - compute(-one)[0][0]) / 2e-2
  assert slope == pytest.approx(float(gradient[1, 0, 0, 2]), rel=2e-2)
  weighted = np.maximum(np.asarray(gradient * found), 0).mean(axis=1)
  maps = attention.relevance(model, params, IMAGES, SIX, classes)
  np.testing.assert_allclose(
    maps.reshape(3, 4), weighted[:, 0, 1:], rtol=1e-4, atol=1e-7
  )


def test_relevance_under_map_pooling_by_hand():
  """The head's attention row, weighted likewise, times one plus the block's."""
  model, params = make(pool="map", depth=1)
  classes = np.array([4, 0, 2])
  zeros = {
    "encoderblock_0": jnp.zeros((3, 2, 4, 4)),
    "MAPHead_0": jnp.zeros((3, 2, 1, 4)),
  }
  (_, (_, found)), found_gradients = gradients(model, params, classes, zeros)
  block, head = (
    np.maximum(np.asarray(found_gradients[name] * found[name]), 0).mean(axis=1)
    for name in zeros
  )
  expected = (head @ (np.eye(4) + block))[:, 0]
  maps = attention.relevance(model, params, IMAGES, SIX, classes)
  np.testing.assert_allclose(maps.reshape(3, 4), expected, rtol=1e-3, atol=1e-6)
  assert maps.max() > 1e-3


@pytest.mark.parametrize("learner", [None, LEARNER], ids=["all", "learned"])
def test_relevance_under_a_mean_by_hand(learner):
  """The mean is a head whose weights are 1/N: a token's share of the logit.

  With a linear head that share is the token's product with the class's column,
  over N; what is below 0 is left out. By patches it goes through what attention
  and TokenLearner mixed.
  """
  model, params = make(pool="gap", token_learner=learner)
  classes = np.array([4, 0, 2])
  shapes = jax.eval_shape(functools.partial(watched, model), params)[2]
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
  (_, (out, found)), found_gradients = gradients(model, params, classes, zeros)
  n = out["encoded"].shape[1]
  column = np.asarray(params["head"]["kernel"])[:, classes]
  share = np.einsum("bnd,db->bn", out["encoded"], column) / n
  total = share.sum(axis=1) + np.asarray(params["head"]["bias"])[classes]
  logits = np.asarray(out["logits"])[np.arange(3), classes]
  np.testing.assert_allclose(total, logits, rtol=1e-3, atol=1e-4)
  tokens = np.eye(4)[None]
  for i in range(2):
    name = f"encoderblock_{i}"
    if learner and i == learner["layer"]:
      tokens = np.asarray(out["token_learner"]["maps"]) @ tokens
    weighted = np.asarray(found_gradients[name] * found[name])
    tokens = tokens + np.maximum(weighted, 0).mean(axis=1) @ tokens
  expected = (np.maximum(share, 0)[:, None] @ tokens)[:, 0]
  maps = attention.relevance(model, params, IMAGES, SIX, classes)
  np.testing.assert_allclose(maps.reshape(3, 4), expected, rtol=1e-3, atol=1e-5)


def test_tokens_that_say_nothing_of_a_class_have_no_relevance():
  """Of a mean without attention between tokens, it is the shares alone."""
  model, params = make(pool="gap", depth=1)
  block = params["Transformer"]["encoderblock_0"]
  out = block["MultiHeadDotProductAttention_0"]["out"]
  out["kernel"] = jnp.zeros_like(out["kernel"])
  classes = np.array([1, 2, 3])
  _, seen, _ = watched(model, params)
  column = np.asarray(params["head"]["kernel"])[:, classes]
  share = np.einsum("bnd,db->bn", seen["encoded"], column) / 4
  maps = attention.relevance(model, params, IMAGES, SIX, classes).reshape(3, 4)
  np.testing.assert_allclose(maps, np.maximum(share, 0), rtol=1e-3, atol=1e-5)
  # What speaks for the class, less what speaks against it, is its logit.
  against = np.minimum(share, 0).sum(axis=1)
  bias = np.asarray(params["head"]["bias"])[classes]
  np.testing.assert_allclose(
    maps.sum(axis=1) + against + bias,
    np.asarray(seen["logits"])[np.arange(3), classes],
    rtol=1e-3,
    atol=1e-4,
  )


def test_relevance_is_of_a_class():
  model, params = make(pool="gap", token_learner=LEARNER)
  logits, _ = tiny.apply(model, params, IMAGES)
  likely = np.asarray(logits.argmax(axis=-1))
  found = attention.relevance(model, params, IMAGES, SIX)
  chosen = attention.relevance(model, params, IMAGES, SIX, likely)
  np.testing.assert_allclose(found, chosen)
  other = attention.relevance(model, params, IMAGES, SIX, (likely + 1) % 5)
  assert np.abs(found - other).max() > 1e-3 * found.max()


def test_all_tokens_pass_token_learner_by():
  model, params = make(depth=1, token_learner=LEARNER | dict(layer=0))
  plain = model.clone(token_learner=None)
  setting = SIX.replace(num_tokens="all")
  np.testing.assert_allclose(
    attention.rollout(model, params, IMAGES, setting),
    attention.rollout(plain, params, IMAGES, SIX),
    rtol=1e-5,
  )


def test_bad_input_is_told():
  model, params = make(token_learner=LEARNER | dict(fuser=True))
  with pytest.raises(ValueError, match=r"TokenFuser.*num_tokens='all'"):
    attention.rollout(model, params, IMAGES, SIX)
  plain, params = make()
  with pytest.raises(ValueError, match="no head"):
    attention.relevance(plain.clone(num_classes=None), params, IMAGES, SIX)
  text = dict(width=8, depth=1, mlp_dim=8, num_heads=1, vocab_size=4, max_len=2)
  names = ("width", "depth", "mlp_dim", "num_heads", "patch_size")
  fields = {name: getattr(plain, name) for name in names}
  towers = models.TwoTowers(**fields, text=text, num_classes=8)
  with pytest.raises(ValueError, match=r"TwoTowers.*embeddings.*'rollout'"):
    attention.relevance(towers, params, IMAGES, SIX)
  for classes in ([5, 0, 0], [0], [-1, 0, 0], [0.5, 1, 1]):
    with pytest.raises(ValueError, match="0 to 4 for each of 3"):
      attention.relevance(plain, params, IMAGES, SIX, classes)
  with pytest.raises(ValueError, match=r"method='gradcam'.*'rollout'"):
    attention.figure(plain, params, IMAGES, [SIX], "gradcam")


def test_the_command_draws_a_run(untrained_run, tmp_path, capsys):
  picture = tmp_path / "attention.png"

  def command(*arguments):
    attention.main(
      [f"--workdir={untrained_run}", f"--output={picture}", *arguments]
    )

  command("--num_images=2", "--patch_sizes=6")
  assert picture.stat().st_size > 10_000
  assert "Maps of 2 images" in capsys.readouterr().out
  for arguments, words in (
    (["--method=gradcam"], "method='gradcam'.*'rollout', 'relevance'"),
    (["--patch_sizes=5"], "5"),
    (["--split=test", "--images", "x.png"], "--images or --split"),
  ):
    with pytest.raises(SystemExit, match=words):
      command("--num_images=1", *arguments)
