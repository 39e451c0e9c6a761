"""The training step: a pure function from (state, batch) to (state, metrics).

It runs on one device, and averages over all by `Parallel`. Each step draws a
setting of the dials. With `dispatch="switch"`, `lax.switch` selects the branch
of its patch size inside the program; with `dispatch="host"`, the same key draws
the same index outside and selects one of several programs. In both, only the
loss and its gradient depend on the patch size: they have the shapes of the
underlying parameters, and everything after them is outside the branches. The
number of learned tokens is a mask, and needs no branch. With the sandwich rule,
gradient and metrics are the means over three settings.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.parallel import Parallel
from tokenlearner_flexivit.train import remat

# Importing the tasks imports the input pipeline, which no step needs.
if TYPE_CHECKING:
  from tokenlearner_flexivit import tasks

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Step = Callable[..., tuple["TrainState", Metrics]]


@flax.struct.dataclass
class TrainState:
  """The state that changes during training.

  Attributes:
    step: number of steps done, int32 scalar.
    params: the model's parameters at their underlying sizes, float32; those of
      blocks in a loop are stacked (`models.stacking`).
    opt_state: the optimizer's state.
    ema: moving average of `params`, or None.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  ema: Any = None

  @property
  def eval_params(self) -> Any:
    """Returns the parameters to evaluate, the moving average if it exists."""
    return self.params if self.ema is None else self.ema


