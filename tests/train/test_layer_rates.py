"""Layer-wise rates and frozen layers, as updates of known gradients."""

import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from tokenlearner_flexivit import models, train
from tokenlearner_flexivit.models import stacking
from tokenlearner_flexivit.train import layer_rates, optimizer, setup

RUNS = (range(3),)  # All blocks of `make_params`.


def flatten(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def make_params():
  """Few of a ViT's parameters, of which none equals another."""
  blocks = [f"Transformer/{stacking.block_name(i)}/Dense_0" for i in RUNS[0]]
  shapes = {f"{block}/kernel": (2, 3) for block in blocks}
  shapes |= {f"{block}/bias": (3,) for block in blocks}
  shapes |= {"cls": (1, 1, 2), "embedding/kernel": (2, 2, 1, 2)}
  shapes |= {"head/kernel": (2, 4), "head/bias": (4,)}
  rng = np.random.default_rng(0)
  flat = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in shapes.items()
  }
  return traverse_util.unflatten_dict(flat, sep="/")


def create(params, **section):
  section = dict(name="sgd", lr=0.5, schedule=dict(name="constant")) | section
  sizes = dict(batch_size=1, num_examples=1)
  return optimizer.create(section, params, 10, **sizes)[0]


def step(params, **section):
  """The first updates for gradients that equal the parameters."""
  transformation = create(params, **section)

  @jax.jit
  def update(params):
    return transformation.update(params, transformation.init(params), params)

  return update(params)


