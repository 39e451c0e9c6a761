"""Whether a latency budget is kept, and how far the dials reach.

For budgets between what the cheapest and the dearest setting cost, `predict`
chooses a setting, and 200 calls of it are timed: whole calls with arrays of the
model's size.
"""

import statistics
import time
from typing import Any

import jax
import numpy as np

from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.inference import Predictor, Trained


def make(
  variant: str, image_size: int, patch_sizes: Any, numbers: Any, dtype: str
) -> Predictor:
  """Returns a predictor of random weights, each setting worth its cost."""
  depth = models.create(variant=variant).depth
  section = dict(
    variant=variant,
    num_classes=1000,
    dtype=dtype,
    token_learner=dict(layer=depth // 2, num_tokens=max(numbers)),
  )
  shape = image_size, image_size, 3
  model = models.create(**section)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, *shape), "f4"))
  settings = [
    dials.Setting((size, size), number)
    for size in patch_sizes
    for number in (*numbers, "all")
  ]
  rows = [
    {**setting.row, "accuracy": i / len(settings)}
    for i, setting in enumerate(settings)
  ]
  return Predictor(
    Trained(
      params=jax.device_get(params["params"]),
      model_section=section,
      pp="decode|value_range(-1,1)",
      image_shape=shape,
      loss="softmax_xent",
      settings=tuple(settings),
      class_names=None,
      recorded=tuple(rows),
    )
  )


def compare(
  predictor: Predictor, batch_size: int, calls: int, repeats: int
) -> list[dict[str, Any]]:
  """Times calls under budgets.

  Returns:
    A row for each budget: `median_ms` of the calls, and `of_budget`, its share
    of the budget; `reach`, the dearest setting's time over the cheapest's.
  """
  rows = predictor.profile(batch_size=batch_size, repeats=repeats)
  reach = max(r["forward_ms"] for r in rows) / min(
    r["forward_ms"] for r in rows
  )
  times = sorted(row["latency_ms_p90"] for row in rows)
  shape = batch_size, *predictor.trained.image_shape
  images = np.zeros(shape, np.uint8)
  found = []
  for budget in (times[0], times[len(times) // 2], times[-1]):
    ms = []
    for _ in range(calls):
      start = time.perf_counter()
      prediction = predictor.predict(images, budget_ms=budget)[0]
      ms.append(1e3 * (time.perf_counter() - start))
    found.append(
      {
        "images": batch_size,
        "budget_ms": budget,
        "setting": prediction.setting.name,
        "median_ms": statistics.median(ms),
        "of_budget": statistics.median(ms) / budget,
        "reach": reach,
      }
    )
  return found


def run(quick: bool) -> list[dict[str, Any]]:
  """Measures one image at a time, and eight."""
  if quick:
    return compare(make("mu", 60, (30, 20), (2,), "float32"), 1, 2, 1)
  on_cpu = jax.default_backend() == "cpu"
  predictor = (
    make("S", 240, (48, 24, 16), (16, 8), "float32")
    if on_cpu
    else make("B", 240, (48, 30, 24, 16, 8), (16, 8), "bfloat16")
  )
  return [
    row
    for number in ((1,) if on_cpu else (1, 8))
    for row in compare(predictor, number, 200, 20)
  ]
