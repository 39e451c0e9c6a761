"""Stage I of UViM: the published model, and what its fields do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from tests import tiny, vectors
from tests.vectors import assert_close
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import (
  label_coder,
  label_patches,
  vector_quantizer,
)


def published(case):
  """Returns our model for a file of vectors, and its parameters."""
  cfg = case.meta["cfg"]
  grid = [
    n // p for n, p in zip(cfg["input_size"], cfg["patch_size"], strict=True)
  ]
  is_resized = cfg["bottleneck_resize"]
  side = round(cfg["code_len"] ** 0.5)
  model = models.LabelCoder(
    num_labels=cfg["inputs"]["semantics"][0],
    num_instances=cfg["inputs"]["instances"][0],
    width=cfg["width"],
    encoder_depth=cfg["enc_depth"],
    decoder_depth=cfg["dec_depth"],
    mlp_dim=cfg["mlp_dim"],
    num_heads=cfg["num_heads"],
    patch_size=cfg["patch_size"],
    posemb_grid=grid,
    code_grid=(side, side) if is_resized else None,
    code_len=None if is_resized else cfg["code_len"],
    quantizer="vq",
    num_words=cfg["dict_size"],
    word_dim=cfg["codeword_dim"],
    encoder_context=cfg["with_encoder_ctx"],
    decoder_context=cfg["with_decoder_ctx"],
    head_zeroinit=cfg["head_zeroinit"],
  )
  return model, ours(case.tree("params/"), case)


def ours(params, case=None):
  """Returns published parameters by our names."""
  params = {
    key: dict(value) if isinstance(value, dict) else value
    for key, value in params.items()
  }
  for coder in {"encoder", "decoder"} & params.keys():
    params[coder] = {
      key.replace("encoderblock", "block"): value
      for key, value in params[coder].items()
    }
  if case is not None:
    params["codebook"] = case.tree("in/state/")
  return params


def maps(case):
  labels = case["in/labels"]
  return {"semantics": labels[..., 0], "instances": labels[..., 1]}


@vectors.checks("dense_bv_uvim_vq_resize", "dense_bv_uvim_vq_matrix")
def test_stage_one_is_the_published_one(name):
  case = vectors.Vectors(name)
  model, params = published(case)
  book = vector_quantizer.Codebook(**params["codebook"])

  @jax.jit
  def everything(params, image, labels):
    logits, out = model.apply({"params": params}, image, labels)
    again, _ = model.apply(
      {"params": params}, image, out["code"], method="decode_codes"
    )
    batch = vector_quantizer.statistics(
      out["bottleneck"], out["code"], model.num_words
    )
    after = vector_quantizer.updated(
      book, batch, jax.random.key(0), min_count=0.0
    )
    return logits, again, out, after, book.words()

  with jax.default_matmul_precision("highest"):
    logits, again, out, after, words = everything(
      params, case["in/image"], maps(case)
    )
  np.testing.assert_array_equal(out["code"], case["out/code"])
  assert_close(out["bottleneck"], case["out/bottleneck"])
  assert_close(words, case["out/codewords"])
  assert_close(words[out["code"]], case["out/bottleneck_q"])
  for key in label_coder.MAPS:
    assert_close(logits[key], case[f"out/logits/{key}"])
    assert_close(again[key], case[f"out/logits/{key}"])
  assert_close(after.counts, case["out/state_after_step/counts"])
  assert_close(after.dictionary, case["out/state_after_step/dictionary"])


def cross_entropy(model, logits, labels):
  """Returns the mean over the pixels, summed over both maps."""
  (p, q), (h, w) = model.patch_size, model.posemb_grid
  total = 0.0
  for key in label_coder.MAPS:
    kinds = logits[key].shape[2]
    pixels = logits[key].reshape(-1, h, w, kinds, p, q)
    pixels = pixels.transpose(0, 1, 4, 2, 5, 3)
    pixels = pixels.reshape(-1, h * p, w * q, kinds)
    total += optax.softmax_cross_entropy_with_integer_labels(
      pixels, labels[key]
    ).mean()
  return total


def test_gradients_pass_the_codebook():
  case = vectors.Vectors("dense_bv_uvim_vq_resize")
  model, params = published(case)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(params):
    logits, out = model.apply({"params": params}, case["in/image"], maps(case))
    words = vector_quantizer.Codebook(**params["codebook"]).words()
    fixed = jax.lax.stop_gradient(words[out["code"]])
    commitment = ((out["bottleneck"] - fixed) ** 2).mean()
    plain = cross_entropy(model, logits, maps(case))
    return plain + 0.25 * commitment, (plain, commitment)

  with jax.default_matmul_precision("highest"):
    (total, (plain, commitment)), gradients = loss(params)
  assert_close(plain, case["out/loss"])
  assert_close(commitment, case["out/loss_commitment"])
  assert_close(total, case["out/loss_with_commitment"])
  assert not vectors.largest(gradients.pop("codebook"))
  expected = traverse_util.flatten_dict(ours(case.tree("grad/params/")))
  actual = traverse_util.flatten_dict(gradients)
  for name, value in expected.items():
    assert_close(actual[name], value, 1e-4, floor=1e-3)


def test_dead_words_become_halves_of_the_most_frequent():
  rng = np.random.default_rng(0)
  book = vector_quantizer.Codebook(
    jnp.asarray(rng.normal(size=(6, 3)), jnp.float32),
    jnp.array([8.0, 0.05, 2.0, 1.0, 0.01, 3.0]),
  )
  nothing = jax.tree.map(jnp.zeros_like, book)
  after = jax.jit(
    functools.partial(vector_quantizer.updated, momentum=1.0, min_count=0.1)
  )(book, nothing, jax.random.key(0))
  # 8 becomes 4 and 4, then one of these 2 and 2; nothing is lost.
  np.testing.assert_allclose(after.counts, [2, 2, 2, 1, 4, 3])
  before = book.dictionary[0]
  np.testing.assert_allclose(after.dictionary[4], before / 2, rtol=2e-3)
  for word in after.dictionary[:2]:
    np.testing.assert_allclose(word, before / 4, rtol=3e-3)
  np.testing.assert_array_equal(after.dictionary[2], book.dictionary[2])
  assert (after.words()[0] != after.words()[1]).any()


def tiny_model(**options):
  return models.create(
    **dict(
      name="label_coder",
      num_labels=3,
      num_instances=4,
      width=16,
      encoder_depth=1,
      decoder_depth=1,
      mlp_dim=16,
      num_heads=2,
      patch_size=(2, 4),
      posemb_grid=(4, 3),
      code_grid=(2, 3),
      levels=(4, 3, 3),
      head_zeroinit=False,
    )
    | options
  )


def example(model, batch=3):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(batch, *model.image_size, 3)).astype(np.float32)
  labels = {
    "semantics": rng.integers(0, 3, (batch, *model.image_size)),
    "instances": rng.integers(0, 4, (batch, *model.image_size)),
  }
  return image, labels


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_a_code_says_all_that_the_decoder_needs(quantizer):
  model = tiny_model(quantizer=quantizer, num_words=7, word_dim=5)
  image, labels = example(model)
  params = tiny.init(model, image)
  if quantizer == "vq":
    params["codebook"]["counts"] = jnp.ones(7)

  @jax.jit
  def run(params):
    logits, out = model.apply({"params": params}, image, labels)
    again, _ = model.apply(
      {"params": params}, image, out["code"], method="decode_codes"
    )
    return logits, again, out["code"]

  logits, again, code = run(params)
  assert code.shape == (3, 6) and code.max() < model.num_codes
  assert len(np.unique(np.asarray(code))) > 1
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    logits,
    again,
  )
  assert logits["instances"].shape == (3, 12, 4, 8)


def test_code_dropout_leaves_out_a_random_share():
  """Of each example another one; "ordered" leaves out the end."""
  kept = {}
  for kind in ("ordered", "random"):
    model = tiny_model(code_dropout=kind, code_grid=None, code_len=9)
    kept[kind] = np.asarray(
      model.apply(
        {},
        64,
        method=lambda m, n: m._kept(n),
        rngs={"dropout": jax.random.key(1)},
      )
    )
    assert set(np.unique(kept[kind])) == {0, 1}
    shares = kept[kind].mean(axis=1)
    assert len(np.unique(shares)) > 6 and 0.35 < shares.mean() < 0.65
  assert (np.diff(kept["ordered"], axis=1) <= 0).all()
  assert (np.diff(kept["random"], axis=1) > 0).any()


def test_maps_and_patches_are_one():
  maps = np.arange(2 * 8 * 12).reshape(2, 8, 12)
  patches = label_patches.patches(maps, (2, 4))
  np.testing.assert_array_equal(patches[0, 1], [4, 5, 6, 7, 16, 17, 18, 19])
  np.testing.assert_array_equal(
    label_patches.to_maps(patches, (4, 3), (2, 4)), maps
  )


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(code_len=4), r"code_grid=\(2, 3\) and code_len=4: set one"),
    (dict(code_grid=None), "code_grid=None and code_len=None: set one"),
    (dict(quantizer="gumbel"), "Unknown quantizer 'gumbel'. Known: fsq, vq"),
    (dict(levels=(8, 1)), "levels must be at least 2"),
    (dict(num_labels=1), "num_labels must be at least 2"),
    (dict(width=15), "width=15 is not divisible by num_heads=2"),
    (dict(code_dropout="all"), "Unknown code_dropout 'all'"),
  ],
)
def test_what_no_coder_can_be(options, words):
  with pytest.raises(ValueError, match=words):
    tiny_model(**options)


def test_a_coder_has_one_size_and_needs_labels():
  model = tiny_model()
  with pytest.raises(ValueError, match="sees images of 8x12, not 16x12"):
    model.check((16, 12))
  with pytest.raises(ValueError, match="has no dial patch_size, got 4"):
    model.check((8, 12), patch_size=4)
  image, _ = example(model)
  params = tiny.init(model, image)
  with pytest.raises(ValueError, match="encodes labels, and there are none"):
    model.apply({"params": params}, image)
