"""Programs that the compilers of TPUs and GPUs make, against a stock ViT's.

  python -m benchmarks --suite=accelerators
  python -m benchmarks.accelerators --chips=v5e --variants=S --out=rows.jsonl

No device is needed: `pip install 'tokenlearner_flexivit[tpu,cuda]'` brings the
compilers, and a chip whose compiler is missing is left out with a message. What
they count are facts of the program, not times. Bytes are those that operations
read and write, with the on-chip memory's; a loop counts once, so rows of scan
have none. `--out` keeps each row at once, and the same command goes on.
"""

import argparse
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks import steps, stock
from tokenlearner_flexivit import models, terminal
from tokenlearner_flexivit.models import variants
from tokenlearner_flexivit.parallel import compiled, topologies

TOPOLOGIES = {"v5e": "v5e:2x2", "h200": "h200:1"}
PATCH_SIZES = (48, 30, 16, 8)
IMAGE_SIZE = 240
# Compiled in this order, since each is compared with the stock model's.
MODELS = ("stock", "big_vision", "ours", "ours, scan", "ours, 8 tokens")


def batch_size(chip: str, patch_size: int) -> int:
  """Returns images per chip: fewer where a TPU could not hold the stock ViT."""
  return 16 if chip == "v5e" and patch_size == 8 else 64


