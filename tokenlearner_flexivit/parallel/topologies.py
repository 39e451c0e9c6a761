"""Chips to compile for that this machine does not have.

The compilers of TPUs and GPUs run on any machine that has their wheels.
"""

import dataclasses
import importlib.util
import os
import re
from typing import Any

import jax
from jax.experimental import topologies


@dataclasses.dataclass(frozen=True)
class Chip:
  """Describes one chip, by the figures that its maker publishes.

  Attributes:
    title: its name.
    memory: bytes that programs can use.
    flops: operations per second on bfloat16, without sparsity; None if they are
      not known.
    bandwidth: bytes per second from and to the memory; None if not known.
    target: for a GPU, its description for XLA.
  """

  title: str
  memory: int
  flops: float | None
  bandwidth: float | None
  target: str | None = None


def _gpu(
  title: str,
  *,
  memory: int,
  flops: float,
  bandwidth: float,
  capability: int,
  cores: int,
  clock_ghz: float,
  fpus_per_core: int,
  shared_per_core: int,
  l2_bytes: int,
) -> Chip:
  """Returns a GPU of NVIDIA."""
  target = f"""
    gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32
      shared_memory_per_block: 49152
      shared_memory_per_core: {shared_per_core}
      shared_memory_per_block_optin: {shared_per_core - 1024}
      threads_per_core_limit: 2048 core_count: {cores}
      fpus_per_core: {fpus_per_core}
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: {bandwidth:.0f} l2_cache_size: {l2_bytes}
      clock_rate_ghz: {clock_ghz} device_memory_size: {memory}
      cuda_compute_capability {{ major: {capability} }}
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
    device_description_str: "{title}"
  """
  return Chip(title, memory, flops, bandwidth, target)


_HOPPER = dict(
  flops=989e12,
  capability=9,
  cores=132,
  clock_ghz=1.98,
  fpus_per_core=128,
  shared_per_core=233_472,
  l2_bytes=52_428_800,
)
# Memory of TPUs as their compiler states it, the rest from Google Cloud's pages
# of the TPU versions and NVIDIA's data sheets (SXM).
CHIPS = {
  "v5e": Chip("TPU v5e", int(15.75 * 2**30), 197e12, 819e9),
  "v5p": Chip("TPU v5p", int(95.74 * 2**30), 459e12, 2765e9),
  "v6e": Chip("TPU v6e", int(31.25 * 2**30), 918e12, 1640e9),
  "a100": _gpu(
    "NVIDIA A100 80GB",
    memory=85_094_825_984,
    flops=312e12,
    bandwidth=2039e9,
    capability=8,
    cores=108,
    clock_ghz=1.41,
    fpus_per_core=64,
    shared_per_core=167_936,
    l2_bytes=41_943_040,
  ),
  "h100": _gpu(
    "NVIDIA H100", memory=85_029_158_912, bandwidth=3350e9, **_HOPPER
  ),
  "h200": _gpu(
    "NVIDIA H200", memory=151_397_597_184, bandwidth=4800e9, **_HOPPER
  ),
}
# How JAX calls the kinds of TPUs whose names are others.
_TPU_KINDS = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}
HERE = "here"
# What the GPU's compiler would otherwise try out on a card.
_GPU_OPTIONS = {
  "xla_gpu_autotune_level": 0,
  "xla_gpu_enable_triton_gemm": False,
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Chips that work together.

  Attributes:
    name: such as "v5e:4x4", or "here".
    chip: what one of them has.
    devices: JAX's descriptions of them, to compile for.
    compiler_options: for `jax.stages.Lowered.compile`.
  """

  name: str
  chip: Chip
  devices: tuple[jax.Device, ...]
  compiler_options: dict[str, Any]


def create(name: str) -> Topology:
  """Returns a topology by name.

  Args:
    name: the chip and their number: for TPUs the sides of the slice, such as
      "v5e:4x4" or "v5p:2x2x4", for GPUs a number, such as "h200:8". "here"
      takes the devices that JAX uses.

  Raises:
    ValueError: no such chip or slice, or the wheel with its compiler is not
      installed.
  """
  if name == HERE:
    devices = tuple(jax.devices())
    return Topology(name, _chip_here(devices[0]), devices, {})
  kind, _, size = name.partition(":")
  if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
    raise ValueError(
      f"Unknown topology {name!r}. Known are the chips {', '.join(CHIPS)}: for "
      "a TPU give the sides of the slice, such as 'v5e:4x4' or 'v5p:2x2x4', "
      "for a GPU the number of cards, such as 'h200:8'. 'here' are the devices "
      "of this machine."
    )
  chip = CHIPS[kind]
  if chip.target is None:
    return Topology(name, chip, _tpus(name), {})
  if not size.isdecimal():
    raise ValueError(
      f"Topology {name!r}: give the number of cards, such as '{kind}:8'."
    )
  return Topology(name, chip, _gpus(chip, int(size)), dict(_GPU_OPTIONS))


def _chip_here(device: jax.Device) -> Chip:
  """Returns what a device of this machine has."""
  title = device.device_kind
  known = CHIPS.get(_TPU_KINDS.get(title))
  for chip in CHIPS.values():
    if title.startswith(chip.title):
      known = chip
  if device.platform == "cpu":
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Chip(title, memory // jax.local_device_count(), None, None)
  memory = (device.memory_stats() or {}).get("bytes_limit")
  if known:
    return dataclasses.replace(known, memory=memory or known.memory)
  return Chip(title, memory or 0, None, None)


def _tpus(name: str) -> tuple[jax.Device, ...]:
  _check_installed("libtpu", "tpu", name)
  # Otherwise the library asks Google Cloud which TPU this machine has, for
  # minutes, and lets one process alone compile.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  try:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f"Topology {name!r}: {str(error).splitlines()[0]}. Slices are made of "
      "hosts with 2x2 chips (v5p: 2x2x1), such as 'v5e:2x2', 'v5e:4x4', "
      "'v5p:2x2x4'."
    ) from None
  return tuple(topology.devices)


def _gpus(chip: Chip, count: int) -> tuple[jax.Device, ...]:
  _check_installed("jax_cuda12_plugin", "cuda", chip.title)
  hosts = -(-count // 8)
  if count % hosts or (hosts > 1 and count % 8):
    raise ValueError(
      f"{count} GPUs: give at most 8, or a multiple of 8, as hosts have them."
    )
  topology = topologies.get_topology_desc(
    platform="cuda",
    topology=f"{hosts}x{count // hosts}x1",
    target_config=chip.target,
  )
  return tuple(topology.devices)


def _check_installed(package: str, extra: str, name: str) -> None:
  if importlib.util.find_spec(package) is None:
    raise ValueError(
      f"{name} needs its compiler, which is not installed (no {package}): "
      f"pip install 'tokenlearner_flexivit[{extra}]'. No device is needed."
    )
