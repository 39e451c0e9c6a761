"""Data parallelism: one step function, built by pmap or by jit(shard_map).

Both run the same single-device program on every device with a named axis,
`AXIS`, over which the program itself averages. The state has no device axis:
every device holds all of it.
"""

import collections
import functools
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tokenlearner_flexivit import config as configuration

AXIS = "batch"
KINDS = ("pmap", "shard_map")


def _mesh(devices: list[jax.Device]) -> Mesh:
  return Mesh(np.asarray(devices), (AXIS,))


def parallelize(
  function: Callable[..., Any],
  kind: str = "pmap",
  *,
  donate: bool = False,
  sharded_output: bool = False,
  num_constants: int = 0,
) -> Callable[..., Any]:
  """Runs `function(replicated, batch, *constants)` on all devices.

  Args:
    function: the program of one device. `replicated` and the constants are
      the same trees everywhere; `batch` is the device's share, leaves of shape
      [b, ...].
      Outputs must be equal on all devices (reduced over `AXIS`), unless
      `sharded_output`.
    kind: "pmap", the field's idiom, or "shard_map", its explicit form.
    donate: whether the buffers of `replicated` may be reused.
    sharded_output: outputs keep the batch's layout, as `put_batch` gives it.
    num_constants: how many constants there are.

  Returns:
    A jitted function with `lower`, of a `replicate`d tree, a batch from
    `put_batch(..., kind)` and `replicate`d constants.
  """
  donated = (0,) if donate else ()
  if kind == "pmap":
    return jax.pmap(
      function,
      axis_name=AXIS,
      in_axes=(None, 0, *(None,) * num_constants),
      out_axes=0 if sharded_output else None,
      donate_argnums=donated,
    )
  configuration.choose(kind, dict.fromkeys(KINDS), "config.parallel")
  # check_vma=False: else the gradient of a replicated argument arrives summed
  # over the devices, and the mean over them would count it once for each.
  mapped = jax.shard_map(
    function,
    mesh=_mesh(jax.devices()),
    in_specs=(P(), P(AXIS), *(P(),) * num_constants),
    out_specs=P(AXIS) if sharded_output else P(),
    check_vma=False,
  )
  return jax.jit(mapped, donate_argnums=donated)


def replicate(tree: Any, kind: str = "pmap") -> Any:
  """Places a tree on all devices that this process must provide for.

  pmap takes arrays over the local devices (a donated argument that is not
  there yet would be deleted on its way); shard_map takes global ones.
  """
  devices = jax.local_devices() if kind == "pmap" else jax.devices()
  return jax.device_put(tree, NamedSharding(_mesh(devices), P()))


def put_batch(batch: dict[str, np.ndarray], kind: str = "pmap") -> Any:
  """Sends this host's share of a batch to its devices.

  Args:
    batch: leaves of shape [host_batch, ...].
    kind: as in `parallelize`; pmap wants [local_devices, b, ...].
  """
  count = jax.local_device_count()
  if kind == "pmap":
    sharding = NamedSharding(_mesh(jax.local_devices()), P(AXIS))
    return {
      key: jax.device_put(value.reshape(count, -1, *value.shape[1:]), sharding)
      for key, value in batch.items()
    }
  sharding = NamedSharding(_mesh(jax.devices()), P(AXIS))
  return {
    key: jax.make_array_from_process_local_data(sharding, value)
    for key, value in batch.items()
  }


def prefetch(
  batches: Iterable[dict[str, np.ndarray]], kind: str = "pmap", depth: int = 2
) -> Iterator[Any]:
  """Keeps `depth` batches on their way to the devices ahead of the step.

  An error of `batches` comes in its place, after the batches before it.
  """
  batches = iter(batches)
  queue = collections.deque()
  error = None
  while error is None:
    try:
      queue.append(put_batch(next(batches), kind))
    except StopIteration:
      break
    except Exception as raised:
      error = raised
    if len(queue) > depth:
      yield queue.popleft()
  while queue:
    yield queue.popleft()
  if error is not None:
    raise error


def one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
  """Waits for each call to end where running calls could block one another.

  XLA's CPU backend runs all virtual devices in one thread pool: the
  collectives of two steps in flight can take each other's threads and wait
  for ever. Elsewhere, and on a single device, the function stays as it is.
  """
  if jax.default_backend() != "cpu" or jax.device_count() == 1:
    return function

  @functools.wraps(function, updated=())
  def call(*args: Any) -> Any:
    return jax.block_until_ready(function(*args))

  return call


def check_batch_size(batch_size: int, where: str) -> None:
  """Raises ValueError if the devices cannot share a batch evenly."""
  devices = jax.device_count()
  if batch_size < 1 or batch_size % devices:
    nearest = max(1, round(batch_size / devices)) * devices
    raise ValueError(
      f"{where}={batch_size} cannot be divided over {devices} devices on "
      f"{jax.process_count()} host(s). Use a multiple of {devices}, such as "
      f"{nearest}."
    )


def unused_accelerator() -> str | None:
  """Says which accelerator seems present although JAX runs on the CPU."""
  if jax.default_backend() != "cpu":
    return None
  if "cpu" in (jax.config.jax_platforms or ""):
    return None  # The user asked for it.
  signs = {
    "an NVIDIA GPU (/dev/nvidia0)": os.path.exists("/dev/nvidia0"),
    "an AMD GPU (/dev/kfd)": os.path.exists("/dev/kfd"),
    "a TPU (/dev/accel0)": os.path.exists("/dev/accel0"),
    "a TPU (TPU_NAME)": "TPU_NAME" in os.environ,
  }
  for plugin in ("jax_cuda12_plugin", "jax_cuda13_plugin", "libtpu"):
    found = importlib.util.find_spec(plugin) is not None
    signs[f"the installed package {plugin}"] = found
  return next((sign for sign, found in signs.items() if found), None)
