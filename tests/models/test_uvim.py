"""Stage II of UViM: the published model, decoding, both dials."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny, vectors
from tests.vectors import assert_close
from tokenlearner_flexivit import models


def published(case):
  """Returns our model for a file of vectors, and its parameters."""
  cfg = case.meta["cfg"]
  patch = cfg["patches"]["size"]
  model = models.UViM(
    num_classes=None,
    width=cfg["emb_dim"],
    depth=cfg["num_layers"],
    mlp_dim=cfg["mlp_dim"],
    num_heads=cfg["num_heads"],
    patch_size=patch,
    posemb_grid=[n // p for n, p in zip(cfg["input_size"], patch, strict=True)],
    posemb=cfg["posemb_type"],
    num_codes=cfg["vocab_size"] - 1,
    code_len=cfg["seq_len"],
  )
  return model, ours(case.tree("params/"))


def ours(params):
  """Returns published parameters by our names."""
  decoder = {
    key.replace("EncDecBlock", "block_"): value
    for key, value in params["decoder"].items()
  }
  result = {
    "embedding": params["EmbedPatches"],
    "Transformer": params["encoder"],
    "code_decoder": decoder,
  }
  if "pos_embedding_encoder" in params:
    result["pos_embedding"] = params["pos_embedding_encoder"]
    decoder["pos_embedding"] = params["pos_embedding_decoder"]
  return result


@vectors.checks("dense_bv_uvim_lm_learn", "dense_bv_uvim_lm_sincos")
def test_stage_two_is_the_published_one(name):
  case = vectors.Vectors(name)
  model, params = published(case)
  apply = functools.partial(model.apply, method="decode")

  @jax.jit
  def everything(params, image, codes, prompt):
    logits, out = model.apply({"params": params}, image, codes)
    memory = out["memory"]
    greedy = apply({"params": params}, memory)
    after = apply({"params": params}, memory, prompt=prompt)
    return logits, memory, greedy, after

  with jax.default_matmul_precision("highest"):
    logits, memory, greedy, after = everything(
      params, case["in/image"], case["in/code"] - 1, case["in/prompt"] - 1
    )
  assert_close(memory, case["out/encoded"])
  assert_close(logits, case["out/logits"])
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, case["in/code"]
  )
  assert_close(losses.mean(), case["out/loss"])
  np.testing.assert_array_equal(greedy.codes + 1, case["out/greedy"])
  assert_close(greedy.logits, case["out/greedy_logits"])
  assert_close(greedy.log_probabilities, case["out/greedy_logprobs"])
  np.testing.assert_array_equal(
    after.codes + 1, case["out/greedy_after_prompt"]
  )


def tiny_coder():
  """Returns the fields of a coder with a code of 2 x 2."""
  return dict(
    num_labels=3,
    num_instances=4,
    width=16,
    encoder_depth=1,
    decoder_depth=1,
    mlp_dim=16,
    num_heads=2,
    patch_size=4,
    posemb_grid=4,
    code_grid=2,
    levels=(8, 6, 5),
  )


def tiny_model(**options):
  return models.create(
    **dict(
      name="uvim",
      variant="mu",
      depth=2,
      patch_size=4,
      posemb_grid=4,
      num_codes=11,
      code_len=7,
      decoder_depth=2,
    )
    | options
  )


@pytest.fixture(scope="module")
def trained():
  model = tiny_model()
  image = np.random.default_rng(0).normal(size=(5, 16, 16, 3))
  image = image.astype(np.float32)
  params = tiny.init(model, image, scale=0.4)
  # So words depend on one another and on the image.
  decoder = params["code_decoder"]
  decoder["EmbedTargets"]["embedding"] *= 20
  decoder["pos_embedding"] *= 20
  decoder["LogitsDense"]["bias"] *= 0
  return model, params, image


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_decoding_with_a_cache_is_decoding_without(trained, temperature):
  """The same codes as word by word from the logits of all words so far."""
  model, params, _ = trained
  keys = jax.random.split(jax.random.key(3), 5)
  memory = np.random.default_rng(0).normal(size=(5, 6, model.width))
  memory = 3 * memory.astype(np.float32)

  @jax.jit
  def cached(params, memory):
    return model.apply(
      {"params": params},
      memory,
      keys=keys,
      temperature=temperature,
      method="decode",
    )

  @jax.jit
  def logits_of(params, codes, memory):
    return model.apply(
      {"params": params},
      codes,
      memory,
      method=lambda m, *inputs: m.code_decoder(*inputs),
    )

  decoded = cached(params, memory)
  codes = np.zeros((5, 7), np.int32)
  for position in range(7):
    logits = logits_of(params, codes, memory)[:, position]
    chosen = np.argmax(logits[:, 1:], axis=-1)
    if temperature:
      words = logits[:, 1:] / temperature
      chosen = [
        jax.random.categorical(jax.random.fold_in(key, position), own)
        for key, own in zip(keys, words, strict=True)
      ]
    codes[:, position] = chosen
  np.testing.assert_array_equal(decoded.codes, codes)
  assert len({tuple(row) for row in codes}) > 1
  logits = logits_of(params, codes, memory)
  np.testing.assert_allclose(decoded.logits, logits, rtol=1e-4, atol=1e-5)
  chosen = np.take_along_axis(
    np.asarray(jax.nn.log_softmax(logits)), codes[..., None] + 1, axis=2
  )
  np.testing.assert_allclose(
    decoded.log_probabilities, chosen[..., 0], rtol=1e-4
  )


def test_the_decoder_attends_to_learned_tokens_at_any_patch_size():
  """S of them, masked as in training or cut as in use, and no others."""
  model = tiny_model(token_learner=dict(layer=1, num_tokens=4))
  image = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
  image = image.astype(np.float32)
  params = tiny.init(model, image)
  codes = np.array([[0, 10, 3, 3, 7, 1, 2]] * 2)

  @jax.jit
  def run(params, traced):
    def logits(**setting):
      return model.apply({"params": params}, image, codes, **setting)

    return {
      "cut": logits(num_tokens=2),
      "masked": logits(num_tokens=traced),
      "finer": logits(num_tokens=2, patch_size=2),
      "all": logits(num_tokens="all"),
    }

  results = run(params, np.int32(2))
  sizes = {"cut": 2, "masked": 4, "finer": 2, "all": 16}
  for name, (logits, out) in results.items():
    assert logits.shape == (2, 7, 12)
    assert out["memory"].shape[1] == sizes[name]
  np.testing.assert_allclose(
    results["cut"][0], results["masked"][0], rtol=1e-4, atol=1e-5
  )
  assert abs(results["cut"][0] - results["finer"][0]).max() > 1e-4
  assert abs(results["cut"][0] - results["all"][0]).max() > 1e-4


def test_each_word_is_predicted_from_those_before_it(trained):
  model, params, image = trained
  logits = jax.jit(
    lambda codes: model.apply({"params": params}, image[:1], codes)[0]
  )
  codes = np.arange(7)[None]
  other = codes.copy()
  other[0, 3] = 10
  differ = np.abs(logits(codes) - logits(other)).max(axis=(0, 2))
  np.testing.assert_array_equal(differ[:4], 0)
  assert differ[4:].min() > 0


def test_gradients_of_the_loss_are_the_published_ones():
  case = vectors.Vectors("dense_bv_uvim_lm_learn")
  model, params = published(case)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    codes = case["in/code"]
    logits, _ = model.apply({"params": params}, case["in/image"], codes - 1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
    return losses.mean()

  with jax.default_matmul_precision("highest"):
    value, gradients = loss(params)
  assert_close(value, case["out/loss"])
  expected = ours(case.tree("grad/params/"))
  jax.tree.map(
    lambda x, y: assert_close(x, y, 1e-4, floor=1e-3), gradients, expected
  )


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(num_classes=3), "num_classes=3 and rep_size=None have no use"),
    (dict(pool="map"), "pool='map' would have weights of no use"),
    (dict(code_len=None), "code_len must be a whole number"),
    (dict(decoder_depth=0), "decoder_depth must be at least 1"),
    (
      dict(coder=tiny_coder()),
      "num_codes=11 and code_len=7, but the coder has 240 codes and a length "
      "of 4",
    ),
  ],
)
def test_what_no_model_can_be(options, words):
  with pytest.raises(ValueError, match=words):
    tiny_model(**options)


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(temperature=-1.0), "temperature must be 0 or above"),
    (dict(temperature=1.0), "draws codes, so it needs keys"),
  ],
)
def test_how_nothing_can_be_decoded(trained, options, words):
  model, params, _ = trained
  with pytest.raises(ValueError, match=words):
    model.apply(
      {"params": params},
      jnp.zeros((1, 2, model.width)),
      method="decode",
      **options,
    )
