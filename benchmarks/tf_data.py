"""Images per second of tf.data with fused decode-and-crop, to compare with.

TensorFlow stays out of the project, so this program imports nothing of it and
runs in an environment of its own:

  python -m venv /tmp/tensorflow
  /tmp/tensorflow/bin/pip install tensorflow-cpu
  /tmp/tensorflow/bin/python benchmarks/tf_data.py FOLDER --core=1

FOLDER holds JPEGs of one size, at any depth. It prints one line of JSON.
benchmarks/input_pipeline.py starts it by turns with our pipeline.
"""

import argparse
import json
import math
import os
import pathlib
import time

import numpy as np


def draw_crops(
  count: int, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns (top, left, height, width) of crops, int32 [count, 4].

  With the random numbers of our op `inception_crop`. TensorFlow's own op draws
  smaller crops on average, which are decoded faster.
  """
  max_log_ratio = math.log(4 / 3)
  crops = []
  while len(crops) < count:
    area = height * width * rng.uniform(5, 100) / 100
    ratio = math.exp(rng.uniform(-max_log_ratio, max_log_ratio))
    h, w = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
    if 1 <= h <= height and 1 <= w <= width:
      top = rng.integers(height - h, endpoint=True)
      left = rng.integers(width - w, endpoint=True)
      crops.append((top, left, h, w))
  return np.array(crops, np.int32)


def measure(
  folder: pathlib.Path,
  *,
  size: int,
  batch_size: int,
  seconds: float,
  num_threads: int,
) -> float:
  """Returns the images per second.

  Args:
    folder: of the JPEGs.
    size: side of the result.
    batch_size: images per batch.
    seconds: how long to count, after two batches that are not.
    num_threads: of everything in TensorFlow.
  """
  os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(num_threads)
  tf.config.threading.set_inter_op_parallelism_threads(num_threads)
  files = sorted(map(str, folder.rglob("*.jpg")))
  np.random.default_rng(0).shuffle(files)
  height, width, _ = tf.io.decode_jpeg(tf.io.read_file(files[0])).shape
  crops = draw_crops(len(files), height, width, np.random.default_rng(1))

  def preprocess(file, crop):
    image = tf.image.decode_and_crop_jpeg(
      tf.io.read_file(file), crop, channels=3
    )
    image = tf.image.resize(image, (size, size))
    image = tf.image.random_flip_left_right(image)
    return image * (2 / 255) - 1

  options = tf.data.Options()
  options.threading.private_threadpool_size = num_threads
  dataset = (
    tf.data.Dataset.from_tensor_slices((files, crops))
    .repeat()
    .map(preprocess, num_parallel_calls=num_threads)
    .batch(batch_size)
    .prefetch(1)
    .with_options(options)
  )
  batches = iter(dataset)
  for _ in range(2):
    next(batches)
  count, start = 0, time.perf_counter()
  while time.perf_counter() - start < seconds:
    next(batches)
    count += batch_size
  return count / (time.perf_counter() - start)


def main():
  """Prints the rate."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--size", type=int, default=240)
  parser.add_argument("--batch_size", type=int, default=64)
  parser.add_argument("--seconds", type=float, default=5)
  parser.add_argument("--core", type=int, help="run on this core alone")
  args = parser.parse_args()
  num_threads = os.cpu_count() or 1
  if args.core is not None:
    os.sched_setaffinity(0, {args.core})
    num_threads = 1
  rate = measure(
    args.folder,
    size=args.size,
    batch_size=args.batch_size,
    seconds=args.seconds,
    num_threads=num_threads,
  )
  print(json.dumps({"images_per_s": rate}))


if __name__ == "__main__":
  main()
