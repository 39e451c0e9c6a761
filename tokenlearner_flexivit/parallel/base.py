"""The interface of parallelism over devices."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Int32, PyTree, Shaped

HostBatch = dict[str, Shaped[np.ndarray, "host_batch ..."]]
DeviceBatch = dict[str, Shaped[Array, "..."]]


class Parallel(Protocol):
  """A way to place states and batches on devices and to run programs there.

  Training and evaluation call these methods and need to know neither how the
  devices share the work nor what their axis is called. `mean` to `index` are
  called inside of the functions that are passed to `run`.

  Attributes:
    compiles_ahead: whether `compile` compiles at once, rather than at the first
      call.
    num_devices: the number of devices of all hosts.
  """

  compiles_ahead: bool
  num_devices: int

  def check_batch_size(self, batch_size: int, where: str) -> None:
    """Raises ValueError if the devices cannot share a batch evenly."""

  def place(self, tree: Any) -> Any:
    """Returns a tree, such as the state, placed on the devices."""

  def place_batch(self, batch: HostBatch) -> DeviceBatch:
    """Returns this host's share of a batch, sent to its devices."""

  def batch_shapes(
    self, example: Mapping[str, Any], batch_size: int
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch of all hosts, placed on their devices."""

  def prefetch(
    self, batches: Iterable[HostBatch], depth: int = 2
  ) -> Iterator[DeviceBatch]:
    """Yields placed batches, with `depth` more on their way to the devices."""

  def run(
    self,
    function: Callable[..., Any],
    *,
    donate: bool = False,
    sharded_output: bool = False,
    num_constants: int = 0,
  ) -> Callable[..., Any]:
    """Returns a function that runs `function` on all devices."""

  def lower(
    self, function: Callable[..., Any], *arguments: Any, donate: bool = False
  ) -> Callable[[], Callable[..., Any]]:
    """Returns a function that compiles `run(function)`, in any thread.

    The function is traced here, with the settings of JAX of this thread.
    """

  def lower_program(
    self, function: Callable[..., Any], *arguments: Any, donate: bool = False
  ) -> jax.stages.Lowered:
    """Returns `run(function)`, traced for arguments of these shapes."""

  def compile(
    self, function: Callable[..., Any], *arguments: Any, donate: bool = False
  ) -> Callable[..., Any]:
    """Returns `run(function)`, compiled for arguments of these shapes."""

  def mean(self, tree: Any) -> Any:
    """Returns the mean over all devices."""

  def sum(self, tree: Any) -> Any:
    """Returns the sum over all devices."""

  def gather(
    self, tree: PyTree[Shaped[Array, "b ..."]]
  ) -> PyTree[Shaped[Array, "B ..."]]:
    """Returns the batches of all devices as one."""

  def shift(self, tree: Any) -> Any:
    """Returns the previous device's tree, on the first device the last's."""

  def index(self) -> Int32[Array, ""]:
    """Returns the number of this device, from 0 on."""
