"""Input pipeline: images per second, where the time goes, and waiting for it.

  python -m benchmarks.input_pipeline
  python -m benchmarks.input_pipeline --tf_python=/tmp/tensorflow/bin/python

JPEGs of 500x375 pixels, the mean of ImageNet, are read from class folders,
decoded, cropped as for Inception, resized to 240 pixels, mirrored, scaled and
put into batches. The row "start" is about a tree of many images. With
--tf_python, an environment with TensorFlow (see benchmarks/tf_data.py), tf.data
does the same on the same core, by turns.
"""

import argparse
import collections
import json
import os
import pathlib
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import cv2
import numpy as np

from tokenlearner_flexivit import data, parallel
from tokenlearner_flexivit.models import timing

HEIGHT, WIDTH = 375, 500
OPS = (
  "decode",
  "inception_crop(240)",
  "flip_lr",
  "value_range(-1,1)",
  "keep('image','label')",
)
PP = "|".join(OPS)
MIN_RATIO = 0.9
IMAGENET = 1_281_167  # Its training images, in 1,000 classes.
_CLASS = 1281  # Images of a class of ImageNet, on average.


def make_photo(rng: np.random.Generator) -> np.ndarray:
  """Returns an image with the spectrum and the file size of a photograph.

  Smooth random fields of all scales, edges, and grain, uint8 [375, 500, 3].
  As a JPEG of quality 90 it has about 50 kB.
  """
  image = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
  for octave in range(1, 8):
    shape = (3 * 2**octave // 4 + 1, 2**octave + 1, 3)
    field = rng.standard_normal(shape, np.float32)
    field = field.mean(-1, keepdims=True) + 0.35 * field  # Mostly grey.
    field = cv2.resize(field, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    image += 55 * 2 ** (-0.85 * (octave - 1)) * field
  for _ in range(12):
    corners = rng.uniform((0, 0), (WIDTH, HEIGHT)) + rng.normal(0, 60, (6, 2))
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.fillPoly(mask, [corners.astype(np.int32)], 1.0, cv2.LINE_AA)
    image += mask[..., None] * rng.normal(0, 40, 3).astype(np.float32)
  grain = rng.standard_normal((HEIGHT, WIDTH), np.float32)
  image += 13 * cv2.GaussianBlur(grain, (0, 0), 0.7)[..., None]
  return image.clip(0, 255).astype(np.uint8)


def make_folder(folder: pathlib.Path, num_images: int, copies: int) -> None:
  """Writes images and gives each several names.

  Grain's shuffle takes long for very small datasets, up to 0.4 ms an example;
  the names make a dataset of the usual size out of few files.
  """
  classes = [folder / name for name in ("people", "places")]
  for path in classes:
    path.mkdir()
  rng = np.random.default_rng(0)
  for i in range(num_images):
    quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
    _, file = cv2.imencode(".jpg", make_photo(rng), quality)
    path = classes[i % 2]
    first = path / f"{i}_0.jpg"
    first.write_bytes(file.tobytes())
    for copy in range(1, copies):
      os.link(first, path / f"{i}_{copy}.jpg")


def measure_start(num_images: int) -> dict[str, Any]:
  """Returns what a training takes until its first batch.

  Two splits of a tree of so many images are opened, as by `configs/folder.py`:
  one to train, one to evaluate. `opened` counts the openings of images, and
  `again` those of an image that was opened before; `bytes_per_image` is what a
  process that makes batches is sent.
  """
  openings = collections.Counter()

  def count(event: str, args: tuple) -> None:
    if event == "open" and str(args[0]).endswith(".JPEG"):
      openings[args[0]] += 1

  with tempfile.TemporaryDirectory() as name:
    make_tree(pathlib.Path(name), num_images)
    config = data_config(name, split="train[:90%]")
    memory, start = _peak_memory(), time.perf_counter()
    sys.addaudithook(count)
    source = data.open_source(config)
    listed = time.perf_counter() - start
    sent = len(pickle.dumps(source))
    evaluated = data.open_source({**config, "split": "train[90%:]"})
    batches = data.train_batches(config, batch_size=64, seed=0, source=source)
    next(batches)
    row = dict(
      name="start",
      images=len(source) + len(evaluated),
      seconds_to_list=listed,
      seconds=time.perf_counter() - start,
      mebibytes=(_peak_memory() - memory) / 2**20,
      opened=openings.total(),
      again=openings.total() - len(openings),
      bytes_per_image=sent / len(source),
    )
    batches.close()
  return row


def make_tree(folder: pathlib.Path, num_images: int) -> None:
  """Writes folders of classes as large as ImageNet's; images share files."""
  _, file = cv2.imencode(".jpg", make_photo(np.random.default_rng(0)))
  for label in range(-(-num_images // _CLASS)):
    path = folder / f"n{label:08}"
    path.mkdir()
    first = path / f"{path.name}_0.JPEG"
    first.write_bytes(file.tobytes())
    for i in range(1, min(_CLASS, num_images - label * _CLASS)):
      os.link(first, path / f"{path.name}_{i}.JPEG")


def _peak_memory() -> int:
  """Returns the most bytes that this process has had."""
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def data_config(folder: pathlib.Path | str, **changes: Any) -> dict[str, Any]:
  """Returns the data config."""
  return {"name": f"folder:{folder}", "split": "train", "pp": PP, **changes}


def measure(
  config: dict[str, Any], *, batch_size: int, seconds: float
) -> float:
  """Returns the images per second of a data config.

  Args:
    config: of the data.
    batch_size: images per batch.
    seconds: how long to count, after the batches that were made ahead.
  """
  batches = data.train_batches(config, batch_size=batch_size, seed=0)
  for _ in range(2 + config.get("prefetch", 8)):
    next(batches)
  count, start = 0, time.perf_counter()
  while time.perf_counter() - start < seconds:
    next(batches)
    count += batch_size
  rate = count / (time.perf_counter() - start)
  batches.close()
  return rate


def measure_first_batch(
  config: dict[str, Any], batch_size: int
) -> dict[str, Any]:
  """Returns the seconds until the first batch, and what it takes of memory.

  A batch leaves the host without the ops that the device does; beside it stands
  what it would take with them.

  Args:
    config: of the data.
    batch_size: images of the batch.
  """
  row = dict(name="first_batch", batch_size=batch_size)
  for key, skip in (("bytes_with_device_ops", False), ("bytes", True)):
    start = time.perf_counter()
    batches = data.train_batches(
      config, batch_size=batch_size, seed=0, skip_device_ops=skip
    )
    row[key] = sum(value.nbytes for value in next(batches).values())
    row["seconds"] = time.perf_counter() - start
    batches.close()
  return row


def measure_ops(folder: pathlib.Path, num_images: int) -> list[dict[str, Any]]:
  """Returns the microseconds per image of what the pipeline does, apart."""
  source = data.open_source(data_config(folder))
  encoded = [source[i] for i in range(min(num_images, len(source)))]

  def apply(pp, examples):
    preprocess, rng = data.parse(pp), np.random.default_rng(0)
    return [preprocess(example, rng) for example in examples]

  # Each result is dropped before the next, as in the pipeline.
  def time_op(pp, examples):
    preprocess, rng = data.parse(pp), np.random.default_rng(0)
    return lambda: [len(preprocess(e, rng)) for e in examples]

  decoded = apply(OPS[0], encoded)
  cropped = apply(OPS[1], decoded)
  scaled = apply(OPS[3], cropped)
  batch = np.empty((len(scaled), *scaled[0]["image"].shape), np.float32)
  programs = {
    "read": lambda: [len(source[i]) for i in range(len(encoded))],
    "decode": time_op(OPS[0], encoded),
    "inception_crop": time_op(OPS[1], decoded),
    "flip_lr": time_op(OPS[2], cropped),
    "value_range": time_op(OPS[3], cropped),
    "batch": lambda: np.stack([e["image"] for e in scaled], out=batch),
  }
  seconds = timing.by_turns(programs, rounds=5)
  return [
    dict(
      name="op",
      op=name,
      us_per_image=1e6 * statistics.median(times) / len(encoded),
    )
    for name, times in seconds.items()
  ]


def measure_starvation(
  config: dict[str, Any], *, step_ms: float, batch_size: int, steps: int
) -> dict[str, Any]:
  """Returns the share of its time that a device waits for batches.

  The batches go to the device as in training; a step is a sleep, during which
  an accelerator works and the processor is free.

  Args:
    config: of the data.
    step_ms: milliseconds per step.
    batch_size: images per batch.
    steps: how many, after those whose batches were made ahead.
  """
  stream = data.train_batches(
    config, batch_size=batch_size, seed=0, skip_device_ops=True
  )
  batches = parallel.create().prefetch(stream)
  for _ in range(4 + config.get("prefetch", 8)):
    next(batches)
  waited, start = 0.0, time.perf_counter()
  for _ in range(steps):
    before = time.perf_counter()
    next(batches)
    waited += time.perf_counter() - before
    time.sleep(step_ms / 1e3)
  total = time.perf_counter() - start
  stream.close()
  return dict(
    name="starvation",
    step_ms=round(step_ms, 1),
    images_per_s_asked=1e3 * batch_size / step_ms,
    waiting=waited / total,
  )


def compare_with_tf_data(
  folder: pathlib.Path,
  tf_python: str,
  *,
  batch_size: int,
  seconds: float,
  rounds: int,
) -> list[dict[str, Any]]:
  """Returns our rate and tf.data's on one core, by turns, and their ratio.

  On Linux only, where a program can be bound to a core.
  """
  tf_data = str(pathlib.Path(__file__).with_name("tf_data.py"))
  core = max(os.sched_getaffinity(0))
  options = [
    *(str(folder), f"--batch_size={batch_size}"),
    *(f"--seconds={seconds}", f"--core={core}"),
  ]
  programs = {
    "ours": [sys.executable, "-m", "benchmarks.input_pipeline", *options],
    "tf.data": [tf_python, tf_data, *options],
  }
  rates = {name: [] for name in programs}
  for _ in range(rounds):
    for name, program in programs.items():
      output = subprocess.check_output(program, stderr=subprocess.DEVNULL)
      rates[name].append(json.loads(output)["images_per_s"])
  rows = [
    dict(name="one core", program=name, images_per_s=statistics.median(rate))
    for name, rate in rates.items()
  ]
  rows[0]["ratio"] = timing.ratio(rates["ours"], rates["tf.data"])
  return rows


def run(quick: bool, tf_python: str | None = None) -> list[dict[str, Any]]:
  """Returns all measurements.

  Args:
    quick: few images and fractions of seconds, for a look or a test.
    tf_python: Python of an environment with TensorFlow, to compare with.
  """
  num_images, copies = (16, 64) if quick else (256, 64)
  batch_size, seconds = (8, 0.1) if quick else (64, 5)
  cores = os.cpu_count() or 1
  threads = [dict(num_threads=n) for n in sorted({0, 1, cores})]
  processes = [
    dict(num_workers=n, num_threads=1) for n in sorted({1, cores}) if not quick
  ]
  rows, rates = [measure_start(2_000 if quick else IMAGENET)], []
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    make_folder(folder, num_images, copies)
    for changes in [*threads, *processes]:
      config = data_config(folder, **changes)
      rate = measure(config, batch_size=batch_size, seconds=seconds)
      rates.append(rate)
      rows.append(dict(name="pipeline", **changes, images_per_s=rate))
    rows.append(
      measure_first_batch(
        data_config(folder, num_threads=cores), 16 if quick else 512
      )
    )
    rows += measure_ops(folder, num_images)
    # Steps that ask for more than the threads can make, and for less.
    batch_ms = 1e3 * batch_size / rates[len(threads) - 1]
    for factor in (0.5, 1.25, 2):
      rows.append(
        measure_starvation(
          data_config(folder, num_threads=cores),
          step_ms=factor * batch_ms,
          batch_size=batch_size,
          steps=4 if quick else 50,
        )
      )
    if tf_python:
      rows += compare_with_tf_data(
        folder,
        tf_python,
        batch_size=batch_size,
        seconds=seconds,
        rounds=1 if quick else 5,
      )
  return rows


def main():
  """Prints all rows, and fails if tf.data is clearly faster."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("folder", nargs="?", help="measure one core, on JPEGs")
  parser.add_argument("--tf_python")
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--batch_size", type=int, default=64)
  parser.add_argument("--seconds", type=float, default=5)
  parser.add_argument("--core", type=int)
  args = parser.parse_args()
  if args.folder:
    os.sched_setaffinity(0, {args.core})
    rate = measure(
      data_config(args.folder, num_threads=1, prefetch=2),
      batch_size=args.batch_size,
      seconds=args.seconds,
    )
    print(json.dumps({"images_per_s": rate}))
    return
  rows = run(args.quick, args.tf_python)
  for row in rows:
    print(json.dumps(row))
  ratios = [row["ratio"] for row in rows if "ratio" in row]
  if ratios and not args.quick and ratios[0] < MIN_RATIO:
    sys.exit(f"It should be at least {MIN_RATIO}x as fast as tf.data.")


if __name__ == "__main__":
  main()
