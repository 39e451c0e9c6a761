"""Scaling over devices, and growth with image size, tokens and batch.

Devices: one training step on a global batch that stays the same, on 1, 2, 4
and 8 virtual devices of one CPU. These share the cores, so that the ideal is
the time of one device, and what is above it is what the program adds: work that
every device repeats, all-reduce, waiting. Each number of devices needs a
process of its own; the processes take turns.

Growth: forward time against image size (at one patch size), tokens (at one
image size) and batch size; the exponent fitted to it stands beside that of the
multiply-adds, by `models.cost`.
"""

import argparse
import inspect
import json
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import compilation, processes
from tokenlearner_flexivit import dials, models, parallel
from tokenlearner_flexivit.models import cost, timing
from tokenlearner_flexivit.train import step as train_step

NUM_CLASSES = 1000
DEVICES = (1, 2, 4, 8)


def zeros_like_result(function: Callable[..., Any], *args: Any) -> Any:
  """Returns zeros in the shapes of a function's result, without running it.

  Drawing parameters would take seconds, most of them to compile it.
  """
  shapes = jax.eval_shape(function, *args)
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def make_step(
  model: dict[str, Any],
  image_size: int,
  patch_size: int,
  batch_size: int,
) -> tuple[Callable[[], Any], float]:
  """Compiles the training step over all devices, as `compile_steps` does.

  Args:
    model: arguments of `ViT.from_variant`.
    image_size: in pixels.
    patch_size: in pixels.
    batch_size: over all devices.

  Returns:
    A function that does one step, and the operations of all devices together.
  """
  model = models.ViT.from_variant(num_classes=NUM_CLASSES, **model)
  optimizer = optax.adamw(1e-4)
  one = dials.Dials({"patch_size": dials.Dial(((patch_size, patch_size),))})
  images = np.zeros((batch_size, image_size, image_size, 3), np.float32)
  batch = {"image": images, "label": np.zeros(batch_size, np.int32)}
  devices = parallel.create()
  batch = devices.place_batch(batch)

  def create_state(key):
    params = model.init(key, images[:1])["params"]
    return train_step.create_state(params, optimizer, ema=False)

  state = zeros_like_result(create_state, jax.random.key(0))
  states = [devices.place(state)]
  step = train_step.make_train_step(
    compilation.Task(model), optimizer, one, devices, seed=0, branch=0
  )
  program = devices.compile(step, states[0], batch, (), donate=True)

  def call():
    states[0], metrics = program(states[0], batch, ())
    return metrics

  # XLA counts the program of one device.
  operations = inspect.unwrap(program).cost_analysis()["flops"]
  return call, operations * jax.device_count()


def serve(arguments: dict[str, Any], steps: int) -> None:
  """Compiles the steps, then measures one for each line of the input.

  Args:
    arguments: of `make_step`.
    steps: whose mean is taken.
  """
  call, operations = make_step(**arguments)
  processes.serve(operations, {"step": call}, steps)


def scale_devices(
  counts: tuple[int, ...],
  rounds: int,
  steps: int,
  optimize: bool = True,
  **arguments: Any,
) -> list[dict[str, Any]]:
  """Times steps by turns in one process per number of devices.

  Args:
    counts: the numbers of devices.
    rounds: how often each takes its turn.
    steps: in a turn.
    optimize: False compiles faster, and what is measured means nothing.
    **arguments: of `make_step`.
  """
  command = ["-m", "benchmarks.scaling", f"--steps={steps}"]
  command += [f"--arguments={json.dumps(arguments)}"]
  command += [] if optimize else ["--no-optimize"]
  workers = {n: ([*command, f"--devices={n}"], {}) for n in counts}
  with processes.started(workers) as ask:
    operations = {count: ask(count) for count in counts}
    seconds = {count: [] for count in counts}
    for _ in range(rounds):
      for count in seconds:
        seconds[count].append(ask(count, "step"))
  return [
    {
      "what": "training step",
      "from": counts[0],
      "to": count,
      "ms": 1e3 * statistics.median(times),
      "law": "time over one device's",
      "measured": timing.ratio(times, seconds[counts[0]]),
      "expected": operations[count] / operations[counts[0]],
    }
    for count, times in seconds.items()
  ]


def exponent(x: list[float], y: list[float]) -> float:
  """Returns the power of x that y grows with, fitted to their logarithms."""
  return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def grow(
  what: str,
  model: models.ViT,
  calls: dict[int, tuple[int, int, int]],
  rounds: int,
) -> dict[str, Any]:
  """Fits how the forward time grows.

  Args:
    what: grows.
    model: a ViT.
    calls: image size, patch size and batch size by the growing quantity.
    rounds: how often each takes its turn.
  """
  key, image = jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)
  params = jax.device_put(zeros_like_result(model.init, key, image))
  programs, macs = {}, []
  for x, (image_size, patch_size, batch_size) in calls.items():
    shape = (image_size, image_size, 3)
    images = jnp.zeros((batch_size, *shape))

    def apply(params, images, patch_size=patch_size):
      return model.apply(params, images, patch_size=patch_size)[0]

    compiled = jax.jit(apply).lower(params, images).compile()
    programs[x] = lambda call=compiled, images=images: call(params, images)
    macs.append(batch_size * cost.macs(model, shape, patch_size))
  seconds = timing.by_turns(programs, rounds)
  medians = [statistics.median(times) for times in seconds.values()]
  points = list(calls)
  return {
    "what": f"forward pass by {what}",
    "from": points[0],
    "to": points[-1],
    "ms": 1e3 * medians[-1],
    "law": "exponent",
    "measured": exponent(points, medians),
    "expected": exponent(points, macs),
  }


def run(quick: bool) -> list[dict[str, Any]]:
  """Measures both.

  Returns:
    Rows with the smallest and the largest value of what varies, the time at
    the largest, and the measured beside the expected number: for devices the
    ratio of times and that of XLA's operations, all devices together; for
    growth the exponents of the time and of the multiply-adds.
  """
  arguments = dict(variant="mu") if quick else dict(variant="Ti", depth=4)
  rounds = 1 if quick else 7
  rows = scale_devices(
    DEVICES[:2] if quick else DEVICES,
    rounds=rounds,
    steps=1 if quick else 2,
    optimize=not quick,
    model=arguments,
    image_size=32 if quick else 120,
    patch_size=16 if quick else 15,
    batch_size=8 if quick else 32,
  )
  model = models.ViT.from_variant(num_classes=NUM_CLASSES, **arguments)
  side = 32 if quick else 240
  images = (16, 32) if quick else (96, 144, 192, 240, 336, 480)
  patches = (16, 8) if quick else (48, 30, 24, 20, 16, 12, 10)
  batches = (1, 2) if quick else (1, 2, 4, 8, 16)
  middle, few = (8, 1) if quick else (16, 4)
  axes = {
    "image size": {n: (n, middle, few) for n in images},
    "tokens": {(side // p) ** 2: (side, p, few) for p in patches},
    "batch size": {n: (side, middle, n) for n in batches},
  }
  return rows + [grow(what, model, axes[what], rounds) for what in axes]


def main():
  """Serves one number of devices; see `serve`."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--devices", type=int, required=True)
  parser.add_argument("--steps", type=int, required=True)
  parser.add_argument("--arguments", type=json.loads, required=True)
  parser.add_argument(
    "--optimize", action=argparse.BooleanOptionalAction, default=True
  )
  args = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", args.devices)
  jax.config.update("jax_disable_most_optimizations", not args.optimize)
  serve(args.arguments, args.steps)


if __name__ == "__main__":
  main()
