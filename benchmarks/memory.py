"""Peak memory of a training step: donation, remat, TokenLearner.

XLA's analysis of the compiled program, for one device. Nothing runs, so any
size fits.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import steps
from tokenlearner_flexivit import models


def analyse(
  variant: str,
  patch_size: int,
  *,
  image_size: int = 240,
  batch_size: int = 8,
  dtype: str = "float32",
  donate: bool = True,
  **arguments: Any,
) -> float:
  """Returns the peak memory in GiB of a training step.

  Arguments, results that no argument is reused for, and all that lives in
  between.

  Args:
    variant: of the model.
    patch_size: in pixels.
    image_size: in pixels.
    batch_size: per device.
    dtype: of the computation.
    donate: whether the state's buffers are reused.
    **arguments: of the model, such as `remat`.
  """
  model = models.ViT.from_variant(
    variant, num_classes=steps.NUM_CLASSES, dtype=dtype, **arguments
  )
  optimizer = optax.adamw(1e-4)
  images = jax.ShapeDtypeStruct(
    (batch_size, image_size, image_size, 3), jnp.float32
  )
  labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)
  state = (params, jax.eval_shape(optimizer.init, params))

  def apply(params, images):
    return model.apply(params, images, patch_size=patch_size)[0]

  _, step = steps.make_jitted(apply, optimizer, donate=donate)
  memory = step.lower(state, images, labels).compile().memory_analysis()
  total = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )
  return total / 2**30


def run(quick: bool) -> list[dict[str, Any]]:
  """Compares the options of one model, and each with the plain step."""
  variant, patch_size, batch_size = ("mu", 30, 2) if quick else ("S", 16, 8)
  dtype = "float32"
  if not quick and jax.default_backend() != "cpu":
    variant, batch_size, dtype = "B", 256, "bfloat16"
  depth = models.ViT.from_variant(variant).depth
  learner = dict(layer=depth // 2, num_tokens=8)
  options = {
    "plain": {},
    "not donated": dict(donate=False),
    "remat": dict(remat=True),
    "scan": dict(scan=True),
    "scan, remat": dict(scan=True, remat=True),
    "8 learned tokens": dict(token_learner=learner),
  }
  rows = [
    {
      "step": name,
      "gib": analyse(
        variant, patch_size, dtype=dtype, batch_size=batch_size, **option
      ),
    }
    for name, option in options.items()
  ]
  for row in rows:
    row["over_plain"] = row["gib"] / rows[0]["gib"]
  return rows
