"""CKA equals its definition, and is what it should be where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.analysis import cka

RNG = np.random.default_rng(0)
SETTINGS = {p: dials.Setting((p, p)) for p in (6, 4)}


def plain_hsic(k, m):
  """HSIC_1 as it is written down, in float64."""
  n = len(k)
  k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
  one = np.ones(n)
  return (
    np.trace(k @ m)
    + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
    - 2 / (n - 2) * (one @ k @ m @ one)
  ) / (n * (n - 3))


def plain_cka(x, y):
  k, m = x @ x.T, y @ y.T
  return plain_hsic(k, m) / np.sqrt(plain_hsic(k, k) * plain_hsic(m, m))


@jax.jit
def hsic(*features):
  return cka.hsic(jnp.stack([cka.kernel(x) for x in features]))


def of_arrays(*features):
  values = hsic(*(jnp.asarray(x, "f4") for x in features))
  return cka.normalised(np.asarray(values, np.float64))


def test_one_batch_is_the_definition():
  x = RNG.normal(size=(20, 7)) + 3  # Not centred: the definition does not care.
  y = x @ RNG.normal(size=(7, 5)) + RNG.normal(size=(20, 5))
  found = of_arrays(x, y)
  np.testing.assert_allclose(np.diag(found), 1, rtol=1e-5)
  assert found[0, 1] == pytest.approx(plain_cka(x, y), rel=1e-4)
  assert found[0, 1] == pytest.approx(found[1, 0], rel=1e-6)


def test_rotation_scale_and_shift_change_nothing():
  x = RNG.normal(size=(16, 6))
  rotation, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
  found = of_arrays(x, 5 * x @ rotation + 2)
  np.testing.assert_allclose(found, 1, rtol=1e-4)
  assert of_arrays(x, x * [1, 1, 1, 1, 1, 9])[0, 1] < 0.9


def test_batches_estimate_what_all_examples_have():
  """Unbiased: the mean over small batches is the value of the whole."""
  x = RNG.normal(size=(1600, 3))
  y = x[:, :2] + 0.5 * RNG.normal(size=(1600, 2))
  whole = plain_hsic(x @ x.T, y @ y.T)
  found = [
    hsic(*(jnp.asarray(z[i : i + 8], "f4") for z in (x, y)))[0, 1]
    for i in range(0, 1600, 8)
  ]
  spread = np.std(found) / len(found) ** 0.5
  assert abs(np.mean(found) - whole) < 3 * spread < 0.3 * whole


def test_independent_representations_have_none():
  x, y = RNG.normal(size=(2, 400, 3))
  assert abs(of_arrays(x, y)[0, 1]) < 0.05


@pytest.mark.parametrize("constant", [1, 0.1, 0.07, 7.7, -3e4, 0])
def test_what_does_not_vary_has_none(constant):
  x = RNG.normal(size=(50, 3))
  same = np.full((50, 33), constant, "f4")
  rounded = same * (1 + 6e-8 * RNG.choice([-1, 0, 1], (50, 33)))
  for other in (same, rounded):
    found = of_arrays(x, other)
    assert found[0, 0] == pytest.approx(1)
    assert np.isnan(found[0, 1]) and np.isnan(found[1]).all()


def test_little_variation_is_still_compared():
  x = RNG.normal(size=(50, 3))
  found = of_arrays(x, 7.7 + 1e-4 * x, np.c_[1e-3 * x, np.full(50, 9.0)])
  np.testing.assert_allclose(found, 1, rtol=1e-3)


@pytest.fixture(scope="module")
def side():
  model = models.ViT(
    num_classes=3,
    width=16,
    depth=1,
    mlp_dim=32,
    num_heads=2,
    patch_size=6,
    posemb_grid=2,
    pool="tok",
  )
  params = tiny.init(model, IMAGES)
  names = ("stem", "encoder/block00/+mlp", "pre_logits")
  return cka.Side(model, params, SETTINGS[6], names)


IMAGES = RNG.normal(size=(23, 12, 12, 3)).astype(np.float32)


def features(side):
  found = jax.jit(side.features)(side.params, IMAGES)
  return {name: np.asarray(x, np.float64) for name, x in found.items()}


def test_a_model_at_two_settings_in_batches(side):
  other = cka.dataclasses.replace(side, setting=SETTINGS[4])
  batches = [IMAGES[:10], IMAGES[10:20], IMAGES[20:]]  # The last is too few.
  seen = []
  values, labels = cka.cka(batches, {"/6": side, "/4": other}, seen.append)
  assert seen == [10, 20]
  assert labels[0] == ("/6", "stem") and labels[5] == ("/4", "pre_logits")
  sums = np.zeros((6, 6))
  parts = [*features(side).values(), *features(other).values()]
  for batch in (slice(0, 10), slice(10, 20)):
    kernels = [x[batch] @ x[batch].T for x in parts]
    sums += [[plain_hsic(k, other) for other in kernels] for k in kernels]
  np.testing.assert_allclose(values, cka.normalised(sums), rtol=2e-3, atol=2e-3)
  np.testing.assert_allclose(values, values.T, rtol=1e-5)


def test_what_fills_up_a_batch_is_not_counted(side):
  filled = np.concatenate([IMAGES[:10], np.zeros((6, 12, 12, 3), "f4")])
  batch = {"image": filled, "mask": np.arange(16) < 10}
  found, _ = cka.cka([batch], {"x": side})
  expected, _ = cka.cka([IMAGES[:10]], {"x": side})
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # Of one example and filling there is nothing to compare.
  with pytest.raises(ValueError, match="got none"):
    cka.cka([{"image": filled, "mask": np.arange(16) < 1}], {"x": side})


def test_what_of_the_tokens(side):
  replace = cka.dataclasses.replace
  names = ("encoder/block00/+mlp", "pre_logits")
  mean = features(replace(side, names=names, tokens="mean"))
  cls = features(replace(side, names=names, tokens="cls"))
  whole = features(replace(side, names=names))
  tokens = whole[names[0]].reshape(23, 5, 16)  # Four patches and cls.
  np.testing.assert_allclose(mean[names[0]], tokens.mean(axis=1), atol=1e-5)
  np.testing.assert_allclose(cls[names[0]], tokens[:, 0], atol=1e-6)
  for found in (mean, cls, whole):
    assert found["pre_logits"].shape == (23, 16)


def test_bad_input_is_told(side):
  def of(**changes):
    return cka.cka([IMAGES], {"x": cka.dataclasses.replace(side, **changes)})

  with pytest.raises(ValueError, match=r"name='block9' is.*with_posemb"):
    of(names=("block9",))
  with pytest.raises(ValueError, match=r"tokens='first'.*'all', 'mean', 'cls'"):
    of(tokens="first")
  with pytest.raises(ValueError, match=r"no cls token.*'gap'"):
    of(model=side.model.clone(pool="gap"), tokens="cls")
  with pytest.raises(ValueError, match="at least 4 examples, and got none"):
    cka.cka([IMAGES[:1]], {"x": side})
  with pytest.raises(ValueError, match="'stem' twice"):
    of(names=("stem", "pre_logits", "stem"))
  names = ("encoder/block00/+sa", "with_posemb")
  with pytest.raises(ValueError, match="'with_posemb' has no cls token"):
    of(names=names, tokens="cls")
  with pytest.raises(ValueError, match="has 3"):
    cka.hsic(jnp.ones((1, 3, 3)))


def test_the_distance_is_an_angle():
  found = cka.arc_cosine_distance(np.array([1.0001, 0.5, 0, -0.1]))
  np.testing.assert_allclose(found, np.array([0, 1 / 3, 1 / 2, 1 / 2]) * np.pi)
