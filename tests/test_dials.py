"""The dials: what is drawn, and how often."""

import jax
import numpy as np
import pytest

from tokenlearner_flexivit import dials, train_step


def patch_sizes(**kwargs):
  return dials.from_config({"patch_size": kwargs}, (4, 4))[0]


def test_draws_follow_the_weights():
  sizes = patch_sizes(values=(8, 4, 2), weights=(1, 2, 5))
  np.testing.assert_allclose(sizes.probabilities, [1 / 8, 2 / 8, 5 / 8])
  keys = jax.random.split(jax.random.key(0), 20_000)
  drawn = np.bincount(jax.vmap(sizes.draw)(keys), minlength=3) / 20_000
  np.testing.assert_allclose(drawn, sizes.probabilities, atol=0.01)


def test_uniform_without_weights():
  sizes = patch_sizes(values=(8, (4, 2)))
  assert sizes.values == ((8, 8), (4, 2))
  assert sizes.probabilities == (0.5, 0.5)


def test_one_size_is_always_drawn():
  sizes, _ = dials.from_config(None, (4, 4))
  assert sizes.values == ((4, 4),)
  assert sizes.draw(jax.random.key(3)) == 0


def test_host_draws_what_the_step_draws_from_any_step_on():
  sizes = patch_sizes(values=(8, 4, 2))
  inside = [
    int(sizes.draw(train_step.step_keys(5, np.int32(step))[0]))
    for step in range(20)
  ]
  assert len(set(inside)) == 3
  for first in (0, 7):
    host = train_step.host_indices(sizes, 5, first, block=4)
    assert [next(host) for _ in range(first, 20)] == inside[first:]


@pytest.mark.parametrize(
  "setting, name",
  [
    (dials.Setting((8, 8)), "patch8"),
    (dials.Setting((8, 4)), "patch8x4"),
    (dials.Setting((8, 8), 3), "patch8_tok3"),
  ],
)
def test_setting_names(setting, name):
  assert setting.name == name


@pytest.mark.parametrize(
  "kwargs, message",
  [
    (dict(values=()), "empty"),
    (dict(values=(4, 4)), "twice"),
    (dict(values=(4, 0)), "no patch size"),
    (dict(values=(4, (2, 2, 2))), "no patch size"),
    (dict(values=(4, 2), weights=(1,)), "2 positive numbers"),
    (dict(values=(4, 2), weights=(1, 0)), "2 positive numbers"),
    (dict(value=(4, 2)), "no key 'value'"),
  ],
)
def test_bad_patch_sizes(kwargs, message):
  with pytest.raises(ValueError, match=message):
    patch_sizes(**kwargs)


def test_unknown_dispatch():
  with pytest.raises(ValueError, match="Known: auto, host, switch"):
    dials.from_config({"dispatch": "both"}, (4, 4))
