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

import json
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import drawn_step, processes, steps, stock
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.models import stacking, variants

WAYS = ("stock", "host", "switch", "host scan", "switch scan")
IMAGE = (240, 240, 3)
OPTIMIZER = optax.adamw(1e-4)


class Task:
  """Softmax cross-entropy, without the input pipeline that tasks/ imports."""

  def __init__(self, model: Any):
    """Takes a `models.ViT`."""
    self.model = model

  def constants(self, devices):
    """Returns no constants."""
    del devices
    return ()

  def prepare(self, batch, key, constants, devices):
    """Returns nothing, because nothing is prepared."""
    del key, constants, devices
    return batch

  def loss(self, params, batch, key, setting, devices):
    """Returns the mean loss, no metrics, and the logits."""
    del devices
    logits, _ = self.model.apply(
      {"params": params},
      batch["image"],
      **setting,
      train=True,
      rngs={"dropout": key},
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["label"]
    )
    return losses.mean(), ({}, logits)

  def after_step(self, before, params, metrics, key):
    """Returns parameters and metrics as the optimizer leaves them."""
    del before, key
    return params, metrics


def time_ours(
  variant: str, sizes: Sequence[int], dispatch: str, scan: bool
) -> float:
  """Returns the seconds from nothing compiled to the first step's end."""
  model = models.ViT.from_variant(
    variant, num_classes=steps.NUM_CLASSES, **({"scan": True} if scan else {})
  )
  drawn_from, dispatch = dials.from_config(
    {"patch_size": {"values": sizes}, "dispatch": dispatch}, sizes[0]
  )
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *IMAGE)))
  params = stacking.stack(params["params"], model.scanned_runs)
  batch = {"image": jnp.zeros((8, *IMAGE)), "label": jnp.zeros(8, jnp.int32)}
  train, seconds = drawn_step.make(
    Task(model), params, batch, drawn_from, dispatch=dispatch
  )
  jax.block_until_ready(train())
  return seconds


def time_stock(variant: str, sizes: Sequence[int]) -> float:
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
  way: str, variant: str, sizes: Sequence[int], cache: str
) -> dict[str, float]:
  """Returns the seconds of one way, in this process.

  Args:
    way: one of `WAYS`.
    variant: of the model.
    sizes: patch sizes.
    cache: folder of the persistent cache.
  """
  jax.config.update("jax_compilation_cache_dir", cache)
  name, _, scan = way.partition(" ")
  if name == "stock":
    return {"seconds": time_stock(variant, sizes)}
  return {"seconds": time_ours(variant, sizes, name, bool(scan))}


def run(quick: bool) -> list[dict[str, Any]]:
  """Measures every way, cold and warm."""
  sizes = variants.FLEXIVIT_PATCH_SIZES[: 2 if quick else None]
  arguments = dict(variant="mu" if quick else "S", sizes=sizes)
  rows = []
  for way in WAYS:
    with tempfile.TemporaryDirectory() as cache:
      given = json.dumps(dict(arguments, way=way, cache=cache))
      cold, warm = (
        processes.result_of(["-m", "benchmarks.compilation", given])["seconds"]
        for _ in range(2)
      )
    rows.append({"way": way, "cold_s": cold, "warm_s": warm})
  for row in rows:
    row["cold_over_stock"] = row["cold_s"] / rows[0]["cold_s"]
    row["warm_over_stock_cold"] = row["warm_s"] / rows[0]["cold_s"]
  return rows


if __name__ == "__main__":
  processes.answer_once(measure)
