"""The train state as one safetensors file, written while training goes on.

Orbax's own handler opens a separate store for every array. For the hundreds of
small arrays of a small ViT that takes many times the work of writing them one
after another, and it slows the training. Every host holds the whole state, so
no pieces have to be put together. Arrays are named by their
paths, "params/head/bias": any tool that reads safetensors finds them. Every
block has a name, whether a loop runs the blocks or not.
"""

import dataclasses
import os
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.models import stacking

with terminal.root_logger_unchanged():
  import orbax.checkpoint as ocp

_FILE = "state.safetensors"


def named(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a tree by their paths, such as "params/head/bias".

  Raises:
    ValueError: two leaves have the same path.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  by_path = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }
  if len(by_path) < len(leaves):
    raise ValueError(f"Leaves share paths; there are {sorted(by_path)}.")
  return by_path


def read(directory: pathlib.Path, prefix: str = "") -> dict[str, np.ndarray]:
  """Returns the arrays whose names start with `prefix`, by name.

  Args:
    directory: the item of a checkpoint.
    prefix: such as "params/"; only arrays with this prefix are read.
  """
  # Not mapped: the file may be deleted while its arrays are in use.
  with safetensors.safe_open(
    directory / _FILE, framework="np", backend="pread"
  ) as file:
    names = [n for n in file.keys() if n.startswith(prefix)]  # noqa: SIM118
    return {name: file.get_tensor(name) for name in names}


def read_like(directory: pathlib.Path, state: Any) -> Any:
  """Reads a state that must have the names, shapes and dtypes of `state`.

  Args:
    directory: the item of a checkpoint.
    state: a tree of arrays, or of their shapes and dtypes.

  Returns:
    The same tree of NumPy arrays.

  Raises:
    ValueError: an array differs; names the first one.
  """
  stored, wanted = read(directory), named(state)
  for name in sorted(stored.keys() | wanted.keys()):
    in_file, in_run = (
      f"{x[name].dtype}{x[name].shape}" if name in x else "not there"
      for x in (stored, wanted)
    )
    if in_file != in_run:
      raise ValueError(
        f"{directory.parent}: {name} is {in_file}, but in the run {in_run}."
      )
  return jax.tree.unflatten(
    jax.tree.structure(state), [stored[name] for name in wanted]
  )


def specs(directory: pathlib.Path) -> dict[str, tuple[tuple[int, ...], str]]:
  """Returns shape and safetensors dtype, as "F32", of every array by name.

  Raises:
    ValueError: the file is not there or its header is damaged.
  """
  try:
    with safetensors.safe_open(
      directory / _FILE, framework="np", backend="pread"
    ) as file:
      slices = {n: file.get_slice(n) for n in file.keys()}  # noqa: SIM118
      return {
        name: (tuple(spec.get_shape()), spec.get_dtype())
        for name, spec in slices.items()
      }
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f"{directory / _FILE} cannot be read: {error}.") from error


class Handler(ocp.AsyncCheckpointHandler):
  """Orbax's handler of the checkpoint's item that holds the state."""

  async def async_save(self, directory: Any, args: "State") -> list[ocp.Future]:
    """Copies the state at once; the futures returned wait for the writing."""
    arrays = _copy(args.state)

    async def write() -> None:
      _write(arrays, pathlib.Path(directory))

    return [ocp.future.CommitFutureAwaitingContractedSignals(write())]

  def save(self, directory: Any, args: "State") -> None:
    """Writes the state before it returns."""
    _write(_copy(args.state), pathlib.Path(directory))

  def restore(self, directory: Any, args: Any = None) -> dict[str, np.ndarray]:
    """Returns all arrays by name."""
    return read(pathlib.Path(directory))


def _copy(state: Any) -> dict[str, np.ndarray]:
  jax.tree.map(lambda x: x.copy_to_host_async(), state)
  # On CPU, NumPy would view memory that the next step donates.
  state = jax.tree.map(np.array, state)
  # Unstacked here, where blocks are views, and not on a device that is full.
  return named(stacking.unstack(state))


def _write(arrays: dict[str, np.ndarray], directory: pathlib.Path) -> None:
  with paths.whole(directory / _FILE) as partial:
    safetensors.numpy.save_file(arrays, partial)
    with partial.open("rb") as file:
      os.fsync(file.fileno())


@ocp.args.register_with_handler(Handler, for_save=True, for_restore=True)
@dataclasses.dataclass
class State(ocp.args.CheckpointArgs):
  """The argument of `Handler`: a state to write, or none to read one.

  Attributes:
    state: a tree of `jax.Array`s of which this host holds all.
  """

  state: Any = None
