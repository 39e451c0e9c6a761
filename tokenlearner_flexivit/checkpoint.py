"""Saves and restores the train state with orbax.

A checkpoint holds the state and the config of the run, preprocessing strings
included, so that nothing else is needed to use it.
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tokenlearner_flexivit import config as configuration

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"


def local_path(workdir: str | pathlib.Path) -> pathlib.Path:
  """Returns a workdir as a path.

  Raises:
    ValueError: the workdir is a URL.
  """
  if "://" in str(workdir):
    raise ValueError(
      f"--workdir={workdir} is no path of a file system. Mount the bucket (for "
      "Google Cloud Storage: gcsfuse) and give the path there."
    )
  return pathlib.Path(workdir)


def claim_workdir(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Writes `config.json`, or checks that the run there is of this config.

  Raises:
    ValueError: `workdir` holds a run of another config; names what differs.
  """
  if (workdir / CONFIG_FILE).exists():
    check_same_run(workdir, config)
  elif jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / f"{CONFIG_FILE}.partial"
    partial.write_text(json.dumps(config, indent=2) + "\n")
    partial.rename(workdir / CONFIG_FILE)


def check_same_run(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Raises ValueError if the run in `workdir` is not of this config."""
  differs = configuration.differences(read_config(workdir), config)
  if differs:
    shown = "\n  ".join(differs[:8])
    more = f"\n  and {len(differs) - 8} more" if len(differs) > 8 else ""
    raise ValueError(
      f"--workdir={workdir} holds a run of a different config (there -> now):"
      f"\n  {shown}{more}\nUse another workdir, or the old config to continue."
    )


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the config of the run in `workdir` as plain dicts and lists."""
  path = workdir / CONFIG_FILE
  if not path.exists():
    raise ValueError(f"--workdir={workdir} holds no run: {path} is missing.")
  return json.loads(path.read_text())


class Checkpoints:
  """The checkpoints of a workdir, the newest few of them kept."""

  def __init__(self, workdir: pathlib.Path, keep: int, config: dict[str, Any]):
    """Opens `workdir/checkpoints`.

    Args:
      workdir: shared by all hosts.
      keep: how many to keep, >= 1.
      config: stored in each of them.
    """
    if keep < 1:
      raise ValueError(f"config.keep_checkpoints={keep} must be >= 1.")
    self._config = config
    self._manager = ocp.CheckpointManager(
      workdir.absolute() / CHECKPOINTS,
      options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
    )

  @property
  def newest(self) -> int | None:
    """The step of the newest checkpoint, or None."""
    return self._manager.latest_step()

  def path(self, step: int) -> pathlib.Path:
    """Where the checkpoint of `step` lies."""
    return pathlib.Path(self._manager.directory) / str(step)

  def save(self, step: int, state: Any) -> None:
    """Saves in the background; the copy of `state` is taken at once."""
    if step in self._manager.all_steps():
      return
    if jax.process_count() > 1:
      state = jax.tree.map(_as_global, state)
    else:
      # One copy: of an array on several devices orbax would save slices, one
      # from each, and let the loop wait for it.
      state = jax.tree.map(lambda x: x.addressable_data(0), state)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        config=ocp.args.JsonSave(self._config),
      ),
    )

  def restore(self, step: int, state: Any) -> Any:
    """Returns the state saved at `step` as NumPy arrays.

    Args:
      step: one that exists.
      state: a tree of the same structure, shapes and dtypes.
    """
    everywhere = NamedSharding(Mesh(np.asarray(jax.devices()), ("all",)), P())
    template = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
      state,
    )
    restored = self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(template))
    )
    leaves = [
      np.asarray(x.addressable_data(0)) for x in jax.tree.leaves(restored.state)
    ]
    return jax.tree.unflatten(jax.tree.structure(state), leaves)

  def close(self) -> None:
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()
    self._manager.close()


def newest_step(workdir: pathlib.Path) -> int:
  """Returns the step of a workdir's newest checkpoint.

  Raises:
    ValueError: there is none.
  """
  directory = workdir / CHECKPOINTS
  steps = ocp.utils.checkpoint_steps(directory) if directory.exists() else []
  if not steps:
    raise ValueError(f"{workdir} holds no checkpoint of a run.")
  return max(steps)


def read_params(workdir: pathlib.Path) -> Any:
  """Returns the parameters to evaluate from a workdir's newest checkpoint.

  The moving average if the run kept one. Nested dicts of NumPy arrays, read
  without knowing the optimizer.

  Raises:
    ValueError: no checkpoint there.
  """
  directory = (workdir / CHECKPOINTS).absolute()
  path = directory / str(newest_step(workdir)) / "state"
  handler = ocp.PyTreeCheckpointHandler()
  saved = handler.metadata(path).tree
  name = "params" if saved["ema"] is None else "ema"
  wanted = {name: saved[name]}
  # As NumPy arrays: the devices that saved them need not be here.
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  restored = handler.restore(
    path,
    args=ocp.args.PyTreeRestore(
      item=wanted,
      restore_args=jax.tree.map(lambda _: as_numpy, wanted),
      partial_restore=True,
    ),
  )
  handler.close()
  return restored[name]


def _as_global(x: jax.Array) -> jax.Array:
  """A global array of one that every host holds in full."""
  if x.is_fully_addressable:
    return ocp.utils.fully_replicated_host_local_array_to_global_array(x)
  return x
