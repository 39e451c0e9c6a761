"""How long until all patch sizes are compiled, and the first step is done.

Every way is measured in a new process, with the training step of a FlexiViT-S
at ten patch sizes, or of ten stock ViTs:

* stock: ten unrolled stock steps, one after the other;
* host: one program per size, compiled in parallel threads;
* switch: one program with a branch per size;
* each with `scan`, the blocks as one `lax.scan` over layers;
* and each again with the persistent cache that the first left behind (warm).

Importing and initialising do not count: they are the same for all.
"""

import argparse
import json
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import processes, steps, stock
from experiments.cost.published import PATCH_SIZES
from tokenlearner_flexivit import dials, models, parallel
from tokenlearner_flexivit.models import stacking, variants
from tokenlearner_flexivit.train import step as train_step

WAYS = ("stock", "host", "switch", "host scan", "switch scan")
IMAGE = (240, 240, 3)
OPTIMIZER = optax.adamw(1e-4)


class Task:
  """Softmax cross-entropy, without the input pipeline that tasks/ imports."""

  constants = ()

  def __init__(self, model: Any):
    """Takes a `models.ViT`."""
    self.model = model

  def prepare(self, batch, key, constants, *, axis_name=None):
    """Nothing to prepare."""
    del key, constants, axis_name
    return batch

  def loss(self, params, batch, key, setting):
    """Returns the mean loss, no metrics, and the logits."""
    logits, _ = self.model.apply(
      {"params": params},
      batch["image"],
      **setting._asdict(),
      train=True,
      rngs={"dropout": key},
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["label"]
    )
    return losses.mean(), ({}, logits)


def time_ours(variant: str, sizes, dispatch: str, scan: bool) -> float:
  """Returns the seconds from nothing compiled to the first step's end."""
  model = models.ViT.from_variant(
    variant, num_classes=steps.NUM_CLASSES, **({"scan": True} if scan else {})
  )
  drawn_from, dispatch = dials.from_config(
    {"patch_size": {"values": sizes}, "dispatch": dispatch}, sizes[0]
  )
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *IMAGE)))
  params = stacking.stack(params["params"], model.scanned_runs)
  state = train_step.create_state(params, OPTIMIZER, ema=False)
  devices = parallel.create()
  state = devices.place(state)
  batch = devices.place_batch(
    {
      "image": jnp.zeros((8, *IMAGE)),
      "label": jnp.zeros(8, jnp.int32),
    }
  )
  start = time.perf_counter()
  step = train_step.compile_steps(
    Task(model),
    OPTIMIZER,
    drawn_from,
    devices,
    state,
    batch,
    (),
    first_step=0,
    seed=0,
    dispatch=dispatch,
  )
  compiled = time.perf_counter() - start
  jax.block_until_ready(step(state, batch))
  return compiled


def time_stock(variant: str, sizes) -> float:
  """Returns the seconds to compile a stock training step for every size."""
  size = variants.decode_variant(variant)
  images, labels = jnp.zeros((8, *IMAGE)), jnp.zeros(8, jnp.int32)
  total = 0.0
  for patch_size in sizes:
    model = stock.StockViT(
      steps.NUM_CLASSES,
      *(size[name] for name in ("width", "depth", "mlp_dim", "num_heads")),
      patch_size=(patch_size, patch_size),
    )
    params = jax.jit(model.init)(jax.random.key(0), images[:1])
    _, train = steps.make_jitted(model.apply, OPTIMIZER)
    opt_state = jax.jit(OPTIMIZER.init)(params)
    start = time.perf_counter()
    train.lower((params, opt_state), images, labels).compile()
    total += time.perf_counter() - start
  return total


def measure(
  way: str, variant: str, sizes, cache: str | None
) -> dict[str, float]:
  """Runs one way in a new process.

  Args:
    way: one of `WAYS`.
    variant: of the model.
    sizes: patch sizes.
    cache: folder of the persistent cache; None for none.
  """
  arguments = ["-m", "benchmarks.compilation", f"--way={way}"]
  arguments += [f"--variant={variant}", f"--sizes={','.join(map(str, sizes))}"]
  if cache is not None:
    arguments.append(f"--cache={cache}")
  return processes.result_of(arguments)


def run(quick: bool) -> list[dict[str, Any]]:
  """Measures every way, cold and warm."""
  variant, sizes = ("mu", PATCH_SIZES[:2]) if quick else ("S", PATCH_SIZES)
  rows = []
  for way in WAYS:
    with tempfile.TemporaryDirectory() as cache:
      cold = measure(way, variant, sizes, cache)["seconds"]
      warm = measure(way, variant, sizes, cache)["seconds"]
    rows.append({"way": way, "cold_s": cold, "warm_s": warm})
  for row in rows:
    row["cold_over_stock"] = row["cold_s"] / rows[0]["cold_s"]
    row["warm_over_stock_cold"] = row["warm_s"] / rows[0]["cold_s"]
  return rows


def main():
  """Measures one way in this process; prints JSON."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--way", choices=WAYS, required=True)
  parser.add_argument("--variant", default="S")
  parser.add_argument("--sizes", default=",".join(map(str, PATCH_SIZES)))
  parser.add_argument("--cache")
  args = parser.parse_args()
  if args.cache:
    jax.config.update("jax_compilation_cache_dir", args.cache)
  sizes = tuple(map(int, args.sizes.split(",")))
  name, _, scan = args.way.partition(" ")
  if name == "stock":
    seconds = time_stock(args.variant, sizes)
  else:
    seconds = time_ours(args.variant, sizes, name, bool(scan))
  print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
  main()
