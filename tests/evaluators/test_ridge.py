"""The closed form against scikit-learn, and its classes by hand."""

import jax
import numpy as np
import pytest
from sklearn import linear_model

from tokenlearner_flexivit.evaluators import ridge

PRIMAL, DUAL = (60, 20), (12, 40)  # Examples, features.


def make(shape, num_classes=4):
  """Random features of different means and spreads, and targets of -1 and 1."""
  rng = np.random.default_rng(0)
  features = rng.standard_normal(shape) * rng.uniform(0.1, 9, shape[1])
  features += rng.uniform(-5, 5, shape[1])
  labels = rng.permutation(np.arange(shape[0]) % num_classes)
  return features, 2 * np.eye(num_classes)[labels] - 1


def augmented(features):
  """Written out again: standardised, with a constant of 100."""
  features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-5)
  return np.hstack([features, np.full((len(features), 1), 100)])


@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
@pytest.mark.parametrize("log2_l2", [-10, 0, 10, 19])
def test_weights_are_those_of_scikit_learn(shape, log2_l2):
  """The weight of the constant is under the penalty: no `fit_intercept`."""
  features, targets = make(shape)
  solution = ridge.solve(features, targets)
  x = augmented(features)
  expected = linear_model.Ridge(2.0**log2_l2, fit_intercept=False)
  expected.fit(x, targets)
  weights = ridge.weights(solution, 2.0**log2_l2)
  np.testing.assert_allclose(weights, expected.coef_.T, rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(x @ weights, expected.predict(x), atol=1e-6)


@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
def test_a_bias_without_penalty_would_be_almost_the_same(shape):
  features, targets = make(shape)
  x = augmented(features)
  expected = linear_model.Ridge(2.0**10).fit(x[:, :-1], targets)
  weights = ridge.weights(ridge.solve(features, targets), 2.0**10)
  bias = expected.intercept_ / (1 + 2.0**10 / (100**2 * len(x)))
  np.testing.assert_allclose(weights[:-1], expected.coef_.T, atol=1e-6)
  np.testing.assert_allclose(100 * weights[-1], bias, atol=1e-6)


@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
def test_the_smaller_system_is_decomposed(shape):
  solution = ridge.solve(*make(shape))
  assert solution.eigenvalues.shape == (min(shape[0], shape[1] + 1),)


@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
def test_classes_on_the_device_are_those_of_float64(shape):
  features, targets = make(shape)
  solution = ridge.solve(features, targets)
  log2_l2 = np.arange(-10, 20)
  test = np.random.default_rng(1).standard_normal((64, shape[1]))
  test = features.mean(axis=0) + test * features.std(axis=0)
  single = jax.tree.map(lambda x: x.astype(np.float32), solution)
  classes = jax.jit(ridge.classify)(
    single, test.astype(np.float32), np.exp2(log2_l2).astype(np.float32)
  )
  x = (test - features.mean(axis=0)) / (features.std(axis=0) + 1e-5)
  x = np.hstack([x, np.full((64, 1), 100)])
  for exponent, answers in zip(log2_l2, classes, strict=True):
    scores = x @ ridge.weights(solution, 2.0**exponent)
    top = np.sort(scores, axis=-1)
    clear = top[:, -1] - top[:, -2] > 1e-3 * scores.std()
    assert clear.sum() > 55
    np.testing.assert_array_equal(answers[clear], scores.argmax(-1)[clear])


def test_a_feature_that_never_changes_has_no_weight():
  features, targets = make(PRIMAL)
  features[:, 3] = 7
  weights = ridge.weights(ridge.solve(features, targets), 1.0)
  np.testing.assert_allclose(weights[3], 0, atol=1e-9)
