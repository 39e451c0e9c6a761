"""The dials: what is drawn, and how often."""

import jax
import numpy as np
import pytest

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.train import step as train_step


def both(total_steps=1, **section):
  return dials.from_config(section, (4, 4), total_steps)[0]


def patch_sizes(total_steps=1, **kwargs):
  return both(total_steps, patch_size=kwargs)["patch_size"]


def test_draws_follow_the_weights():
  sizes = patch_sizes(values=(8, 4, 2), weights=(1, 2, 5))
  np.testing.assert_allclose(sizes.shares, [1 / 8, 2 / 8, 5 / 8])
  keys = jax.random.split(jax.random.key(0), 20_000)
  draws = jax.vmap(sizes.draw)(keys, np.arange(20_000))
  np.testing.assert_allclose(
    np.bincount(draws, minlength=3) / 20_000, sizes.shares, atol=0.01
  )


def test_a_curriculum_goes_from_weights_to_weights():
  sizes = patch_sizes(
    4_000, values=(8, 4, 2), weights=(7, 2, 1), end_weights=(2, 1, 7)
  )
  np.testing.assert_allclose(sizes.stages[0], [0.7, 0.2, 0.1])
  np.testing.assert_allclose(sizes.stages[-1], [0.2, 0.1, 0.7])
  np.testing.assert_allclose(sizes.shares, [0.45, 0.15, 0.4])
  assert len(sizes.stages) * sizes.stage_steps == 4_000
  draw = jax.jit(jax.vmap(sizes.draw, in_axes=(0, None)))
  keys = jax.random.split(jax.random.key(0), 20_000)
  for step, expected in (
    (0, sizes.stages[0]),
    (1_000, [0.575, 0.175, 0.25]),
    (3_999, sizes.stages[-1]),
    (9_999, sizes.stages[-1]),  # A run may be prolonged.
  ):
    drawn = np.bincount(draw(keys, step), minlength=3) / 20_000
    np.testing.assert_allclose(drawn, expected, atol=0.015)


def test_a_curriculum_of_fewer_steps_than_stages():
  sizes = patch_sizes(2, values=(8, 4), weights=(3, 1), end_weights=(1, 3))
  assert sizes.stages == ((0.75, 0.25), (0.25, 0.75))


def test_a_curriculum_may_begin_and_end_with_hardly_ever():
  sizes = patch_sizes(
    100, values=(8, 4), weights=(1, 1e-12), end_weights=(1e-12, 1)
  )
  np.testing.assert_allclose(sizes.shares, (0.5, 0.5))


def test_uniform_without_weights():
  sizes = patch_sizes(values=(8, (4, 2)))
  assert sizes.values == ((8, 8), (4, 2))
  assert sizes.stages == ((0.5, 0.5),)


def test_one_size_is_always_drawn():
  drawn_from, _ = dials.from_config(None, (4, 4))
  assert drawn_from.settings == (dials.Setting((4, 4)),)
  assert drawn_from.draw(jax.random.key(3), 0) == 0


@pytest.mark.parametrize(
  "end_weights, prng",
  [
    (None, "threefry2x32"),
    ((1, 1, 9), "threefry2x32"),
    (None, "rbg"),
    (None, "unsafe_rbg"),
  ],
)
def test_host_draws_what_the_step_draws_from_any_step_on(end_weights, prng):
  with jax.default_prng_impl(prng):
    check_host_draws(end_weights)


def check_host_draws(end_weights):
  drawn_from = both(
    20,
    patch_size=dict(values=(8, 4, 2), end_weights=end_weights),
    num_tokens=dict(values=(4, 2, None)),
  )
  drawn = [
    drawn_from.draw(train_step.step_keys(5, np.int32(step))[0], step)
    for step in range(20)
  ]
  inside = [int(drawn_from.branch_index(index)) for index in drawn]
  assert len(set(inside)) > 3
  for first in (0, 7):
    host = train_step.host_branches(drawn_from, 5, first, block=4)
    assert [next(host) for _ in range(first, 20)] == inside[first:]


def test_the_draws_of_a_run_are_those_of_any_implementation():
  keys = train_step.step_keys(5, np.int32(7))
  with jax.default_prng_impl("unsafe_rbg"):
    others = train_step.step_keys(5, np.int32(7))
  for key, other in zip(keys[:2], others[:2], strict=True):
    np.testing.assert_array_equal(*map(jax.random.key_data, (key, other)))
  assert jax.random.key_impl(others[2]) == "unsafe_rbg"  # Of dropout.


