"""Times PI-resize: the matrices from nothing, and their use.

  python -m benchmarks.patch_embed

The matrices for 32 -> {48, ..., 8} are built in a fresh process, so that no
cache is warm; the start of Python and the imports are not counted.
"""

import argparse
import json
import subprocess
import sys
import time

import jax
import numpy as np

from tokenlearner_flexivit.models import patch_embed, timing, variants

LIMIT_MS = 50
PATCH_SIZES = variants.FLEXIVIT_PATCH_SIZES


def time_matrices(old=32, sizes=PATCH_SIZES):
  """Returns the milliseconds that building all matrices takes now."""
  start = time.perf_counter()
  for size in sizes:
    patch_embed.pi_matrix(old, size)
  return 1e3 * (time.perf_counter() - start)


def measure_matrices(processes=3):
  """Returns the median of `time_matrices` over as many new processes."""
  code = "from benchmarks import patch_embed as b; print(b.time_matrices())"
  times = [
    float(subprocess.check_output([sys.executable, "-c", code], text=True))
    for _ in range(processes)
  ]
  return dict(name="matrices, cold", milliseconds=float(np.median(times)))


def measure_application(old=32, sizes=PATCH_SIZES, width=768, repeats=20):
  """Returns the time to resize a kernel to all sizes, compiled and warm."""
  kernel = jax.random.normal(jax.random.key(0), (old, old, 3, width))
  resize = jax.jit(
    lambda kernel: [patch_embed.resize_kernel(kernel, s) for s in sizes]
  )
  programs = {"resize": lambda: resize(kernel)}
  times = timing.by_turns(programs, repeats)["resize"]
  name = f"application, {len(sizes)} sizes, D={width}"
  return dict(name=name, milliseconds=1e3 * float(np.median(times)))


def main(argv: list[str] | None = None) -> None:
  """Prints both, and fails if the matrices take longer than the limit."""
  argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args(
    argv
  )
  results = [measure_matrices(), measure_application()]
  for result in results:
    print(json.dumps(result))
  if results[0]["milliseconds"] > LIMIT_MS:
    sys.exit(f"The matrices should take less than {LIMIT_MS} ms.")


if __name__ == "__main__":
  main()