@pytest.mark.parametrize("fuser", [False, True])
def test_factors_decay_from_the_head_to_the_embedding(fuser):
  learner = dict(layer=2, num_tokens=2, fuser=fuser)
  settings = dict(width=4, depth=4, mlp_dim=4, num_heads=1, num_classes=3)
  settings |= dict(patch_size=2, posemb_grid=2, pool="map", rep_size=3)
  model = models.ViT(**settings, token_learner=learner)
  images = jnp.zeros((1, 4, 4, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  distances = {
    "embedding": 5,
    "pos_embedding": 5,
    "Transformer/encoderblock_0": 4,
    "Transformer/encoderblock_1": 3,
    "Transformer/TokenLearner_0": 2,
    "Transformer/encoderblock_2": 2,
    "Transformer/encoderblock_3": 1,
    "Transformer/encoder_norm": 0,
    "MAPHead_0": 0,
    "pre_logits": 0,
    "head": 0,
  }
  if fuser:
    distances["Transformer/TokenLearner_1"] = 1
    distances["Transformer/TokenFuser_0"] = 2
    distances["Transformer/TokenFuser_1"] = 1
  seen = set()
  factors = layer_rates.factors(params, layer_decay=0.5, model=model)
  for name, factor in flatten(factors).items():
    parts = name.split("/")
    key = "/".join(parts[: 2 if parts[0] == "Transformer" else 1])
    seen.add(key)
    assert factor.item() == 0.5 ** distances[key], name
  assert seen == set(distances)


@pytest.mark.parametrize("pool", ["tok", "map"])
def test_blocks_in_time_come_after_those_in_space(pool):
  settings = dict(width=4, depth=2, mlp_dim=4, num_heads=1, num_classes=3)
  settings |= dict(patch_size=2, posemb_grid=(2, 2, 2), temporal_depth=2)
  model = models.ViViTFactorised(**settings, pool=pool)
  videos = jnp.zeros((1, 2, 4, 4, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), videos)["params"]
  distances = {
    "embedding": 5,
    "pos_embedding": 5,
    "cls": 5,
    "Transformer/encoderblock_0": 4,
    "Transformer/encoderblock_1": 3,
    "Transformer/encoder_norm": 2,
    "MAPHead_0": 2,
    "pos_embedding_TemporalTransformer": 2,
    "cls_TemporalTransformer": 2,
    "TemporalTransformer/encoderblock_0": 2,
    "TemporalTransformer/encoderblock_1": 1,
    "TemporalTransformer/encoder_norm": 0,
    "MAPHead_1": 0,
    "head": 0,
  }
  factors = layer_rates.factors(params, layer_decay=0.5, model=model)
  for name, factor in flatten(factors).items():
    parts = name.split("/")
    key = "/".join(parts[: 2 if parts[0].endswith("Transformer") else 1])
    assert factor.item() == 0.5 ** distances[key], name


def test_factors_multiply_the_whole_update_also_of_stacked_blocks():
  """Updates are decay^(distance from the head) (lr g + decay of weights).

  Two of the three blocks of a stack are frozen as those of no stack.
  """
  params = make_params()
  section = dict(momentum=0.0, weight_decay=0.1, layer_decay=0.7)
  section |= dict(freeze=("cls", "Transformer/encoderblock_[01]"))
  factors = {"embedding": 0.7**4, "head": 1.0, "Transformer": 0.7}
  updates, _ = step(params, **section)
  for name, update in flatten(updates).items():
    frozen = "block_0" in name or "block_1" in name or name == "cls"
    factor = 0.0 if frozen else factors[name.split("/")[0]]
    decayed = 0.5 + 0.1 * name.endswith("kernel")
    expected = -factor * decayed * flatten(params)[name]
    np.testing.assert_allclose(update, expected, rtol=1e-5, err_msg=name)

  stacked = stacking.stack(params, RUNS)
  scanned, state = step(stacked, **section)
  chex.assert_trees_all_close(stacking.unstack(scanned), updates, rtol=1e-6)
  # Checkpoints name every block, and what they hold can be stacked again.
  saved = stacking.unstack(state)
  chex.assert_trees_all_equal(stacking.stack(saved, RUNS), state)


@pytest.mark.parametrize("name", ["sgd", "adamw", "scale_by_adam"])
@pytest.mark.parametrize("freeze", [None, ("cls", ".*/encoderblock_0")])
def test_decay_names_blocks_of_a_stack_as_those_of_none(name, freeze):
  """Two of the three blocks decay, whether a loop runs them or not."""
  params = make_params()
  decay = (r"Transformer/encoderblock_[02]/.*kernel", "head/kernel")
  section = dict(name=name, weight_decay=0.1, freeze=freeze)
  updates, _ = step(params, decay=decay, **section)
  without, _ = step(params, decay=("head/kernel",), **section)
  without = flatten(without)
  changed = {n for n, u in flatten(updates).items() if (u != without[n]).any()}
  blocks = "02" if freeze is None else "2"
  assert changed == {
    name
    for name in flatten(params)
    if name.endswith("kernel") and any(f"block_{i}/" in name for i in blocks)
  }
  scanned, _ = step(stacking.stack(params, RUNS), decay=decay, **section)
  chex.assert_trees_all_close(stacking.unstack(scanned), updates, rtol=1e-6)


DECAY = dict(weight_decay=0.1, decay=(r".*encoderblock_[02]/.*kernel",))


@pytest.mark.parametrize(
  "section, freeze",
  [
    (dict(name="lamb", **DECAY), None),
    (dict(name="lamb", **DECAY), ("cls", ".*/encoderblock_0")),
    (dict(name="muon", **DECAY), ("cls", ".*/encoderblock_0")),
    (dict(name="adafactor", min_dim_size_to_factor=2), ("cls",)),
    (dict(name="novograd", weight_decay=0.1), ("Transformer",)),
  ],
)
def test_optimizers_of_optax_do_the_same_to_stacks(section, freeze):
  """Two steps, also of those that take norms or axes of a parameter."""
  params = make_params()
  results = []
  for tree in params, stacking.stack(params, RUNS):
    optimizer = create(tree, freeze=freeze, **section)
    state = jax.jit(optimizer.init)(tree)
    for _ in range(2):
      updates, state = jax.jit(optimizer.update)(tree, state, tree)
    results.append(stacking.unstack((updates, state)))
    # What checkpoints hold can be stacked again.
    saved = jax.device_get(results[-1][1])
    again = stacking.stack(saved, RUNS) if tree is not params else saved
    chex.assert_trees_all_equal(again, jax.device_get(state))
  chex.assert_trees_all_close(*(updates for updates, _ in results), rtol=1e-5)
  for name, update in flatten(results[0][0]).items():
    assert np.any(update) != any(
      re.match(f"{pattern}/|{pattern}$", name) for pattern in freeze or ()
    )


def test_lr_scales_multiply_what_whole_names_match():
  params = make_params()
  scales = {"head/.*": 2, ".*encoderblock_[12]/.*bias": 0.5, "cls": 0}
  section = dict(momentum=0.0, weight_decay=0.1, layer_decay=0.5)
  without, _ = step(params, **section)
  updates, state = step(params, lr_scales=scales, **section)
  pairs, _ = step(params, lr_scales=tuple(scales.items()), **section)
  chex.assert_trees_all_equal(updates, pairs)
  factors = {"head/kernel": 2, "head/bias": 2, "cls": 0}
  factors |= {f"Transformer/encoderblock_{i}/Dense_0/bias": 0.5 for i in (1, 2)}
  for name, update in flatten(updates).items():
    expected = flatten(without)[name] * factors.get(name, 1)
    np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)
  stacked = stacking.stack(params, RUNS)
  scanned, _ = step(stacked, lr_scales=scales, **section)
  chex.assert_trees_all_close(stacking.unstack(scanned), updates, rtol=1e-6)
  # What has 0 is frozen: without moments.
  assert not any(x.shape == (1, 1, 2) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name, moments", [("sgd", 1), ("adamw", 2)])
def test_what_is_frozen_stays_and_has_no_moments(name, moments):
  params = make_params()
  updates, state = step(
    params, name=name, weight_decay=0.5, freeze="(?!head/).*"
  )
  head = updates.pop("head")
  assert all(x.all() for x in jax.tree.leaves(head))
  assert not any(x.any() for x in jax.tree.leaves(updates))
  shapes = [x.shape for x in jax.tree.leaves(state) if x.shape]
  assert sorted(shapes) == sorted([(2, 4), (4,)] * moments)


@pytest.mark.parametrize(
  "freeze", ["Transformer", "Transformer/encoderblock_0"]
)
def test_gradients_of_what_is_frozen_do_not_count_for_clipping(freeze):
  params = stacking.stack(make_params(), RUNS)
  section = dict(lr=1.0, momentum=0.0, grad_clip_norm=0.25)
  updates, _ = step(params, **section, freeze=freeze)
  np.testing.assert_allclose(optax.tree.norm(updates), 0.25, rtol=1e-5)


@pytest.mark.parametrize(
  "pattern, frozen",
  [
    ("embedding", {"embedding"}),
    ("Transformer/encoderblock_1", {"Transformer/encoderblock_1"}),
    ("pos_embedding|cls", {"pos_embedding", "cls"}),
    (".*/bias", {"a/b/bias"}),
  ],
)
def test_patterns_match_names_or_their_beginnings(pattern, frozen):
  names = ("embedding", "pos_embedding", "cls", "a/b/bias")
  blocks = ("Transformer/encoderblock_1", "Transformer/encoderblock_10")
  params = {name: np.ones(2) for name in names}
  params |= {f"{name}/kernel": np.ones((2, 2)) for name in blocks}
  nested = traverse_util.unflatten_dict(params, sep="/")
  found = flatten(layer_rates.factors(nested, freeze=(pattern,)))
  found = {name.removesuffix("/kernel") for name in found if not found[name]}
  assert found == frozen


@pytest.mark.slow
def test_rates_are_the_same_in_a_loop_and_after_a_restart(config, tmp_path):
  del config.model.token_learner
  config.flexi.patch_size.values = (6,)
  config.optimizer = dict(
    name="sgd",
    lr=0.1,
    weight_decay=0.1,
    schedule=dict(name="constant"),
    grad_clip_norm=1.0,
    layer_decay=0.5,
    freeze=("embedding", "Transformer/encoderblock_0"),
  )
  config.ema_decay = 0.5
  config.checkpoint_steps = 2
  untrained = setup.Experiment(config).init_params()
  apart, _ = train.train_and_evaluate(config, tmp_path / "apart")
  for key in "embedding", "encoderblock_0":
    after, before = (
      (tree | tree["Transformer"])[key]
      for tree in jax.device_get((apart.params, untrained))
    )
    chex.assert_trees_all_equal(after, before)
  config.model.scan = True
  workdir = tmp_path / "scan"
  scanned, history = train.train_and_evaluate(config, workdir)
  assert history[0]["grad_norm"] > 0
  chex.assert_trees_all_close(
    apart.params, scanned.params, rtol=1e-3, atol=1e-5
  )
  shutil.rmtree(workdir / "checkpoints" / "4")
  continued, _ = train.train_and_evaluate(config, workdir)
  chex.assert_trees_all_equal(scanned, continued)


def test_without_rates_the_optimizer_is_the_same():
  """So the states that older runs saved still fit."""
  plain = optax.adamw(0.1)
  assert layer_rates.scale(plain, layer_rates.factors(make_params())) is plain


@pytest.mark.parametrize(
  "section, message",
  [
    (
      dict(freeze=("heads",)),
      "'heads' matches no.*block_2, cls, embed.*, head",
    ),
    (dict(freeze=("(head",)), "no regular expression"),
    (dict(freeze=("head", "(?!head).*")), "leaves nothing to train.*head"),
    (dict(freeze=3), "freeze=3 must be a list"),
    (dict(decay=("Transformer/encoderblock_9/.*",)), "matches the whole of no"),
    (dict(decay="(head"), "no regular expression"),
    (dict(lr_scales={"hea": 2}), "lr_scales: 'hea' matches the whole of no"),
    (dict(lr_scales={"(head": 2}), "no regular expression"),
    (dict(lr_scales={"head/.*": -1}), r"'head/\.\*'\]=-1 must be .* \[0, inf"),
    (dict(lr_scales={"head/.*": "2"}), "='2' must be a number"),
    (dict(lr_scales={".*": 0}), "lr_scales=.* leaves nothing to train"),
    (
      dict(lr_scales={"(?!head).*": 0}, freeze=("head",)),
      "freeze=.* and lr_scales=.* leaves nothing to train",
    ),
    (
      dict(lr_scales=(("head/.*", 2), (".*/bias", 3))),
      r"'head/\.\*' gives head/bias the factor 2, but '\.\*/bias' gives it 3",
    ),
    (dict(lr_scales=0.1), "lr_scales=0.1 must be factors by patterns"),
    (dict(lr_scales=("head/.*", 2)), "must be factors by patterns"),
    (dict(layer_decay=0.0), r"layer_decay=0.0 must be a number in \(0, 1\]"),
    (dict(layer_decay=1.1), r"must be a number in \(0, 1\]"),
    (dict(layer_decay="0.5"), r"must be a number in \(0, 1\]"),
  ],
)
def test_bad_sections(section, message):
  with pytest.raises(ValueError, match=message):
    create(make_params(), **section)


def test_layer_decay_needs_layers():
  with pytest.raises(ValueError, match="needs a model with blocks"):
    create({"a": {"kernel": np.ones(2)}}, layer_decay=0.5)
