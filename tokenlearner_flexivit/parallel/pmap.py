"""Data parallelism by `jax.pmap`: every device holds all of the state."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int32, PyTree, Shaped

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.parallel.base import DeviceBatch, HostBatch

_AXIS = "batch"


class Pmap:
  """The parallelism of one program on every device's share of the batch.

  The state has no device axis, and each device holds all of it. Programs
  average over the devices themselves, with `mean`.
  """

  def __init__(self, devices: Sequence[jax.Device] | None = None):
    """Chooses the devices.

    Args:
      devices: of all hosts; None for those that there are. Programs for others,
        such as those of `topologies`, can only be lowered.
    """
    self._devices = devices

  # With several processes a compiled pmap takes global arrays, where a call of
  # pmap takes this host's part.
  @property
  def compiles_ahead(self) -> bool:
    """Tells whether `compile` compiles at once, not at the first call."""
    return jax.process_count() == 1

  # ---- Outside of programs ---------------------------------------------------

  @property
  def num_devices(self) -> int:
    """Returns the number of devices of all hosts."""
    return len(self._all_devices)

  def check_batch_size(self, batch_size: int, where: str) -> None:
    """Raises ValueError if the devices cannot share a batch evenly."""
    devices = self.num_devices
    hosts = len({device.process_index for device in self._all_devices})
    if batch_size < 1 or batch_size % devices:
      nearest = max(1, round(batch_size / devices)) * devices
      raise ValueError(
        f"{where}={batch_size} cannot be divided over "
        f"{terminal.counted(devices, 'device')} on "
        f"{terminal.counted(hosts, 'host')}. Use a multiple of {devices}, such "
        f"as {nearest}."
      )

  def place(self, tree: Any) -> Any:
    """Returns a tree, such as the state, placed on all devices of this host."""
    # A donated argument that has not arrived would be deleted on its way.
    return jax.device_put(tree, NamedSharding(self._mesh, P()))

  def place_batch(
    self, batch: HostBatch
  ) -> dict[str, Shaped[Array, "local_devices b ..."]]:
    """Returns this host's share of a batch, sent to its devices."""
    count = jax.local_device_count()
    sharding = NamedSharding(self._mesh, P(_AXIS))
    return {
      key: jax.device_put(value.reshape(count, -1, *value.shape[1:]), sharding)
      for key, value in batch.items()
    }

  def batch_shapes(
    self, example: Mapping[str, Any], batch_size: int
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch of all hosts, placed on their devices.

    Args:
      example: one example, of arrays without an axis for the batch.
      batch_size: the number of examples on all devices together.
    """
    count = self.num_devices
    axes = count, batch_size // count
    return {
      key: jax.ShapeDtypeStruct((*axes, *np.shape(value)), value.dtype)
      for key, value in example.items()
    }

  def prefetch(
    self, batches: Iterable[HostBatch], depth: int = 2
  ) -> Iterator[DeviceBatch]:
    """Yields placed batches, with `depth` more on their way to the devices.

    An error of `batches` is raised in its place, after the batches before it.
    """
    batches = iter(batches)
    queue = collections.deque()
    error = None
    while error is None:
      try:
        queue.append(self.place_batch(next(batches)))
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

  def run(
    self,
    function: Callable[..., Any],
    *,
    donate: bool = False,
    sharded_output: bool = False,
    num_constants: int = 0,
  ) -> Callable[..., Any]:
    """Returns a function that runs `function` on all devices.

    Args:
      function: the program of one device, a function of (state, batch,
        *constants). The state and the constants are the same trees on all
        devices; `batch` is the device's share, leaves of shape [b, ...].
        Outputs must be equal on all devices, such as by `mean`, unless
        `sharded_output` is True.
      donate: whether the buffers of the state may be reused.
      sharded_output: whether outputs have the layout of a batch from
        `place_batch`.
      num_constants: number of constants.

    Returns:
      A function of a tree from `place`, a batch from `place_batch`, and
      constants from `place`.
    """
    return _one_at_a_time(
      self._mapped(function, donate, sharded_output, num_constants)
    )

  def lower(
    self,
    function: Callable[..., Any],
    *arguments: Any,
    donate: bool = False,
  ) -> Callable[[], Callable[..., Any]]:
    """Returns a function that compiles `run(function)`, traced here.

    Args:
      function: as in `run`.
      *arguments: of these shapes will be the program's.
      donate: as in `run`.
    """
    if not self.compiles_ahead:
      mapped = self._mapped(function, donate, False, len(arguments) - 2)
      return lambda: _one_at_a_time(mapped)
    lowered = self.lower_program(function, *arguments, donate=donate)
    return lambda: _one_at_a_time(lowered.compile())

  def lower_program(
    self,
    function: Callable[..., Any],
    *arguments: Any,
    donate: bool = False,
  ) -> jax.stages.Lowered:
    """Returns `run(function)`, traced for arguments of these shapes."""
    mapped = self._mapped(function, donate, False, len(arguments) - 2)
    return mapped.lower(*arguments)

  def compile(
    self,
    function: Callable[..., Any],
    *arguments: Any,
    donate: bool = False,
  ) -> Callable[..., Any]:
    """Returns `run(function)`, compiled for arguments of these shapes."""
    return self.lower(function, *arguments, donate=donate)()

  # ---- Inside of programs ----------------------------------------------------

  def mean(self, tree: Any) -> Any:
    """Returns the mean over all devices."""
    return jax.lax.pmean(tree, _AXIS)

  def sum(self, tree: Any) -> Any:
    """Returns the sum over all devices."""
    return jax.lax.psum(tree, _AXIS)

  def gather(
    self, tree: PyTree[Shaped[Array, "b ..."]]
  ) -> PyTree[Shaped[Array, "B ..."]]:
    """Returns the batches of all devices as one."""
    return jax.lax.all_gather(tree, _AXIS, tiled=True)

  def shift(self, tree: Any) -> Any:
    """Returns the previous device's tree, on the first device the last's."""
    count = jax.lax.axis_size(_AXIS)
    ring = [(i, (i + 1) % count) for i in range(count)]
    return jax.lax.ppermute(tree, _AXIS, ring)

  def index(self) -> Int32[Array, ""]:
    """Returns the number of this device, from 0 on."""
    return jax.lax.axis_index(_AXIS)

  # ---- Details ---------------------------------------------------------------

  @property
  def _all_devices(self) -> Sequence[jax.Device]:
    return jax.devices() if self._devices is None else self._devices

  @property
  def _mesh(self) -> Mesh:
    return Mesh(np.asarray(jax.local_devices()), (_AXIS,))

  def _mapped(self, function, donate, sharded_output, num_constants):
    return jax.pmap(
      function,
      axis_name=_AXIS,
      in_axes=(None, 0, *(None,) * num_constants),
      out_axes=0 if sharded_output else None,
      donate_argnums=(0,) if donate else (),
      devices=self._devices,
    )


def _one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a function that waits for each call's end on several CPU devices.

  XLA's CPU backend runs all virtual devices in one thread pool: the
  collectives of two steps in flight can take each other's threads and wait
  forever. On other backends, and on a single device, the function itself is
  returned.
  """
  if jax.default_backend() != "cpu" or jax.device_count() == 1:
    return function

  @functools.wraps(function, updated=())
  def call(*args: Any) -> Any:
    return jax.block_until_ready(function(*args))

  return call
