"""Parallelism over devices: how a program and its state are placed and run."""

from tokenlearner_flexivit.parallel.pmap import (
  AXIS,
  KINDS,
  check_batch_size,
  one_at_a_time,
  parallelize,
  prefetch,
  put_batch,
  replicate,
  unused_accelerator,
)

__all__ = [
  "AXIS",
  "KINDS",
  "check_batch_size",
  "one_at_a_time",
  "parallelize",
  "prefetch",
  "put_batch",
  "replicate",
  "unused_accelerator",
]
