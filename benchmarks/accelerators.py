"""Programs that the compilers of TPUs and GPUs make, against a stock ViT's.

  python -m benchmarks --suite=accelerators
  python -m benchmarks.accelerators --chips=v5e --variants=S --out=rows.jsonl
  python -m benchmarks.accelerators --programs=host,switch --out=rows.jsonl

No device is needed: `pip install 'tokenlearner_flexivit[tpu,cuda]'` brings the
compilers, and a chip whose compiler is missing is left out with a message. What
they count are facts of the program, not times. Bytes are those that operations
read and write, with the on-chip memory's; a loop counts once, so rows of scan
have none. Seconds are the compiler's on all cores together. `--out` keeps each
row at once, and the same command goes on.
"""

import argparse
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks import compilation, steps, stock
from tokenlearner_flexivit import dials, models, parallel, terminal
from tokenlearner_flexivit.models import stacking, variants
from tokenlearner_flexivit.parallel import compiled, topologies
from tokenlearner_flexivit.train import step as train_step

TOPOLOGIES = {"v5e": "v5e:2x2", "h200": "h200:1"}
PATCH_SIZES = (48, 30, 16, 8)
IMAGE_SIZE = 240
# Compiled in this order, since each is compared with the stock model's.
MODELS = ("stock", "big_vision", "ours", "ours, scan", "ours, 8 tokens")
PROGRAMS = ("forward", "train")
# The loop's training step at drawn patch sizes: a program for each, or one with
# a branch for each.
DISPATCHES = ("host", "switch")
DRAWN_MODELS = ("ours", "ours, scan")


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
  patch_size: int | None,
  num_images: int,
) -> jax.stages.Lowered:
  """Returns a program, lowered for one chip.

  Args:
    topology: of the chip.
    name: of `MODELS`.
    program: of `PROGRAMS` or `DISPATCHES`.
    variant: of ViT.
    patch_size: in pixels; None for all, by a switch.
    num_images: in a batch.
  """
  if program in DISPATCHES:
    return _lower_drawn(topology, name, variant, patch_size, num_images)
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


