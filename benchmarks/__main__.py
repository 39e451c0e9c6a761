"""Measures what the models and the training cost, and prints one page.

  python -m benchmarks                      # all suites, on one page
  python -m benchmarks --suite=steps,memory --out=/tmp/benchmarks

Medians of programs that take turns, and ratios within one process, since the
speed of a machine drifts. The suites steps, token_learner and memory need only
jax, flax, optax and jaxtyping. `--quick` shows that a suite works, at sizes
that say nothing.
"""

import argparse
import importlib
import json
import os
import pathlib
import platform
import shlex
import sys
import time

import flax
import jax

from tokenlearner_flexivit.figures import table

SUITES = {
  "steps": "forward pass and training step per patch size, and a stock ViT",
  "token_learner": "what TokenLearner saves, and what it promises to",
  "compilation": "until all patch sizes are compiled",
  "memory": "peak memory of a training step",
  "accelerators": "programs of TPU and GPU compilers, without a device",
  "token_dial": "what drawing a number of tokens adds to a training step",
  "distillation": "what the teacher adds to a training step",
  "matching": "what assigning boxes adds to a training step of a detector",
  "latency_budget": "whether a latency budget is kept; reach of the dials",
  "allocator": "keeping freed memory on CPU",
  "input_pipeline": "decoding and cropping",
  "evaluation": "all patch sizes in one pass, and a pass for each",
  "cka": "comparing all layers at all settings, per image",
  "overhead": "checkpoints and logging",
  "scaling": "over virtual devices, image sizes, tokens, batches",
}


def hardware() -> str:
  """Names the devices, or the processor behind them."""
  devices = jax.devices()
  kind = devices[0].device_kind
  if kind == "cpu":
    kind = f"{platform.machine()} CPU"
  return f"{len(devices)} x {kind}"


def shown(value: object) -> str:
  """Formats a cell of the page."""
  return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> None:
  """Runs the suites that are asked for."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--suite", default=",".join(SUITES), help="comma-separated"
  )
  parser.add_argument("--out", type=pathlib.Path, help="folder for JSON files")
  parser.add_argument("--quick", action="store_true")
  args = parser.parse_args(argv)
  # Some suites start processes, which need memory of the same accelerator.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  names = args.suite.split(",")
  for name in names:
    if name not in SUITES:
      parser.error(f"unknown suite {name!r}; there are {', '.join(SUITES)}")
  print(
    f"{hardware()}, Python {platform.python_version()}, jax {jax.__version__},"
    f" flax {flax.__version__}, {time.strftime('%Y-%m-%d')}"
  )
  for name in names:
    start = time.perf_counter()
    rows = importlib.import_module(f"benchmarks.{name}").run(args.quick)
    seconds = time.perf_counter() - start
    print(f"\n## {name}: {SUITES[name]} ({seconds:.0f} s)\n")
    cells = [{key: shown(v) for key, v in row.items()} for row in rows]
    for group in by_columns(cells):
      print(table.markdown(group), flush=True)
    if args.out:
      args.out.mkdir(parents=True, exist_ok=True)
      result = {
        "suite": name,
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "hardware": hardware(),
        "backend": jax.default_backend(),
        "versions": {"jax": jax.__version__, "flax": flax.__version__},
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds),
        "rows": rows,
      }
      path = args.out / f"{name}.json"
      path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def by_columns(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
  """Groups rows in a row that have the same columns."""
  groups = []
  for row in rows:
    if not groups or list(groups[-1][0]) != list(row):
      groups.append([])
    groups[-1].append(row)
  return groups


if __name__ == "__main__":
  main()
