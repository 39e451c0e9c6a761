"""Measures how long loading a large file takes, and how much memory.

  python -m benchmarks.interop

The file holds random weights of a ViT-B/16 (346 MB). Each load is in a new
process; what Python and the imports took before it does not count.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from flax import traverse_util

from benchmarks import processes
from tokenlearner_flexivit import interop, models

MAX_MEMORY, MAX_SECONDS = 2.2, 15
FILES = {
  "big_vision": "b16.npz",
  "timm": "b16.safetensors",
}


def make_model(patch_size=16):
  """Returns a ViT-B/16; 32 asks for a kernel that is not in the file."""
  return models.ViT.from_variant(
    "B/16", num_classes=1000, pool="tok", patch_size=patch_size
  )


def make_files(folder):
  """Writes the files."""
  model = make_model()
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  rng = np.random.default_rng(0)
  params = {
    name: rng.standard_normal(leaf.shape, np.float32)
    for name, leaf in traverse_util.flatten_dict(shapes, sep="/").items()
  }
  params = traverse_util.unflatten_dict(params, sep="/")
  for format, name in FILES.items():
    interop.save_params(params, folder / name, format)


def measure(path, patch_size):
  """Loads a file in this process and returns seconds and memory."""
  model = make_model(patch_size)
  before = processes.peak_bytes()
  start = time.perf_counter()
  interop.load_params_and_report(path, model)
  seconds = time.perf_counter() - start
  size = path.stat().st_size
  return dict(
    seconds=round(seconds, 2),
    megabytes=round(size / 1e6),
    memory_over_size=round((processes.peak_bytes() - before) / size, 2),
  )


def main():
  """Prints all loads, and fails if one takes too long or too much."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("--make", type=pathlib.Path)
  parser.add_argument("--path", type=pathlib.Path)
  parser.add_argument("--patch_size", type=int, default=16)
  args = parser.parse_args()
  if args.make:
    make_files(args.make)
    return
  if args.path:
    print(json.dumps(measure(args.path, args.patch_size)))
    return
  failed = False
  this = ["-m", "benchmarks.interop"]
  with tempfile.TemporaryDirectory() as folder:
    # Not in this process: on Linux a new one inherits the peak of its parent.
    subprocess.check_call([sys.executable, *this, "--make", folder])
    for format, name in FILES.items():
      for patch_size in (16, 32):
        options = ["--path", f"{folder}/{name}", f"--patch_size={patch_size}"]
        result = processes.result_of([*this, *options])
        print(json.dumps(dict(name=f"{format}, to /{patch_size}") | result))
        failed |= result["memory_over_size"] >= MAX_MEMORY
        failed |= result["seconds"] >= MAX_SECONDS
  if failed:
    sys.exit(f"Loading should take < {MAX_SECONDS} s and < {MAX_MEMORY}x size.")


if __name__ == "__main__":
  main()