def build(name: str, variant: str, patch_size: int) -> tuple[Any, Any]:
  """Returns a model in bfloat16 as (params, images) -> logits, and its init."""
  size = variants.decode_variant(variant)
  if name in ("stock", "big_vision"):
    model = stock.StockViT(
      steps.NUM_CLASSES,
      *(size[key] for key in ("width", "depth", "mlp_dim", "num_heads")),
      patch_size=(patch_size, patch_size),
      dtype=jnp.bfloat16,
      float32_stream=name == "big_vision",
    )
    return model.apply, model.init
  learner = dict(layer=size["depth"] // 2, num_tokens=8)
  model = models.ViT.from_variant(
    variant,
    num_classes=steps.NUM_CLASSES,
    dtype="bfloat16",
    scan=name == "ours, scan",
    token_learner=learner if name == "ours, 8 tokens" else None,
  )

  def apply(params, images):
    return model.apply(params, images, patch_size=patch_size)[0]

  return apply, model.init


def lower(
  topology: topologies.Topology,
  name: str,
  program: str,
  variant: str,
  patch_size: int,
  num_images: int,
) -> jax.stages.Lowered:
  """Returns a forward pass or a training step, lowered for one chip."""
  apply, init = build(name, variant, patch_size)
  shape = (num_images, IMAGE_SIZE, IMAGE_SIZE, 3)
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  params = jax.eval_shape(init, jax.random.key(0), images)
  forward, train = steps.make_jitted(apply, steps.OPTIMIZER)
  sharding = SingleDeviceSharding(topology.devices[0])

  def on_chip(tree):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  if program == "forward":
    return forward.lower(on_chip(params), on_chip(images))
  state = params, jax.eval_shape(steps.OPTIMIZER.init, params)
  labels = jax.ShapeDtypeStruct((num_images,), jnp.int32)
  return train.lower(*on_chip((state, images, labels)))


def compile_row(topology: topologies.Topology, **cell: Any) -> dict[str, Any]:
  """Returns what the compiler says of one program."""
  program = compiled.compile_for(topology, lower(topology, **cell))
  loops = "scan" in cell["name"]
  return {
    "chip": topology.chip.title,
    **cell,
    "fits": program.fits,
    "memory_gib": program.memory and program.memory / 2**30,
    "traffic_gb": program.traffic
    and (None if loops else program.traffic / 1e9),
    "compile_s": program.seconds,
    "kernels": program.kernels,
  }


def cells(
  chips: list[str],
  sizes: list[str],
  patch_sizes: list[int],
  names: list[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields a chip and the arguments of `lower`, in the order to compile."""
  for chip, variant, patch_size, program, name in itertools.product(
    chips, sizes, patch_sizes, ("forward", "train"), names
  ):
    yield (
      chip,
      dict(
        name=name,
        program=program,
        variant=variant,
        patch_size=patch_size,
        num_images=batch_size(chip, patch_size),
      ),
    )


def available(chips: list[str]) -> dict[str, topologies.Topology]:
  """Returns the topologies whose compilers are installed; tells of others."""
  result = {}
  for chip in chips:
    try:
      result[chip] = topologies.create(TOPOLOGIES[chip])
    except ValueError as error:
      terminal.say(f"Left out: {error}")
  return result


def measure(
  chips: list[str],
  sizes: list[str],
  patch_sizes: list[int],
  names: list[str],
  path: pathlib.Path | None = None,
) -> list[dict[str, Any]]:
  """Returns a row for each program.

  Args:
    chips: of `TOPOLOGIES`.
    sizes: variants of ViT.
    patch_sizes: in pixels.
    names: of `MODELS`.
    path: of rows that are there already, which new ones are appended to.
  """
  rows = []
  if path is not None and path.exists():
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
  topology = available(chips)
  todo = []
  for chip, cell in cells(list(topology), sizes, patch_sizes, names):
    known = {"chip": topology[chip].chip.title, **cell}
    if not any(known.items() <= row.items() for row in rows):
      todo.append((chip, cell))
  start = time.perf_counter()
  for done, (chip, cell) in enumerate(todo):
    left = ""
    if done:
      seconds = (time.perf_counter() - start) / done * (len(todo) - done)
      left = f", about {seconds:.0f} s left"
    terminal.say(f"Program {done + 1} of {len(todo)}{left}: {chip}, {cell}")
    rows.append(compile_row(topology[chip], **cell))
    if path is not None:
      with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rows[-1]) + "\n")
  return rows


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns a row per program of ours, as ratios to the stock models'."""
  keys = ("chip", "program", "variant", "patch_size", "num_images")
  table = {(*(row[k] for k in keys), row["name"]): row for row in rows}
  result = []
  for row in rows:
    cell = tuple(row[key] for key in keys)
    if (*cell, "stock") not in table or row["name"] == "stock":
      continue
    line = dict(zip(keys, cell, strict=True)) | {"model": row["name"]}
    for other, columns in (
      ("stock", ("traffic_gb", "memory_gib", "compile_s")),
      ("big_vision", ("traffic_gb", "memory_gib")),
      ("ours", ("traffic_gb", "memory_gib")),
    ):
      base = table.get((*cell, other))
      for column in columns:
        if base and base is not row and row[column] and base[column]:
          line[f"{column.split('_')[0]}/{other}"] = row[column] / base[column]
    line |= {
      "memory, GiB": row["memory_gib"],
      "kernels": ", ".join(f"{n} {k}" for k, n in row["kernels"].items()),
    }
    result.append(line)
  return result


def run(quick: bool) -> list[dict[str, Any]]:
  """Returns `compare` of all programs; with `quick` of a few small ones."""
  if quick:
    rows = measure(["h200"], ["mu"], [16], ["stock", "ours"])
  else:
    rows = measure(
      list(TOPOLOGIES), ["S", "B"], list(PATCH_SIZES), list(MODELS)
    )
  return compare(rows)


def main():
  """Compiles some of the programs and prints a row for each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--chips", default=",".join(TOPOLOGIES))
  parser.add_argument("--variants", default="S,B")
  parser.add_argument("--patch_sizes", default=",".join(map(str, PATCH_SIZES)))
  parser.add_argument("--models", default=";".join(MODELS), help="joined by ;")
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  for name in args.chips.split(","):
    if name not in TOPOLOGIES:
      parser.error(f"--chips: {name!r} is none of {', '.join(TOPOLOGIES)}")
  jax.config.update("jax_platforms", "cpu")  # Wheels look for their devices.
  rows = measure(
    args.chips.split(","),
    args.variants.split(","),
    [int(size) for size in args.patch_sizes.split(",")],
    args.models.split(";"),
    args.out,
  )
  for row in compare(rows):
    json.dump(row, sys.stdout)
    print()


if __name__ == "__main__":
  main()
