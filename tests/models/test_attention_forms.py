"""The forms of attention, against float64 and each other."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import attention, attention_kernel

# Batch, queries, keys, heads, width of a head: several blocks of queries with a
# rest, several images per block, other numbers of keys, heads that do not fill
# the lanes.
SIZES = (
  (2, 300, 300, 2, 64),
  (6, 25, 25, 6, 64),
  (3, 65, 20, 3, 16),
  (1, 33, 33, 8, 80),
)


def arrays(b, m, n, h, d, dtype="float32"):
  rng = np.random.default_rng(0)
  shapes = (b, m, h, d), (b, n, h, d), (b, n, h, d), (b, m, h, d)
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def reference(query, key, value, mask=None):
  """Returns attention in float64."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  logits = np.einsum("bmhd,bnhd->bhmn", query, key) / query.shape[-1] ** 0.5
  if mask is not None:
    logits = np.where(mask, logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("bhmn,bnhd->bmhd", weights, value)


def value_and_gradients(form, query, key, value, gradient, mask):
  def apply(query, key, value):
    return form(query, key, value, mask)

  y, vjp = jax.vjp(apply, query, key, value)
  return y, *vjp(gradient)


def interpreted_kernel(query, key, value, mask):
  return attention_kernel.attention(query, key, value, mask, True)


FORMS = {
  "head_major": attention._head_major,
  "contracted": attention._contracted,
  "kernel": interpreted_kernel,
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forms_are_attention(form, size, masked):
  *inputs, gradient = arrays(*size)
  mask = jnp.arange(size[2]) % 3 != 1 if masked else None
  y, *gradients = jax.jit(functools.partial(value_and_gradients, FORMS[form]))(
    *inputs, gradient, mask
  )
  np.testing.assert_allclose(y, reference(*inputs, mask), atol=2e-6)
  # Derivatives along a random direction, by central differences in float64.
  rng = np.random.default_rng(1)
  for i, own in enumerate(gradients):
    direction = rng.normal(size=own.shape)

    def loss(step, i=i, direction=direction):
      moved = [np.asarray(x, np.float64) for x in inputs]
      moved[i] += step * direction
      return np.sum(reference(*moved, mask) * np.asarray(gradient))

    expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(
      np.sum(np.asarray(own, np.float64) * direction),
      expected,
      atol=1e-5 * own.size**0.5,
    )


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_has_its_own_error_alone(form):
  *inputs, _ = arrays(2, 40, 40, 2, 64, dtype="bfloat16")
  y = FORMS[form](*inputs, None)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(y, np.float64), reference(*inputs), atol=2e-2
  )


def test_keys_that_are_masked_do_not_count_whatever_they_hold():
  *inputs, _ = arrays(1, 20, 20, 2, 8)
  mask = jnp.arange(20) < 7
  for name, form in FORMS.items():
    y = form(*inputs, mask)
    few = form(inputs[0], inputs[1][:, :7], inputs[2][:, :7], None)
    chex.assert_trees_all_close(y, few, atol=1e-6, custom_message=name)


@pytest.fixture
def lower(monkeypatch):
  """Returns the text of a training step's program for another platform."""
  # The wheels bring the compilers, which are not needed to see the program.
  monkeypatch.setattr(attention, "_has_libtpu", lambda: True)
  attention.dot_product_attention.clear_cache()

  def lower(platform, image_size, patch_size, **overrides):
    model = models.ViT.from_variant(
      "mu", num_classes=3, dtype="bfloat16", **overrides
    )
    images = jnp.zeros((2, image_size, image_size, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params, images):
      return model.apply(params, images, patch_size=patch_size)[0].sum()

    traced = jax.jit(jax.grad(loss)).trace(params, images)
    return traced.lower(lowering_platforms=(platform,)).as_text()

  yield lower
  attention.dot_product_attention.clear_cache()


@pytest.mark.parametrize("pool", ["gap", "tok", "map"])
@pytest.mark.parametrize("scan", [False, True])
def test_a_tpu_runs_the_kernel(lower, pool, scan):
  text = lower("tpu", 48, 8, pool=pool, scan=scan)
  assert "tpu_custom_call" in text
  assert "convolution" in text
  assert "tpu_custom_call" not in lower("cpu", 48, 8, pool=pool)


def test_few_tokens_need_no_kernel(lower):
  assert "tpu_custom_call" not in lower("tpu", 24, 8)


def test_an_export_leaves_the_batch_open(lower):
  del lower
  shape = jax.export.symbolic_shape("batch, 36, 2, 16")
  x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
  exported = jax.export.export(
    jax.jit(attention.dot_product_attention), platforms=("cpu", "tpu", "cuda")
  )(x, x, x)
  assert "tpu_custom_call" not in exported.mlir_module()
  *inputs, _ = arrays(3, 36, 36, 2, 16, dtype="bfloat16")
  y = np.asarray(exported.call(*inputs), np.float64)
  np.testing.assert_allclose(y, reference(*inputs), atol=2e-2)


def test_accelerators_write_no_weights_in_float32(lower):
  for platform, patch_size in (("tpu", 8), ("rocm", 4)):
    tokens = (24 // patch_size) ** 2
    text = lower(platform, 24, patch_size)
    products = [
      line
      for line in text.splitlines()
      if "dot_general" in line and f"x{tokens}x{tokens}x" in line
    ]
    assert products
    assert not any("xf32>" in line.split("->")[-1] for line in products)


@pytest.fixture
def kernel_on_cpu(monkeypatch):
  """Runs the TPU's kernel, interpreted, in place of the CPU's form."""

  def switch(on):
    form = interpreted_kernel if on else head_major
    monkeypatch.setattr(attention, "_head_major", form)
    attention.dot_product_attention.clear_cache()

  head_major = attention._head_major
  yield switch
  monkeypatch.undo()
  attention.dot_product_attention.clear_cache()


LEARNER = dict(layer=1, num_tokens=20)
FUSER = LEARNER | dict(fuser=True)
MODELS = {
  "cls": (models.ViT, (48, 48), 8, dict(pool="tok", token_learner=LEARNER)),
  "fuser": (models.ViT, (48, 48), 8, dict(token_learner=FUSER)),
  "video": (models.ViViT, (4, 32, 32), 8, dict(token_learner=LEARNER)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_answer_by_the_kernel_as_by_the_form_of_the_cpu(
  kernel_on_cpu, name
):
  cls, size, patch_size, arguments = MODELS[name]
  model = cls.from_variant("mu", num_classes=3, depth=2, **arguments)
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
  params = jax.jit(model.init)(jax.random.key(0), inputs)["params"]
  params = jax.tree.map(
    lambda p: jnp.asarray(0.1 * rng.normal(size=p.shape), p.dtype), params
  )

  def loss(params, num_tokens):
    logits, _ = model.apply(
      {"params": params}, inputs, patch_size=patch_size, num_tokens=num_tokens
    )
    return jnp.sum(logits**2)

  results = []
  for on in (False, True):
    kernel_on_cpu(on)
    # A number of tokens that is traced becomes a mask, here of 17 of 20.
    compute = jax.jit(jax.value_and_grad(lambda p, n: loss(p, n)))
    text = compute.lower(params, jnp.int32(17)).as_text()
    assert ("while" in text) == on  # The interpreter loops over blocks.
    results.append(compute(params, jnp.int32(17)))
  chex.assert_trees_all_close(*results, rtol=2e-4, atol=2e-5)
