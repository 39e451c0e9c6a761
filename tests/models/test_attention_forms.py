"""The forms of attention, against float64 and each other."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import attention, attention_kernel

# Batch, queries, keys, heads, width of a head, and whether keys are masked. The
# kernel repeats itself for each image and head of a block, which takes long to
# compile, so there are few.
SIZES = (
  # Several blocks of queries with a rest, which sum up the gradients of keys.
  (2, 300, 40, 2, 64, True),
  (2, 300, 40, 2, 64, False),
  # Several images per block, and several blocks of heads.
  (2, 25, 25, 4, 64, False),
  # Another number of keys; heads that do not fill the lanes.
  (3, 65, 20, 2, 16, True),
  # Several heads that fill several lanes together.
  (1, 33, 33, 4, 96, False),
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
@pytest.mark.parametrize("form", FORMS)
def test_forms_are_attention(form, size):
  *size, masked = size
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
  *inputs, _ = arrays(1, 40, 40, 2, 64, dtype="bfloat16")
  y = jax.jit(FORMS[form])(*inputs, None)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(y, np.float64), reference(*inputs), atol=2e-2
  )


def test_keys_that_are_masked_do_not_count_whatever_they_hold():
  *inputs, _ = arrays(1, 20, 20, 2, 8)
  mask = jnp.arange(20) < 7
  first = [x[:, :7] for x in inputs[1:]]
  for name, form in FORMS.items():
    y = jax.jit(form)(*inputs, mask)
    few = jax.jit(form)(inputs[0], *first, None)
    chex.assert_trees_all_close(y, few, atol=1e-6, custom_message=name)


@pytest.fixture
def lower(monkeypatch):
  """Returns the text of a training step's program for another platform."""
  # The wheels bring the compilers, which are not needed to see the program.
  monkeypatch.setattr(attention, "_has_libtpu", lambda: True)
  attention.dot_product_attention.clear_cache()

  def lower(platforms, image_size, patch_size, **overrides):
    model = models.ViT.from_variant(
      "mu", num_classes=3, dtype="bfloat16", **overrides
    )
    images = jnp.zeros((2, image_size, image_size, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params, images):
      return model.apply(params, images, patch_size=patch_size)[0].sum()

    traced = jax.jit(jax.grad(loss)).trace(params, images)
    return [
      traced.lower(lowering_platforms=(platform,)).as_text()
      for platform in platforms
    ]

  yield lower
  attention.dot_product_attention.clear_cache()


@pytest.mark.parametrize(
  "arguments",
  [dict(pool="gap"), dict(pool="map"), dict(pool="tok", depth=2, scan=True)],
  ids=lambda arguments: arguments["pool"],
)
def test_a_tpu_runs_the_kernel(lower, arguments):
  text, of_cpu = lower(("tpu", "cpu"), 48, 8, **arguments)
  assert "tpu_custom_call" in text
  assert "convolution" in text
  assert "tpu_custom_call" not in of_cpu


def test_few_tokens_need_no_kernel(lower):
  (text,) = lower(("tpu",), 24, 8)
  assert "tpu_custom_call" not in text


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
    (text,) = lower((platform,), 24, patch_size)
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


LEARNER = dict(layer=0, num_tokens=4)
FUSER = LEARNER | dict(fuser=True)
# One image of few patches: what the kernel does of many, the tests above show.
MODELS = {
  # Some tokens are masked, beside a cls token; none are in the pooling; some of
  # each frame's are.
  "cls": (models.ViT, (24, 24), dict(pool="tok", token_learner=LEARNER)),
  "fuser": (models.ViT, (24, 24), dict(pool="map", token_learner=FUSER)),
  "video": (models.ViViT, (4, 16, 16), dict(token_learner=LEARNER)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_answer_by_the_kernel_as_by_the_form_of_the_cpu(
  kernel_on_cpu, name
):
  cls, size, arguments = MODELS[name]
  model = cls.from_variant("mu", num_classes=3, **arguments)
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.normal(size=(1, *size, 3)), jnp.float32)
  params = tiny.init(model, inputs, scale=0.1)
  if name == "fuser":
    # Learned tokens are nearly equal at first. A mix whose weights sum to
    # almost nothing would be rounding errors, which the LayerNorm after it
    # makes large, so each token is mainly its own.
    mix = params["Transformer"]["TokenFuser_0"]["Dense_0"]
    mix["kernel"] += jnp.eye(4)

  def loss(params, num_tokens):
    logits, _ = model.apply(
      {"params": params}, inputs, patch_size=8, num_tokens=num_tokens
    )
    return jnp.sum(logits**2)

  results = []
  for on in (False, True):
    kernel_on_cpu(on)
    # A number of tokens that is traced becomes a mask, here of 3 of 4.
    compute = jax.jit(jax.value_and_grad(lambda p, n: loss(p, n)))
    lowered = compute.lower(params, jnp.int32(3))
    # The interpreter loops over blocks.
    assert ("while" in lowered.as_text()) == on
    results.append(lowered.compile()(params, jnp.int32(3)))
  chex.assert_trees_all_close(*results, rtol=2e-4, atol=2e-5)
