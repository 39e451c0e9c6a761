"""The step: dispatch, devices, micro-batches and averages change nothing."""

import contextlib
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tests.one_device import OneDevice
from tokenlearner_flexivit import dials, models, parallel, tasks
from tokenlearner_flexivit.parallel import pmap
from tokenlearner_flexivit.train import step as train_step_lib

STEPS = 4
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def make_task(**kwargs):
  model = models.create(
    variant="mu",
    depth=1,
    num_classes=5,
    patch_size=(4, 4),
    posemb_grid=(3, 3),
    head_zeroinit=False,
    token_learner=dict(layer=0, num_tokens=3),
  )
  return tasks.create(kwargs, model=model, num_classes=5)


def patch_sizes(*values, num_tokens=None, **section):
  section["patch_size"] = {"values": values}
  if num_tokens:
    section["num_tokens"] = {"values": num_tokens}
  return dials.from_config(section, (4, 4))[0]


def make_batches():
  rng = np.random.default_rng(0)
  return [
    {
      "image": rng.standard_normal((16, 12, 12, 3), np.float32),
      "label": rng.integers(0, 5, 16, np.int32),
    }
    for _ in range(STEPS)
  ]


def init(task):
  return tiny.init(task.model, jnp.zeros((1, 12, 12, 3)))


def train(
  task,
  sizes=(6, 3),
  num_tokens=(3, 1),
  dispatch="host",
  ema=None,
  flexi=None,
  batches=None,
  **kwargs,
):
  """Returns the state after four steps and the metrics of each."""
  sizes = patch_sizes(*sizes, num_tokens=num_tokens, **(flexi or {}))
  params = init(task)
  state = train_step_lib.create_state(params, OPTIMIZER, ema=ema is not None)
  devices = parallel.create()
  state = devices.place(state)
  batches = make_batches() if batches is None else batches
  batches = list(devices.prefetch(batches))
  step = train_step_lib.compile_steps(
    task,
    OPTIMIZER,
    sizes,
    devices,
    state,
    batches[0],
    task.constants(devices),
    first_step=0,
    seed=3,
    dispatch=dispatch,
    ema_decay=ema,
    **kwargs,
  )
  history = []
  for batch in batches:
    state, metrics = step(state, batch)
    history.append(jax.device_get(metrics))
  return jax.device_get(state), history


@pytest.fixture(scope="module")
def reference():
  """Four steps with pmap on eight devices, dispatched by the host."""
  return train(make_task())


@pytest.mark.parametrize("dispatch", ["switch", "host"])
def test_programs_have_the_settings_of_the_thread(monkeypatch, dispatch):
  """Also those that other threads compile."""
  seen, original = [], train_step_lib.make_train_step

  def look(*args, **options):
    step = original(*args, **options)

    def looking(*inputs):
      seen.append(jax.config.jax_default_matmul_precision)
      return step(*inputs)

    return looking

  monkeypatch.setattr(train_step_lib, "make_train_step", look)
  with jax.default_matmul_precision("float32"):
    train(make_task(), (4,), None, dispatch, batches=make_batches()[:1])
  assert seen and set(seen) == {"float32"}


