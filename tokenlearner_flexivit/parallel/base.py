"""What the rest of the library asks of parallelism."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax
import numpy as np


class Parallel(Protocol):
  """Places states and batches on devices, runs programs there, reduces.

  Whoever trains or evaluates calls these, and knows neither how the devices
  share the work nor what their axis is called. `mean` to `index` are called
  inside of the functions that `run` is given.

  Attributes:
    compiles_ahead: whether `compile` compiles at once, rather than at the first
      call.
  """

  compiles_ahead: bool

  def check_batch_size(self, batch_size: int, where: str) -> None:
    """Raises ValueError if the devices cannot share a batch evenly."""

  def place(self, tree: Any) -> Any:
    """Places a tree, such as the state, on the devices."""

  def place_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Sends this host's share of a batch to its devices."""

  def prefetch(
    self, batches: Iterable[dict[str, np.ndarray]], depth: int = 2
  ) -> Iterator[dict[str, jax.Array]]:
    """Keeps `depth` batches on their way to the devices ahead of the step."""

  def run(
    self,
    function: Callable[..., Any],
    *,
    donate: bool = False,
    sharded_output: bool = False,
    num_constants: int = 0,
  ) -> Callable[..., Any]:
    """Returns what runs `function(state, batch, *constants)` on all devices."""

  def compile(
    self, function: Callable[..., Any], *arguments: Any, donate: bool = False
  ) -> Callable[..., Any]:
    """Returns `run` of a function, compiled for arguments of these shapes."""

  def mean(self, tree: Any) -> Any:
    """Returns the mean over all devices."""

  def sum(self, tree: Any) -> Any:
    """Returns the sum over all devices."""

  def gather(self, tree: Any) -> Any:
    """Returns the batch of all devices: leaves [b, ...] -> [B, ...]."""

  def shift(self, tree: Any) -> Any:
    """Returns the tree of the device before, the last one's on the first."""

  def index(self) -> jax.Array:
    """Returns the number of this device, int32 scalar."""
