"""Measures what assigning boxes to predictions adds to a training step.

It is a loop over the places for boxes; in each, predictions are searched again
and again until one is free. The searches of an image follow one another, so
that their number matters most to accelerators. On CPU the time is measured
beside a whole step, by turns. TPUs' compilers, where installed, estimate the
cycles of both.
"""

import collections
import functools
import re
import statistics
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import accelerators, drawn_step
from tokenlearner_flexivit import dials, parallel, tasks
from tokenlearner_flexivit.data import vocabulary
from tokenlearner_flexivit.models import detection_heads, timing
from tokenlearner_flexivit.parallel import topologies
from tokenlearner_flexivit.tasks import matching
from tokenlearner_flexivit.train import step as train_step

_CLASSES = 80
_CHIPS = ("v5e",)


def compare(
  variant: str,
  patch_size: int,
  *,
  image_size: int,
  places: int,
  true_boxes: Sequence[int],
  batch_size: int,
  rounds: int,
) -> list[dict[str, Any]]:
  """Times matching and training step of an OWL-ViT by turns.

  Args:
    variant: of both towers, such as "B".
    patch_size: in pixels.
    image_size: in pixels.
    places: for boxes of an image.
    true_boxes: of an image, a row for each number.
    batch_size: images of a step.
    rounds: the median of so many.

  Returns:
    `searches` of an image, and as they would be if padding cost the same at
    every prediction; medians in milliseconds; `share` of the step.
  """
  task = _task(variant)
  shape = image_size, image_size, 3
  params = task.init(jax.random.key(0), shape)
  drawn_from = _drawn_from(patch_size)
  rows = []
  for number in true_boxes:
    batch = _batch(shape, batch_size, places, number)
    step, _ = drawn_step.make(task, params, batch, drawn_from)
    on_device = jax.tree.map(jnp.asarray, batch)
    targets = task.prepare(on_device, jax.random.key(0))
    is_real = matching.is_there(targets["classes"])
    cost = _costs(targets, image_size // patch_size)
    assign = jax.jit(jax.vmap(matching.assign))
    seconds = timing.by_turns(
      {"matching": functools.partial(assign, cost, is_real), "step": step},
      rounds,
    )
    rows.append(
      {
        "model": f"{variant}/{patch_size}, {image_size} px",
        "predictions": cost.shape[1],
        "places": places,
        "true boxes": number,
        "searches": num_searches(cost[0], is_real[0]),
        "if padding cost the same": num_searches(
          cost[0], jnp.ones(places, bool)
        ),
        "matching ms": 1e3 * statistics.median(seconds["matching"]),
        "step ms": 1e3 * statistics.median(seconds["step"]),
        "share": timing.ratio(seconds["matching"], seconds["step"]),
      }
    )
  return rows


def num_searches(cost: jax.Array, is_real: jax.Array) -> int:
  """Returns how often the assignment of an image searches its predictions."""
  module = sys.modules[optax.assignment.hungarian_algorithm.__module__]
  with (
    jax.disable_jit(),
    mock.patch.object(
      module, "_masked_argmin", wraps=module._masked_argmin
    ) as search,
  ):
    matching.assign(cost, is_real)
  return search.call_count


def compile_for(
  topology: topologies.Topology,
  variant: str,
  patch_size: int,
  *,
  image_size: int,
  places: int,
  batch_size: int,
  searches: int,
) -> dict[str, Any]:
  """Returns the cycles of matching and of a training step, by a TPU's compiler.

  Args:
    topology: of the chip.
    variant: of both towers, such as "B".
    patch_size: in pixels.
    image_size: in pixels.
    places: for boxes of an image.
    batch_size: images of a step.
    searches: of an image, see `compare`.
  """
  task = _task(variant, dtype="bfloat16")
  shape = image_size, image_size, 3
  batch = _batch(shape, 1, places, places)
  devices = parallel.create(devices=topology.devices[:1])

  def create_state(key):
    params = task.init(key, shape)
    return train_step.create_state(params, drawn_step.OPTIMIZER, ema=False)

  step = devices.lower_program(
    train_step.make_train_step(
      task,
      drawn_step.OPTIMIZER,
      _drawn_from(patch_size),
      devices,
      seed=0,
      branch=0,
    ),
    jax.eval_shape(create_state, jax.random.key(0)),
    devices.batch_shapes(
      {
        key: jax.ShapeDtypeStruct(value.shape[1:], value.dtype)
        for key, value in batch.items()
      },
      batch_size,
    ),
    (),
    donate=True,
  )
  on_chip = functools.partial(
    jax.ShapeDtypeStruct,
    sharding=jax.sharding.SingleDeviceSharding(topology.devices[0]),
  )
  predictions = (image_size // patch_size) ** 2
  match = jax.jit(jax.vmap(matching.assign)).lower(
    on_chip((batch_size, predictions, places), jnp.float32),
    on_chip((batch_size, places), bool),
  )
  trips = places, searches / places
  whole, matched = (
    _cycles(x.compile(topology.compiler_options).as_text(), trips)
    for x in (step, match)
  )
  return {
    "model": f"{variant}/{patch_size}, {image_size} px",
    "chip": topology.chip.title,
    "images": batch_size,
    "searches": searches,
    "matching Mcycles": matched / 1e6,
    "step Mcycles": whole / 1e6,
    "share": matched / whole,
  }


def _cycles(program: str, trips: Sequence[float]) -> float:
  """Returns the cycles that a TPU's compiler has estimated for a program.

  Args:
    program: its text.
    trips: how often a loop runs, by how many loops it is in.
  """
  own, loops = collections.Counter(), collections.defaultdict(list)
  name = entry = None
  for line in program.splitlines():
    if begin := re.match(r"(ENTRY )?(%[\w.\-]+) \(", line):
      name = begin[2]
      entry = name if begin[1] else entry
    if cycles := re.search(r'"estimated_cycles":"(\d+)"', line):
      own[name] += int(cycles[1])
    if body := re.search(r" while\(.*body=(%[\w.\-]+)", line):
      loops[name].append(body[1])

  def total(name: str, depth: int) -> float:
    inner = sum(total(body, depth + 1) for body in loops[name])
    return own[name] + (trips[depth] * inner if inner else 0)

  return total(entry, 0)


def _task(variant: str, **fields: Any) -> tasks.Task:
  names = [f"thing {i}" for i in range(_CLASSES)]
  section = {"name": "detection"}
  model_section = {"variant": variant, "text": {"variant": variant}, **fields}
  about = {
    "class_names": names,
    "vocabulary": vocabulary.from_captions(names).describe(),
  }
  model = tasks.TASKS["detection"].build_model(model_section, **about)
  return tasks.create(section, model=model, **about)


def _drawn_from(patch_size: int) -> dials.Dials:
  sizes = {"patch_size": {"values": (patch_size,)}}
  return dials.from_config(sizes, patch_size)[0]


def _batch(
  shape: tuple[int, ...], batch_size: int, places: int, number: int
) -> dict[str, np.ndarray]:
  """Returns noise with so many random boxes in each image."""
  rng = np.random.default_rng(0)
  sides = rng.uniform(0.02, 0.5, (batch_size, places, 2))
  low = rng.uniform(0, 1 - sides)
  label = rng.integers(0, _CLASSES, (batch_size, places))
  return {
    "image": rng.uniform(-1, 1, (batch_size, *shape)).astype(np.float32),
    "boxes": np.concatenate([low, low + sides], axis=2).astype(np.float32),
    "box_label": np.where(np.arange(places) < number, label, -1),
  }


def _costs(targets: dict[str, jax.Array], side: int) -> jax.Array:
  """Returns costs as training begins: one box at each patch of the grid."""
  rng = np.random.default_rng(0)
  count = len(targets["boxes"])
  boxes = jax.nn.sigmoid(detection_heads.box_bias((side, side)))[None]
  boxes += rng.normal(0, 0.01, (count, side**2, 4))
  logits = rng.normal(-4.6, 0.1, (count, side**2, _CLASSES))
  return jax.vmap(lambda *image: matching.costs(*image, matching.Weights()))(
    jnp.asarray(logits, jnp.float32),
    jnp.asarray(boxes, jnp.float32),
    targets["classes"],
    targets["boxes"],
  )


def run(quick: bool) -> list[dict[str, Any]]:
  """Matches up to 100 boxes of a B/16."""
  if quick:
    sizes = dict(image_size=48, places=6, batch_size=8)
    return compare("mu", 12, true_boxes=(2,), rounds=1, **sizes)
  rows = compare(
    "B",
    16,
    image_size=384,
    places=100,
    true_boxes=(7, 30, 100),
    batch_size=2,
    rounds=5,
  )
  return rows + [
    compile_for(
      topology,
      "B",
      16,
      image_size=384,
      places=100,
      batch_size=8,
      searches=max(row["searches"] for row in rows),
    )
    for topology in accelerators.available(list(_CHIPS)).values()
  ]