def test_programs_that_compile_at_their_first_step_tell_it(
  reference, monkeypatch
):
  """As of several processes; the steps are the same."""
  entered = []

  @contextlib.contextmanager
  def compiling():
    yield
    entered.append(True)

  monkeypatch.setattr(pmap.Pmap, "compiles_ahead", False)
  _, history = train(make_task(), compiling=compiling)
  chex.assert_trees_all_close(history, reference[1], rtol=1e-5)
  drawn = {int(m["setting"]) // 2 for m in history}  # Patch sizes.
  assert len(entered) == len(drawn) < STEPS


def test_several_sizes_are_drawn_and_the_metrics_are_there(reference):
  state, history = reference
  assert state.step == STEPS
  assert len({int(m["setting"]) for m in history}) > 1
  for metrics in history:
    assert set(metrics) == {
      "loss",
      "grad_norm",
      "update_norm",
      "param_norm",
      "setting",
    }
    assert all(np.isfinite(value) for value in metrics.values())


def test_switch_is_host_dispatch(reference):
  state, history = train(make_task(), dispatch="switch")
  chex.assert_trees_all_close(state, reference[0], rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(history, reference[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  "prng", ["rbg", pytest.param("unsafe_rbg", marks=pytest.mark.slow)]
)
def test_any_generator_trains_the_settings_that_are_drawn(prng):
  """Also with "all" among the numbers, which has programs of its own."""
  task = make_task()
  with jax.default_prng_impl(prng):
    state, history = train(task, (6,), (3, 1, "all"))
    again, same = train(task, (6,), (3, 1, "all"), dispatch="switch")
  chex.assert_trees_all_close(state, again, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(history, same, rtol=1e-4, atol=1e-6)
  chex.assert_tree_all_finite(history)
  drawn_from = patch_sizes(6, num_tokens=(3, 1, "all"))
  expected = [
    int(drawn_from.draw(train_step_lib.step_keys(3, np.int32(step))[0], step))
    for step in range(STEPS)
  ]
  assert [int(metrics["setting"]) for metrics in history] == expected


def test_the_end_of_the_preprocessing_is_part_of_the_step(reference):
  def halve(batch):
    return {**batch, "image": batch["image"].astype(np.float32) / 2}

  doubled = [{**b, "image": 2 * b["image"]} for b in make_batches()]
  state, history = train(make_task(), batches=doubled, device_ops=halve)
  chex.assert_trees_all_close(state, reference[0], rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(history, reference[1], rtol=1e-4, atol=1e-6)


def test_eight_devices_are_one_device():
  """Also with mixup, whose partner is on another device."""
  task = make_task(mixup_alpha=0.4)
  eight, _ = train(task, (4,), (3,))
  step = jax.jit(
    train_step_lib.make_train_step(
      task, OPTIMIZER, patch_sizes(4, num_tokens=(3,)), OneDevice(), seed=3
    )
  )
  state = train_step_lib.create_state(init(task), OPTIMIZER, ema=False)
  for batch in make_batches():
    state, _ = step(state, batch, ())
  chex.assert_trees_all_close(
    jax.device_get(state), eight, rtol=1e-5, atol=1e-6
  )


@pytest.mark.slow
def test_accumulation_is_one_large_batch(reference):
  state, history = train(make_task(), accumulate=2)
  chex.assert_trees_all_close(state, reference[0], rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(history, reference[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  "dispatch", ["host", pytest.param("switch", marks=pytest.mark.slow)]
)
def test_one_trace_for_each_patch_size_whatever_the_tokens(dispatch):
  class Counting:
    """Counts how often the loss is traced with each setting."""

    def __init__(self, task):
      self._task = task
      self.loss = chex.assert_max_traces(task.loss, n=3)

    def __getattr__(self, name):
      return getattr(self._task, name)

  chex.clear_trace_counter()
  train(
    Counting(make_task()),
    sizes=(6, 4, 3),
    num_tokens=(3, 2, 1),
    dispatch=dispatch,
  )


@pytest.mark.parametrize(
  "num_tokens", [3, pytest.param(1, marks=pytest.mark.slow), "all"]
)
def test_a_drawn_number_of_tokens_is_that_number(num_tokens):
  """The gradient of a step that draws it, a mask, is that of a slice."""
  task = make_task()
  drawn_from = patch_sizes(4, num_tokens=(3, 1, None))
  steps = (s for s in range(100) if setting_of(drawn_from, s) == num_tokens)
  params = init(task)
  state = train_step_lib.create_state(params, optax.sgd(1.0), ema=False)
  state = state.replace(step=jnp.int32(next(steps)))
  batch = make_batches()[0]
  moved = []
  for one in (drawn_from, patch_sizes(4, num_tokens=(num_tokens,))):
    step = train_step_lib.make_train_step(
      task, optax.sgd(1.0), one, OneDevice(), seed=3
    )
    after, _ = jax.jit(step)(state, batch, ())
    moved.append(after.params)
  chex.assert_trees_all_close(*moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "inplace", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_a_sandwich_is_the_mean_of_three_settings(inplace):
  task = make_task()
  drawn_from = patch_sizes(
    6, 3, num_tokens=(2, None), sandwich=True, inplace_distillation=inplace
  )
  assert drawn_from.largest == dials.Setting((3, 3), "all")
  assert drawn_from.smallest == dials.Setting((6, 6), 2)
  params = init(task)
  state = train_step_lib.create_state(params, optax.sgd(1.0), ema=False)
  batch = make_batches()[0]
  step = train_step_lib.make_train_step(
    task, optax.sgd(1.0), drawn_from, OneDevice(), seed=3
  )
  after, metrics = jax.jit(step)(state, batch, ())
  drawn = drawn_from.settings[int(metrics["setting"])]
  targets = jax.nn.one_hot(batch["label"], 5)
  answers, _ = tiny.apply(
    task.model, params, batch["image"], **drawn_from.largest
  )
  imitated = jax.nn.softmax(answers) if inplace else targets

  def loss(params):
    total = 0.0
    for setting, labels in (
      (drawn_from.largest, targets),
      (drawn, imitated),
      (drawn_from.smallest, imitated),
    ):
      logits, _ = task.model.apply(
        {"params": params}, batch["image"], **setting
      )
      total += optax.softmax_cross_entropy(logits, labels).mean() / 3
    return total

  value, grads = jax.jit(jax.value_and_grad(loss))(params)
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
  expected = jax.tree.map(lambda p, g: p - g, params, grads)
  chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_sandwich_is_the_same_however_it_is_computed():
  """By switch or host dispatch, in micro-batches or not."""
  flexi = dict(sandwich=True, inplace_distillation=True)
  task = make_task(mixup_alpha=0.4)
  states = [
    train(task, num_tokens=(3, None), flexi=flexi, **kwargs)[0]
    for kwargs in ({}, {"dispatch": "switch"}, {"accumulate": 2})
  ]
  for other in states[1:]:
    chex.assert_trees_all_close(other, states[0], rtol=1e-5, atol=1e-6)


def setting_of(drawn_from, step):
  key = train_step_lib.step_keys(3, step)[0]
  return drawn_from.settings[int(drawn_from.draw(key, step))].num_tokens


def test_ema_follows_the_parameters():
  task = make_task()
  decay = 0.9
  start = init(task)
  state, _ = train(task, sizes=(4,), num_tokens=None, ema=decay)
  # The momentum of SGD alone makes the parameters of each step, so replay.
  step = jax.jit(
    train_step_lib.make_train_step(
      task, OPTIMIZER, patch_sizes(4), OneDevice(), seed=3
    )
  )
  replay = train_step_lib.create_state(start, OPTIMIZER, ema=False)
  mean = start
  for batch in make_batches():
    replay, _ = step(replay, batch, ())
    mean = jax.tree.map(
      lambda m, p: decay * m + (1 - decay) * p, mean, replay.params
    )
  chex.assert_trees_all_close(state.ema, mean, rtol=1e-5, atol=1e-6)
  assert state.eval_params is state.ema


def test_gradients_have_the_underlying_shapes():
  task = make_task()
  params = init(task)
  batch = task.prepare(
    jax.tree.map(jnp.asarray, make_batches()[0]), jax.random.key(0)
  )
  for size in (6, 3):
    grads = jax.eval_shape(
      jax.grad(
        functools.partial(task.loss, setting=dials.Setting((size, size))),
        has_aux=True,
      ),
      params,
      batch,
      jax.random.key(1),
    )[0]
    chex.assert_trees_all_equal_shapes(grads, params)
    chex.assert_shape(grads["embedding"]["kernel"], (4, 4, 3, 32))


def test_frozen_blocks_of_a_loop_have_no_gradients():
  stays = np.array([True, False, True])[:, None]
  x = jnp.arange(6.0).reshape(3, 2)
  grads = jax.grad(lambda x: train_step_lib._hold(x, stays).sum())(x)
  np.testing.assert_array_equal(grads, np.where(stays, 0, np.ones((3, 2))))


def test_frozen_parameters_cost_no_gradients():
  """With a head alone a step is little more than a forward pass."""
  task = make_task()
  params = jax.eval_shape(lambda: init(task))
  state = jax.eval_shape(
    lambda: train_step_lib.create_state(
      jax.tree.map(lambda x: jnp.zeros(x.shape), params), OPTIMIZER, ema=False
    )
  )
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_batches()[0]
  )
  frozen = {
    name: jax.tree.map(lambda _, name=name: np.array(name != "head"), tree)
    for name, tree in params.items()
  }

  def flops(frozen):
    step = train_step_lib.make_train_step(
      task,
      OPTIMIZER,
      patch_sizes(4),
      OneDevice(),
      seed=0,
      branch=0,
      frozen=frozen,
    )
    program = jax.jit(step).lower(state, batch, ()).compile()
    return program.cost_analysis()["flops"]

  assert flops(frozen) < 0.5 * flops(None)