def test_the_dials_are_drawn_on_their_own():
  sizes = dict(values=(8, 4), weights=(1, 3))
  one = both(patch_size=sizes)
  two = both(
    patch_size=sizes, num_tokens=dict(values=(8, 4, None), weights=(1, 1, 2))
  )
  np.testing.assert_allclose(
    two.shares, np.outer([0.25, 0.75], [0.25, 0.25, 0.5]).ravel()
  )
  keys, steps = jax.random.split(jax.random.key(0), 20_000), np.arange(20_000)
  drawn = np.asarray(jax.vmap(two.draw)(keys, steps))
  shares = np.bincount(drawn, minlength=6) / 20_000
  np.testing.assert_allclose(shares, two.shares, atol=0.01)
  # The second dial leaves the draws of the first as they are.
  alone = jax.vmap(one.draw)(keys, steps)
  np.testing.assert_array_equal(drawn // 3, alone)


def test_numbers_of_tokens_share_a_program():
  drawn_from = both(
    patch_size=dict(values=(8, 4)), num_tokens=dict(values=(8, None, 2))
  )
  names = ["patch8_tok8", "patch8_tokall", "patch8_tok2"]
  assert [s.name for s in drawn_from.settings][:3] == names
  assert drawn_from.branches == (
    dials.Setting((8, 8)),
    dials.Setting((8, 8), "all"),
    dials.Setting((4, 4)),
    dials.Setting((4, 4), "all"),
  )
  indices = np.arange(6)
  branches = drawn_from.branch_index(indices).tolist()
  assert branches == [0, 1, 0, 2, 3, 2]
  for index, branch in zip(indices, branches, strict=True):
    setting = drawn_from.in_program(drawn_from.branches[branch], index)
    assert setting == drawn_from.settings[index]
  # The masked program of a setting without a mask: all that are learned.
  assert drawn_from.in_program(drawn_from.branches[0], 1).num_tokens == 8


def test_a_single_number_of_tokens_is_a_slice():
  (branch,) = both(num_tokens=dict(values=(8,))).branches
  assert branch == dials.Setting((4, 4), 8)


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
    (dict(values=(4, 2), weights=(True, 1)), "2 positive numbers"),
    (dict(values=(4, 2), weights=(1e-12, 1)), r"\(4, 4\) is drawn .*1e-12"),
    (dict(values=(4, 2), weights=(1e308, 1e308)), "too large to be added"),
    (dict(values=(4, 2), weights=(10**400, 1)), "2 positive numbers"),
    (dict(values=(4, 2), end_weights=(1,)), "end_weights.*2 positive numbers"),
    (dict(value=(4, 2)), "no key 'value'"),
  ],
)
def test_bad_patch_sizes(kwargs, message):
  with pytest.raises(ValueError, match=message):
    patch_sizes(**kwargs)


def test_integers_of_numpy_are_integers():
  assert dials.as_patch_size(np.int64(8), "x") == (8, 8)
  assert dials.as_patch_size((np.int32(8), 4), "x") == (8, 4)
  assert dials.as_num_tokens(np.int64(3), "x") == 3
  with pytest.raises(ValueError, match=r"x: 8\.5 is no patch size"):
    dials.as_patch_size(8.5, "x")


@pytest.mark.parametrize("value", [0, -1, 2.0, "none", True])
def test_bad_numbers_of_tokens(value):
  message = r"config.flexi.num_tokens: .* positive integer, or None or 'all'"
  with pytest.raises(ValueError, match=message):
    both(num_tokens=dict(values=(4, value)))


@pytest.mark.parametrize(
  "section, message",
  [
    (dict(sandwich=True), "sandwich=True needs several settings"),
    (dict(inplace_distillation=True), "needs config.flexi.sandwich=True"),
  ],
)
def test_bad_sandwiches(section, message):
  with pytest.raises(ValueError, match=message):
    both(**section)


def test_unknown_dispatch():
  with pytest.raises(ValueError, match="Known: auto, host, switch"):
    dials.from_config({"dispatch": "both"}, (4, 4))
