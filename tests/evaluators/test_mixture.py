"""The mean of probabilities, as logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenlearner_flexivit.evaluators import mixture

mean_logits = jax.jit(mixture.mean_logits, static_argnums=1)


@pytest.mark.parametrize("link", [jax.nn.softmax, jax.nn.sigmoid])
def test_probabilities_of_the_mean_are_the_mean_of_probabilities(link):
  rng = np.random.default_rng(0)
  logits = 3 * rng.standard_normal((4, 3, 6)).astype(np.float32)
  probabilities = np.asarray(link(logits))
  mean = link(np.asarray(mean_logits(logits, link)))
  np.testing.assert_allclose(mean, probabilities.mean(axis=1), rtol=1e-5)
  for members in ([True, False, True], [False, True, False]):
    members = np.asarray(members)
    mean = link(np.asarray(mean_logits(logits, link, members)))
    expected = probabilities[:, members].mean(axis=1)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)


@pytest.mark.parametrize("link", [jax.nn.softmax, jax.nn.sigmoid])
def test_classes_that_no_float_can_hold_keep_their_logit(link):
  logits = np.asarray([[[0.0, -200.0, -300.0]] * 2], np.float32)
  mean = np.asarray(mean_logits(logits, link))[0]
  np.testing.assert_allclose(mean[1] - mean[2], 100, rtol=1e-5)


def test_who_is_no_member_does_not_count_even_if_it_is_not_a_number():
  logits = np.asarray([[[0.0, np.log(3)], [np.nan, np.nan]]], np.float32)
  mean = mean_logits(logits, jax.nn.softmax, np.asarray([True, False]))
  np.testing.assert_allclose(mean, np.log([[0.25, 0.75]]), rtol=1e-6)


def test_other_links_are_refused():
  with pytest.raises(ValueError, match="neither softmax nor sigmoid"):
    mixture.mean_logits(jnp.zeros((1, 1, 2)), jax.nn.relu)
