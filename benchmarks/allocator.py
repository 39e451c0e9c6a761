"""What it brings to keep freed memory: the training step of a small model.

XLA's CPU backend allocates what a program needs at every call. glibc gives
memory of that size back to the system at once, which then has to clear it page
by page for the next call. `run.environment.KEEP_MEMORY` are the variables that
make it keep the memory, in large pages. They count when a process starts.
"""

import argparse
import json
import statistics
from typing import Any

import jax

from benchmarks import processes, steps
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import timing
from tokenlearner_flexivit.run import environment


def serve(arguments: dict[str, Any], repeats: int) -> None:
  """Compiles a training step, then measures one for each line of the input.

  Args:
    arguments: of `models.ViT`, and `image_size` and `batch_size`.
    repeats: steps whose mean is taken.
  """
  sizes = {key: arguments.pop(key) for key in ("batch_size", "image_size")}
  images, labels = steps.make_batch(**sizes)
  model = models.ViT(num_classes=steps.NUM_CLASSES, **arguments)
  train = steps.programs_of(model, images, labels)["train"]
  processes.serve("ready", {"step": train}, repeats)


def run(quick: bool) -> list[dict[str, Any]]:
  """Compares processes that keep memory with one that does not.

  Returns:
    Milliseconds per step, and how many times as fast as without, of the
    baseline of experiments/token_learner_placement.
  """
  arguments = dict(
    width=96,
    depth=4,
    mlp_dim=384,
    num_heads=3,
    patch_size=6,
    posemb_grid=10,
    image_size=60,
    batch_size=64,
  )
  if quick:
    arguments |= dict(depth=1, batch_size=2)
  rounds, repeats = (1, 1) if quick else (7, 5)
  command = ["-m", "benchmarks.allocator", f"--repeats={repeats}"]
  command += [f"--arguments={json.dumps(arguments)}"]
  pages = "GLIBC_TUNABLES"
  environments = {
    "as it is": {},
    "large pages": {pages: environment.KEEP_MEMORY[pages]},
    "kept, in large pages": environment.KEEP_MEMORY,
  }
  workers = {name: (command, env) for name, env in environments.items()}
  seconds = {name: [] for name in workers}
  with processes.started(workers) as ask:
    for name in workers:
      ask(name)
    for _ in range(rounds):
      for name in workers:
        seconds[name].append(ask(name, "step"))
  return [
    {
      "memory": name,
      "ms": 1e3 * statistics.median(times),
      "times as fast": timing.ratio(seconds["as it is"], times),
    }
    for name, times in seconds.items()
  ]


def main():
  """Serves one environment; see `serve`."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--repeats", type=int, required=True)
  parser.add_argument("--arguments", type=json.loads, required=True)
  args = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  serve(args.arguments, args.repeats)


if __name__ == "__main__":
  main()
