"""Counts what a compiled program needs, by its compiler."""

import dataclasses
import math
import re
import time
from collections import Counter

import jax

from tokenlearner_flexivit.parallel import topologies

_TOO_LARGE = re.compile(
  r"(?:Used |HLO temporaries \()([\d.]+)([KMG]?)(?: of|\) exceeds)"
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_CUDNN = re.compile(r'custom_call_target="(__cudnn\$\w+)"')
_COPY = re.compile(r"= (\w+)\[([\d,]*)\]\S* copy\(")
_PALLAS = re.compile(r'custom_call_target="tpu_custom_call"')


@dataclasses.dataclass(frozen=True)
class Program:
  """A program for one chip of a topology.

  Attributes:
    fits: whether the chip's memory is enough.
    memory: bytes per chip: arguments, results and temporaries. Of a program
      that does not fit, as many as its compiler names, or None.
    traffic: bytes per chip that operations read and write; None if the
      compiler does not count them, as on GPUs. A loop counts once.
    flops: operations per chip; None if not counted. A loop counts once.
    seconds: how long the compiler took.
    processor_seconds: the same on all cores together, which depends less on
      what else a machine does.
    kernels: fused kernels by name, with their number.
    code: bytes of the machine's code; None if the compiler does not tell.
    copied: bytes that copies in the device's memory write, such as those of a
      state that branches return.
  """

  fits: bool
  memory: int | None
  traffic: float | None
  flops: float | None
  seconds: float
  processor_seconds: float
  kernels: dict[str, int]
  code: int | None = None
  copied: int | None = None


def memory_bytes(program: jax.stages.Compiled) -> int | None:
  """Returns the bytes of a program's arguments, results and temporaries.

  Results in the memory of donated arguments count once. None if the compiler
  does not tell.
  """
  needs = program.memory_analysis()
  if needs is None:
    return None
  return (
    needs.argument_size_in_bytes
    + needs.output_size_in_bytes
    - needs.alias_size_in_bytes
    + needs.temp_size_in_bytes
  )


def compile_for(
  topology: topologies.Topology, lowered: jax.stages.Lowered
) -> Program:
  """Compiles a program for chips that need not be there.

  A program that needs more memory than a chip has is no error.

  Args:
    topology: whose devices the program was lowered for.
    lowered: the program.
  """
  start = time.perf_counter(), time.process_time()
  try:
    program = lowered.compile(topology.compiler_options)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    used = _TOO_LARGE.search(str(error))
    memory = used and round(float(used[1]) * _UNITS[used[2]])
    return Program(False, memory, None, None, *_since(*start), {})
  seconds = _since(*start)
  memory, needs = memory_bytes(program), program.memory_analysis()
  costs = program.cost_analysis() or {}
  text = program.as_text()
  kernels = Counter(_CUDNN.findall(text))
  if count := len(_PALLAS.findall(text)):
    kernels["pallas"] = count
  return Program(
    memory is None or memory <= topology.chip.memory,
    memory,
    costs.get("bytes accessed"),
    costs.get("flops"),
    *seconds,
    dict(kernels),
    needs.generated_code_size_in_bytes if needs else None,
    sum(_num_bytes(*shape) for shape in _COPY.findall(text)),
  )


def _since(start: float, processor_start: float) -> tuple[float, float]:
  return time.perf_counter() - start, time.process_time() - processor_start


def _num_bytes(dtype: str, shape: str) -> int:
  """Returns the bytes of an array as HLO writes it, such as f32 and 8,16."""
  count = math.prod(map(int, filter(None, shape.split(","))))
  bits = re.search(r"\d+", dtype)
  return count * (int(bits[0]) if bits else 8) // 8