def _lower_drawn(
  topology: topologies.Topology,
  name: str,
  variant: str,
  patch_size: int | None,
  num_images: int,
) -> jax.stages.Lowered:
  """Returns the loop's training step for one of ten patch sizes, or for all."""
  sizes = variants.FLEXIVIT_PATCH_SIZES
  model = models.ViT.from_variant(
    variant,
    num_classes=steps.NUM_CLASSES,
    dtype="bfloat16",
    scan=name == "ours, scan",
  )
  image = jax.ShapeDtypeStruct((IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
  devices = parallel.create(devices=topology.devices[:1])
  step = train_step.make_train_step(
    compilation.Task(model),
    steps.OPTIMIZER,
    dials.from_config({"patch_size": {"values": sizes}}, sizes[0])[0],
    devices,
    seed=0,
    branch=None if patch_size is None else sizes.index(patch_size),
  )

  def create_state(key):
    params = model.init(key, jnp.zeros((1, *image.shape)))["params"]
    params = stacking.stack(params, model.scanned_runs)
    return train_step.create_state(params, steps.OPTIMIZER, ema=False)

  example = {"image": image, "label": jax.ShapeDtypeStruct((), jnp.int32)}
  return devices.lower_program(
    step,
    jax.eval_shape(create_state, jax.random.key(0)),
    devices.batch_shapes(example, num_images),
    (),
    donate=True,
  )


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
    "compile_s": program.processor_seconds,
    "code_mib": program.code and program.code / 2**20,
    "copied_gb": None if loops else program.copied and program.copied / 1e9,
    "kernels": program.kernels,
  }


def cells(
  chips: list[str],
  sizes: list[str],
  patch_sizes: list[int],
  names: list[str],
  programs: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields a chip and the arguments of `lower`, in the order to compile."""
  drawn = variants.FLEXIVIT_PATCH_SIZES
  dispatches = [program for program in programs if program in DISPATCHES]
  for chip, variant in itertools.product(chips if dispatches else (), sizes):
    share = dict(variant=variant, num_images=batch_size(chip, min(drawn)))
    for patch_size in drawn if "stock" in names else ():
      yield (
        chip,
        dict(name="stock", program="train", patch_size=patch_size, **share),
      )
    drawn_names = [name for name in names if name in DRAWN_MODELS]
    for name, program in itertools.product(drawn_names, dispatches):
      for patch_size in drawn if program == "host" else (None,):
        yield (
          chip,
          dict(name=name, program=program, patch_size=patch_size, **share),
        )
  kinds = [program for program in programs if program in PROGRAMS]
  for chip, variant, patch_size, program, name in itertools.product(
    chips, sizes, patch_sizes, kinds, names
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
  programs: Sequence[str],
  path: pathlib.Path | None = None,
) -> list[dict[str, Any]]:
  """Returns a row for each program.

  Args:
    chips: of `TOPOLOGIES`.
    sizes: variants of ViT.
    patch_sizes: in pixels.
    names: of `MODELS`.
    programs: of `PROGRAMS` and `DISPATCHES`; the latter at ten patch sizes.
    path: of rows that are there already, which new ones are appended to.
  """
  rows = []
  if path is not None and path.exists():
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
  topology = available(chips)
  todo = []
  wanted = cells(list(topology), sizes, patch_sizes, names, programs)
  for chip, cell in wanted:
    known = {"chip": topology[chip].chip.title, **cell}
    if not any(known.items() <= row.items() for row in rows):
      todo.append((chip, cell))
  start = time.perf_counter()
  for done, (chip, cell) in enumerate(todo):
    left = ""
    if done:
      seconds = (time.perf_counter() - start) / done * (len(todo) - done)
      left = f", about {terminal.duration(seconds)} left"
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
      continue  # Those of drawn patch sizes have a table of their own.
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


def compare_dispatches(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns a row per way to train at ten patch sizes.

  Seconds and code are those of all its programs, memory that of the largest,
  copies those of a step on average.
  """
  keys = ("chip", "variant", "num_images")
  groups = {}
  drawn = {tuple(row[k] for k in keys) for row in rows if _is_drawn(row)}
  for row in rows:
    cell = tuple(row[key] for key in keys)
    if cell in drawn and (_is_drawn(row) or _is_stock_step(row)):
      way = "" if row["name"] == "stock" else row["program"]
      groups.setdefault(cell, {}).setdefault((row["name"], way), []).append(row)
  result = []
  for cell, ways in groups.items():
    stock_steps = ways.get(("stock", ""), [])
    stock_seconds = sum(row["compile_s"] for row in stock_steps)
    for (name, way), programs in ways.items():
      seconds = sum(row["compile_s"] for row in programs)
      line = dict(zip(keys, cell, strict=True))
      line |= {"model": name, "dispatch": way, "programs": len(programs)}
      line["compile_s"] = seconds
      if len(stock_steps) == len(variants.FLEXIVIT_PATCH_SIZES):
        line["compile/stock"] = seconds / stock_seconds
      line["memory, GiB"] = max(row["memory_gib"] or 0 for row in programs)
      line["code, MiB"] = sum(row["code_mib"] or 0 for row in programs)
      copied = [row["copied_gb"] for row in programs]
      if None not in copied:
        line["copied, GB"] = sum(copied) / len(copied)
      result.append(line)
  return result


def _is_drawn(row: dict[str, Any]) -> bool:
  return row["program"] in DISPATCHES


def _is_stock_step(row: dict[str, Any]) -> bool:
  return row["name"] == "stock" and row["program"] == "train"


def run(quick: bool) -> list[dict[str, Any]]:
  """Returns the rows of both tables; with `quick` of a few small programs."""
  if quick:
    rows = measure(["h200"], ["mu"], [16], ["stock", "ours"], PROGRAMS)
  else:
    programs = (*PROGRAMS, *DISPATCHES)
    sizes, patch_sizes = ["S", "B"], list(PATCH_SIZES)
    rows = measure(list(TOPOLOGIES), sizes, patch_sizes, list(MODELS), programs)
  return [*compare(rows), *compare_dispatches(rows)]


def main():
  """Compiles some of the programs and prints a row for each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--chips", default=",".join(TOPOLOGIES))
  add("--variants", default="S,B")
  add("--patch_sizes", default=",".join(map(str, PATCH_SIZES)))
  add("--models", default=";".join(MODELS), help="joined by ;")
  add(
    "--programs",
    default=",".join(PROGRAMS),
    help=f"of {', '.join((*PROGRAMS, *DISPATCHES))}; the last two are training "
    "steps at ten drawn patch sizes, compared with ten stock ones",
  )
  add("--out", type=pathlib.Path)
  args = parser.parse_args()
  chips, programs = args.chips.split(","), args.programs.split(",")
  names = args.models.split(";")
  for flag, values, known in (
    ("--chips", chips, TOPOLOGIES),
    ("--programs", programs, (*PROGRAMS, *DISPATCHES)),
    ("--models", names, MODELS),
  ):
    for value in values:
      if value not in known:
        parser.error(f"{flag}: {value!r} is none of {', '.join(known)}")
  jax.config.update("jax_platforms", "cpu")  # Wheels look for their devices.
  patch_sizes = [int(size) for size in args.patch_sizes.split(",")]
  rows = measure(
    chips, args.variants.split(","), patch_sizes, names, programs, args.out
  )
  for row in (*compare(rows), *compare_dispatches(rows)):
    json.dump(row, sys.stdout)
    print()


if __name__ == "__main__":
  main()
