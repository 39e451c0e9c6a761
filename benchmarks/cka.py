"""Minibatch CKA between all layers and settings of one model, per image.

Each batch goes once through the model at every setting, and once through the
products that compare all representations. Both cost the same for each batch,
so the time of many images is that of one times their number; what is compiled
comes once on top. What lives at a time does not depend on the number either,
which is measured: the peak memory of few batches against that of more.
"""

import itertools
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import processes
from tokenlearner_flexivit import dials, models
from tokenlearner_flexivit.analysis import cka, similarity

# The goal: so many images in ten minutes.
IMAGES, LIMIT_S = 2000, 600.0


def make_sides(
  variant: str, patch_sizes: Any, num_tokens: Any, side: int
) -> dict[str, cka.Side]:
  """Returns a model with random weights at every setting of both dials."""
  depth = models.create(variant=variant).depth
  model = models.create(
    variant=variant,
    num_classes=1000,
    token_learner=dict(layer=depth // 2, num_tokens=max(num_tokens)),
  )
  shape = (1, side, side, 3)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros(shape, np.float32))
  settings = [
    dials.Setting((size, size), number)
    for size in patch_sizes
    for number in (*num_tokens, "all")
  ]
  # After each block, so as many as it has.
  names = [f"encoder/block{i:02d}/+mlp" for i in range(depth)]
  return similarity.sides_at(model, params["params"], settings, names)


def measure(
  *, batch_size: int, batches: int, side: int, **settings: Any
) -> dict[str, Any]:
  """Times CKA, in this process, after a first batch that compiles.

  Args:
    batch_size: images of a batch.
    batches: two or more.
    side: of the images in pixels.
    **settings: see `make_sides`.

  Returns:
    `settings`, `representations`, `images`; `compile_s`, of the first batch
    with its run; `ms_per_image` of the others, the median over the batches; and
    `peak_gib`, see there.
  """
  sides = make_sides(side=side, **settings)
  rng, done = np.random.default_rng(0), []

  def images() -> Iterator[np.ndarray]:
    for _ in range(batches):
      yield rng.normal(size=(batch_size, side, side, 3)).astype(np.float32)

  start = time.perf_counter()
  _, labels = cka.cka(
    images(), sides, lambda _: done.append(time.perf_counter())
  )
  seconds = [b - a for a, b in itertools.pairwise(done)]
  return {
    "settings": len(sides),
    "representations": len(labels),
    "images": batches * batch_size,
    "compile_s": done[0] - start,
    "ms_per_image": 1e3 * statistics.median(seconds) / batch_size,
    "peak_gib": peak_gib(),
  }


def peak_gib() -> float:
  """Returns the most memory that was in use: of the process, or the device."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"] / 2**30
  return processes.peak_bytes() / 2**30


def run(quick: bool) -> list[dict[str, Any]]:
  """Measures few batches and four times as many, each in a process of its own.

  `of_goal_s` is what the goal's images would take: not run, but computed from
  the time of one.
  """
  settings: dict[str, Any] = dict(
    variant="S", patch_sizes=(32, 24, 16, 12, 8), num_tokens=(8,), side=96
  )
  size, few = 50, 2
  if quick:
    settings |= dict(variant="mu", patch_sizes=(24, 16), side=48)
    size = 4
  rows = []
  # A peak never falls, so each number of batches has a process of its own.
  for batches in (few, 4 * few):
    arguments = dict(settings, batch_size=size, batches=batches)
    found = processes.result_of(["-m", "benchmarks.cka", json.dumps(arguments)])
    seconds = found["compile_s"] + IMAGES * found["ms_per_image"] / 1e3
    first = rows[0]["peak_gib"] if rows else found["peak_gib"]
    rows.append(
      {
        "model": settings["variant"],
        **found,
        "of_goal_s": seconds,
        "of_limit": seconds / LIMIT_S,
        "peak_over_few": found["peak_gib"] / first,
      }
    )
  return rows


if __name__ == "__main__":
  processes.answer_once(measure)
