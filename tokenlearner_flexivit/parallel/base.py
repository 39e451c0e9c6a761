"""The interface of parallelism over devices."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax
import numpy as np


class Parallel(Protocol):
  """A way to place states and batches on devices and to run programs there.

  Training and evaluation call these methods and need to know neither how the
  devices share the work nor what their axis is called. `mean` to `index` are
  called inside of the functions that are passed to `run`.

  Attributes:
    compiles_ahead: whether `compile` compiles at once, rather than at the first
      call.
  """

  compiles_ahead: bool

  def check_batch_size(self, batch_size: int, where: str) -> None:
    """Raises ValueError if the devices cannot share a batch evenly."""

  def place(self, tree: Any) -> Any:
    """Returns a tree, such as the state, placed on the devices."""

  def place_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns this host's share of a batch, sent to its devices."""

  def prefetch(
    self, batches: Iterable[dict[str, np.ndarray]], depth: int = 2
  ) -> Iterator[dict[str, jax.Array]]:
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

  def compile(
    self, function: Callable[..., Any], *arguments: Any, donate: bool = False
  ) -> Callable[..., Any]:
    """Returns `run(function)`, compiled for arguments of these shapes."""

  def mean(self, tree: Any) -> Any:
    """Returns the mean over all devices."""

  def sum(self, tree: Any) -> Any:
    """Returns the sum over all devices."""

  def gather(self, tree: Any) -> Any:
    """Returns the batches of all devices as one: [b, ...] -> [B, ...]."""

  def shift(self, tree: Any) -> Any:
    """Returns the previous device's tree, on the first device the last's."""

  def index(self) -> jax.Array:
    """Returns the number of this device, int32 scalar."""