def create_state(
  params: Any, optimizer: optax.GradientTransformation, *, ema: bool
) -> TrainState:
  """Returns the state before the first step."""
  return TrainState(
    step=jnp.zeros([], jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    ema=jax.tree.map(jnp.copy, params) if ema else None,
  )


def step_keys(
  seed: int, step: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the keys of one step: for the dials, the batch (mixup) and dropout.

  The dials and the batch must draw the same numbers on the host and on every
  device, for one step or for many at once, so their keys are of threefry. Other
  implementations draw other numbers under `jax.vmap`. Dropout follows
  `jax_default_prng_impl`, since another implementation may be much faster.
  """

  def keys(impl: str | None) -> jax.Array:
    key = jax.random.key(seed, impl=impl)
    return jax.random.split(jax.random.fold_in(key, step), 3)

  dial_key, batch_key, _ = keys("threefry2x32")
  return dial_key, batch_key, keys(None)[2]


def make_train_step(
  task: "tasks.Task",
  optimizer: optax.GradientTransformation,
  drawn_from: dials.Dials,
  parallel: Parallel,
  *,
  seed: int,
  branch: int | None = None,
  accumulate: int = 1,
  ema_decay: float | None = None,
  frozen: Any = None,
  device_ops: Callable[[Batch], Batch] = lambda batch: batch,
) -> Step:
  """Builds the step of one device, for `Parallel.run`.

  Args:
    task: the task that is optimised.
    optimizer: gets the gradient averaged over devices and micro-batches.
    drawn_from: the dials.
    parallel: averages over the devices.
    seed: together with the step's number, the source of all randomness.
    branch: None switches inside the program; an index into
      `drawn_from.branches` builds the program of that branch alone, for steps
      that draw one of its settings.
    accumulate: micro-batches that a device computes one after the other; the
      gradient is that of the whole batch, in less memory.
    ema_decay: decay of the moving average, if there is one.
    frozen: a tree of arrays of bools that broadcast to the parameters, true for
      those that the optimizer does not change: their gradients are zero, and
      cost nothing unless they are blocks in a loop with others. None if no
      parameter is frozen.
    device_ops: the end of the preprocessing, which the host leaves to the
      device (`data.device_ops`).

  Returns:
    `step(state, batch, constants) -> (state, metrics)`, with the constants of
    the task. Metrics are float32 scalars equal on all devices: loss, the three
    norms (gradient, update, parameters), the task's own; and `setting`, the
    int32 index into `drawn_from.settings` drawn.
  """

  def loss_and_grad(setting, params, batch, key):
    def loss(params, *args):
      if frozen is not None:
        params = jax.tree.map(_hold, params, frozen)
      return task.loss(params, *args, setting, parallel)

    (value, (metrics, answer)), grads = jax.value_and_grad(loss, has_aux=True)(
      params, batch, key
    )
    return (grads, {"loss": value, **metrics}), answer

  def accumulated(setting, params, batch, key):
    """Returns gradients and metrics of the batch, and the answers to it."""
    if accumulate == 1:
      return loss_and_grad(setting, params, batch, key)
    micro_batches = jax.tree.map(
      lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch
    )

    def add(total, inputs):
      out, answer = loss_and_grad(setting, params, *inputs)
      return jax.tree.map(jnp.add, total, out), answer

    keys = jax.random.split(key, accumulate)
    first = jax.tree.map(lambda x: x[0], (micro_batches, keys))
    shapes, _ = jax.eval_shape(
      functools.partial(loss_and_grad, setting), params, *first
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, answers = jax.lax.scan(add, zeros, (micro_batches, keys))
    return (
      jax.tree.map(lambda x: x / accumulate, total),
      jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), answers),
    )

  def branch_means(branch, drawn, *inputs):
    return accumulated(drawn_from.in_program(branch, drawn), *inputs)[0]

  branches = [
    functools.partial(branch_means, branch) for branch in drawn_from.branches
  ]

  def drawn_means(drawn, *inputs):
    if branch is not None:
      return branches[branch](drawn, *inputs)
    picked = drawn_from.branch_index(drawn)
    return jax.lax.switch(picked, branches, drawn, *inputs)

  def sandwich_means(drawn, params, batch, key):
    first, answer = accumulated(drawn_from.largest, params, batch, key)
    if drawn_from.inplace_distillation:
      batch = task.imitate(batch, jax.lax.stop_gradient(answer))
    inputs = params, batch, key
    last, _ = accumulated(drawn_from.smallest, *inputs)
    layers = first, drawn_means(drawn, *inputs), last
    return jax.tree.map(lambda *x: sum(x) / len(x), *layers)

  def step(
    state: TrainState, batch: Batch, constants: Any
  ) -> tuple[TrainState, Metrics]:
    dial_key, batch_key, dropout_key = step_keys(seed, state.step)
    batch = device_ops(batch)
    batch = task.prepare(batch, batch_key, constants, parallel)
    drawn = drawn_from.draw(dial_key, state.step)
    key = jax.random.fold_in(dropout_key, parallel.index())
    trained = sandwich_means if drawn_from.sandwich else drawn_means
    grads, metrics = parallel.mean(trained(drawn, state.params, batch, key))

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, metrics = task.after_step(
      state.params, params, metrics, jax.random.fold_in(batch_key, 1)
    )
    metrics |= {
      "grad_norm": optax.tree.norm(grads),
      "update_norm": optax.tree.norm(updates),
      "param_norm": optax.tree.norm(params),
      "setting": drawn,
    }
    ema = state.ema
    if ema_decay is not None:
      ema = optax.incremental_update(params, ema, 1 - ema_decay)
    state = TrainState(state.step + 1, params, opt_state, ema)
    return state, metrics

  return step


def _hold(params: jax.Array, stays: np.ndarray) -> jax.Array:
  """Returns the parameters, without a gradient for frozen ones."""
  if not stays.any():
    return params
  held = jax.lax.stop_gradient(params)
  return held if stays.all() else jnp.where(stays, held, params)


def host_branches(
  drawn_from: dials.Dials, seed: int, first_step: int, block: int = 1024
) -> Iterator[int]:
  """Yields the branches that the steps from `first_step` on draw.

  They are computed `block` at a time, so that the host does not wait for a
  device at every step.
  """

  @jax.jit
  def draw(steps):
    drawn = jax.vmap(lambda s: drawn_from.draw(step_keys(seed, s)[0], s))(steps)
    return drawn_from.branch_index(drawn)

  for start in itertools.count(first_step, block):
    steps = jax.device_put(np.arange(start, start + block, dtype=np.int32))
    yield from jax.device_get(draw(steps)).tolist()


def compile_steps(
  task: "tasks.Task",
  optimizer: optax.GradientTransformation,
  drawn_from: dials.Dials,
  parallel: Parallel,
  state: TrainState,
  batch: Batch,
  constants: Any,
  *,
  first_step: int,
  seed: int,
  dispatch: str,
  say: Callable[[str], None] = lambda text: None,
  compiling: Callable[[], contextlib.AbstractContextManager] = (
    contextlib.nullcontext
  ),
  **options: Any,
) -> Step:
  """Compiles the step ahead of time, the programs of "host" in parallel.

  Args:
    task: as in `make_train_step`.
    optimizer: as in `make_train_step`.
    drawn_from: as in `make_train_step`.
    parallel: as in `make_train_step`.
    state: on the devices.
    batch: on the devices; only shapes and placement matter.
    constants: those of the task, on the devices; passed to every step.
    first_step: steps done already.
    seed: as in `make_train_step`.
    dispatch: "switch" or "host".
    say: called with messages about progress and the remaining time.
    compiling: returns the context for a step that compiles its program, if
      programs cannot be compiled ahead.
    **options: the other arguments of `make_train_step`.

  Returns:
    A function of (state, batch) to be called once for each step, in order. It
    donates the state's buffers.
  """
  ahead = parallel.compiles_ahead
  built, dearest = [None], None
  if dispatch == "host":
    built = list(range(len(drawn_from.branches)))
    dearest = max(built, key=lambda i: drawn_from.cost(drawn_from.branches[i]))
  make = functools.partial(make_train_step, seed=seed, **options)

  def lower_dearest(task: "tasks.Task") -> jax.stages.Lowered:
    step = make(task, optimizer, drawn_from, parallel, branch=dearest)
    return parallel.lower_program(step, state, batch, constants, donate=True)

  task = remat.choose(task, lower_dearest, say)

  def lower(branch: int | None) -> Callable[[], Step]:
    step = make(task, optimizer, drawn_from, parallel, branch=branch)
    build = parallel.lower(step, state, batch, constants, donate=True)
    return build if ahead else lambda: _first_within(compiling, build())

  programs = terminal.counted(len(built), "program")
  settings = terminal.counted(len(drawn_from.settings), "setting")
  say(
    f"Compiling {programs} for {settings} "
    f"(dispatch={dispatch}){'' if ahead else ', each at its first step'}"
  )
  # More threads than cores gain nothing, and make the time left unpredictable.
  workers = min(len(built), os.cpu_count() or 1)
  start = time.perf_counter()

  def say_compiled(done: int) -> None:
    seconds = time.perf_counter() - start
    left = seconds / max(done, workers) * (len(built) - done)
    if ahead:
      say(
        f"Compiled {done}/{len(built)} in {seconds:.1f} s"
        + f", about {left:.0f} s left" * (done < len(built))
      )

  pool = concurrent.futures.ThreadPoolExecutor(workers)
  try:
    # Traced in this thread, since JAX's settings are per thread; compiled in
    # others, so that a signal need not wait.
    futures = [pool.submit(lower(branch)) for branch in built]
    completed = concurrent.futures.as_completed(futures)
    for done, future in enumerate(completed, 1):
      future.result()
      say_compiled(done)
  finally:  # An error or a signal does not wait for the other programs.
    pool.shutdown(wait=False, cancel_futures=True)
  programs = [future.result() for future in futures]
  if dispatch == "switch":
    return lambda state, batch: programs[0](state, batch, constants)
  branches = host_branches(drawn_from, seed, first_step)
  return lambda state, batch: programs[next(branches)](state, batch, constants)


def _first_within(
  context: Callable[[], contextlib.AbstractContextManager], step: Step
) -> Step:
  """Returns a step whose first call runs to its end within a context."""
  called = []

  def run(*arguments: Any) -> Any:
    if called:
      return step(*arguments)
    called.append(True)
    with context():
      return jax.block_until_ready(step(*arguments))

  return run
