"""Forward pass and training step per patch size, against the stock ViT.

The stock model has one patch size and its own kernel; ours resizes a 32x32
kernel and a 7x7 position embedding in the same step. Both train with softmax
cross-entropy and optax.adamw, parameters and optimizer state donated. The limit
is what our matrix products take alone, each measured at its own shape.
"""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import products, stock
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost, timing, variants

NUM_CLASSES = 1000
OPTIMIZER = optax.adamw(1e-4)


def make_batch(batch_size: int, image_size: int) -> tuple[jax.Array, jax.Array]:
  """Returns images [B, H, W, 3] and labels [B] of noise."""
  key = jax.random.key(0)
  shape = (batch_size, image_size, image_size, 3)
  labels = jax.random.randint(key, (batch_size,), 0, NUM_CLASSES)
  return jax.random.normal(key, shape), labels


def make_jitted(
  apply: Any, optimizer: Any, donate: bool = True
) -> tuple[Any, Any]:
  """Returns the jitted forward pass and training step of a model.

  Args:
    apply: (params, images) -> logits.
    optimizer: of optax.
    donate: whether the step may reuse the state's buffers.
  """

  def loss(params, images, labels):
    logits = apply(params, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()

  def step(state, images, labels):
    params, opt_state = state
    grads = jax.grad(loss)(params, images, labels)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  return jax.jit(apply), jax.jit(step, donate_argnums=(0,) if donate else ())


def make_programs(
  apply: Any, params: Any, images: jax.Array, labels: jax.Array
) -> dict[str, Any]:
  """Returns functions without arguments: a forward pass, a training step.

  Args:
    apply: (params, images) -> logits.
    params: copied, so that what is donated belongs to the step alone.
    images: [B, H, W, 3].
    labels: int [B].
  """
  forward, step = make_jitted(apply, OPTIMIZER)
  own = jax.tree.map(jnp.copy, params)
  states = [(own, jax.jit(OPTIMIZER.init)(own))]

  def train():
    states[0] = step(states[0], images, labels)
    return states[0]

  return {"forward": lambda: forward(params, images), "train": train}


def programs_of(
  model: models.ViT,
  images: jax.Array,
  labels: jax.Array,
  patch_size: int | None = None,
) -> dict[str, Any]:
  """Returns `make_programs` of a model with random weights at a patch size."""
  apply, params = with_weights(model, images, patch_size)
  return make_programs(apply, params, images, labels)


def with_weights(
  model: models.ViT, images: jax.Array, patch_size: int | None = None
) -> tuple[Any, Any]:
  """Returns a model at a patch size as (params, images) -> logits, and params.

  Args:
    model: the model.
    images: [B, H, W, 3].
    patch_size: in pixels; None for the model's own.
  """
  params = jax.jit(model.init)(jax.random.key(0), images[:1])

  def apply(params, images):
    return model.apply(params, images, patch_size=patch_size)[0]

  return apply, params


def measure_limits(
  apply: Any, params: Any, images: jax.Array, labels: jax.Array, rounds: int
) -> dict[str, float]:
  """Returns the seconds that the products of both programs take alone."""
  forward, step = make_jitted(apply, OPTIMIZER)
  state = params, jax.eval_shape(OPTIMIZER.init, params)
  found = {
    "forward": products.find(forward, params, images),
    "train": products.find(step, state, images, labels),
  }
  return {what: products.seconds(f, rounds) for what, f in found.items()}


def compare(
  variant: str,
  patch_size: int,
  *,
  image_size: int = 240,
  batch_size: int = 8,
  dtype: str = "float32",
  rounds: int = 5,
  peak_size: int = 2048,
) -> dict[str, Any]:
  """Times both models at one patch size, by turns.

  Returns:
    Medians in milliseconds; ratios stock over ours (above 1: ours is faster);
    the limit (see the module); and the share of `products.peak_flops` that ours
    reaches, which is the MFU of a measured peak.
  """
  key = jax.random.key(0)
  shape = (image_size, image_size, 3)
  images, labels = make_batch(batch_size, image_size)
  ours = models.ViT.from_variant(variant, num_classes=NUM_CLASSES, dtype=dtype)
  size = variants.decode_variant(variant)
  plain = stock.StockViT(
    NUM_CLASSES,
    *(size[name] for name in ("width", "depth", "mlp_dim", "num_heads")),
    patch_size=(patch_size, patch_size),
    dtype=jnp.dtype(dtype),
  )
  both = {
    "ours": with_weights(ours, images, patch_size),
    "stock": (plain.apply, jax.jit(plain.init)(key, images[:1])),
  }
  programs = {
    f"{name} {what}": run
    for name, applied in both.items()
    for what, run in make_programs(*applied, images, labels).items()
  }
  limits = measure_limits(*both["ours"], images, labels, rounds)
  peak = products.peak_flops(dtype, peak_size)
  seconds = timing.by_turns(programs, rounds)
  gmacs = cost.macs(ours, shape, (patch_size, patch_size)) / 1e9
  row = {"variant": variant, "patch_size": patch_size, "gmacs": gmacs}
  # The backward pass has two products for each of the forward pass.
  for what, passes in (("forward", 1), ("train", 3)):
    times = {n: seconds[f"{n} {what}"] for n in ("ours", "stock")}
    ours_s = statistics.median(times["ours"])
    row |= {
      f"{what}_ms": 1e3 * ours_s,
      f"{what}_limit_ms": 1e3 * limits[what],
      f"{what}_stock_ms": 1e3 * statistics.median(times["stock"]),
      f"{what}_speedup": timing.ratio(times["stock"], times["ours"]),
      f"{what}_of_peak": passes * 2e9 * gmacs * batch_size / ours_s / peak,
    }
  return row


def run(quick: bool) -> list[dict[str, Any]]:
  """Compares both models; at large batches in bfloat16 on accelerators."""
  if quick:
    small = dict(image_size=60, batch_size=2, rounds=1, peak_size=64)
    return [compare("mu", 30, **small)]
  if jax.default_backend() == "cpu":
    rows = [compare("S", p, rounds=15) for p in (48, 30)]
    rows += [compare("S", 16), *(compare("B", p) for p in (48, 30))]
  else:
    rows = [
      compare(
        variant,
        p,
        batch_size=batch_size,
        dtype="bfloat16",
        rounds=20,
        peak_size=16384,
      )
      for variant, batch_size in (("B", 256), ("L", 128))
      for p in variants.FLEXIVIT_PATCH_SIZES
    ]
  mean = {"variant": "mean", "patch_size": "", "gmacs": ""}
  for name in rows[0]:
    if name.endswith("speedup"):
      mean[name] = statistics.geometric_mean(row[name] for row in rows)
    else:
      mean.setdefault(name, "")
  return [*rows, mean]
