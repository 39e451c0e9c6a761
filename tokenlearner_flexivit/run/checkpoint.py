"""Saves and restores the train state with orbax, and survives what disks do.

A checkpoint holds the state (`state_file`) and the config of the run, with the
preprocessing strings, so that nothing else is needed to use it. It appears
under its name when it is complete, with checksums of its files: one that is
damaged later is found, and the one before it is used.
"""

import contextlib
import copy
import errno
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.parallel import hosts
from tokenlearner_flexivit.run import (
  checksums,
  disk_errors,
  orbax_manager,
  state_file,
)
from tokenlearner_flexivit.run import workdir as workdir_lib

with terminal.root_logger_unchanged():
  import orbax.checkpoint as ocp

CHECKPOINTS = workdir_lib.CHECKPOINTS
CORRUPT = ".corrupt"  # The suffix of damaged checkpoints, which are kept.
_WAIT_FOR_HOST_SECONDS = 120  # For one that saves for others, too.
# Orbax writes these when the checksums are done; nothing is read from them.
_UNCHECKED = ("_CHECKPOINT_METADATA", "commit_success.txt")


class CheckpointError(RuntimeError):
  """Checkpoints could not be saved; says which and why."""


class Checkpoints:
  """The checkpoints of a workdir, the newest few of them kept.

  A save that fails does not stop the training: it is reported, what is on disk
  stays, and the next save tries again. All hosts must call each method
  except `save_alone`; process 0 writes, since every host holds the whole state.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    keep: int,
    config: dict[str, Any],
    max_failures: int = 3,
    before_first: Callable[[], None] = lambda: None,
  ):
    """Opens `workdir/checkpoints` and removes what a killed run left half done.

    Args:
      workdir: shared by all hosts, used by no other run (`workdir.Lock`).
      keep: how many to keep, >= 1; with 1 none replaces a damaged one.
      config: stored in each of them.
      max_failures: the run stops when so many saves in a row fail, >= 1.
      before_first: called by process 0 before it saves first, and again before
        the next save if it fails, which counts as a save that failed.
    """
    self._before_first = before_first
    self._config = config
    self._keep = keep
    self._max_failures = max_failures
    self._directory = (workdir / CHECKPOINTS).absolute()
    self._writes = jax.process_index() == 0
    self._manager = None
    self._requested = None  # The step of the last call of `save`.
    self._saving = None  # The step that is being saved in the background.
    self._failures = []  # Of the saves since the last good one.
    with hosts.together():
      if self._writes:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._remove_half_written()

  @property
  def newest(self) -> int | None:
    """Returns the newest step, or None; waits for a running save."""
    self._finish_save()
    return max(_steps(self._directory), default=None)

  def path(self, step: int) -> pathlib.Path:
    """Returns the folder of the checkpoint of `step`."""
    return self._directory / str(step)

  # ---- Saving ----------------------------------------------------------------

  def save(
    self, step: int, state: Any, *, notes: Any = None, must: bool = False
  ) -> None:
    """Saves in the background; copies of `state` and `notes` are taken at once.

    A failure of the previous save in the background is reported here, too.

    Args:
      step: if it has a checkpoint already, nothing is done.
      state: arrays of which every host holds all; stacks of blocks are saved
        as blocks (see `models.stacking`).
      notes: JSON values to keep with it, which the method `notes` returns.
      must: waits until it is on disk, and raises if it is not: for the last.

    Raises:
      CheckpointError: this was the last of `max_failures` in a row, or `must`.
      RuntimeError: the same, in the processes other than 0.
    """
    self._requested = step
    if self._writes:
      self._finish_save()
      if not self.path(step).is_dir():
        self._start_save(step, state, notes)
      if must:
        self._finish_save()
    error = None
    lost = must and self._writes and not self.path(step).is_dir()
    if lost or len(self._failures) >= self._max_failures:
      error = self._error()
    hosts.raise_together(error)

  def save_alone(self, step: int, state: Any, *, notes: Any = None) -> bool:
    """Saves on this host, while others may be waiting for it elsewhere.

    Of several hosts that call it at the same step one saves, and the others
    wait for it, since the end of one may end them all.

    The arguments are those of `save`.

    Returns:
      Whether the checkpoint is on disk; if not, a line says why.
    """
    self._finish_save()
    path = self.path(step)
    # Its suffix makes the next start remove it, should this process be killed.
    claim = path.with_name(f"{step}{ocp.utils.TMP_DIR_SUFFIX}.alone")
    if step == self._requested and not self._writes:
      _wait_until(path.is_dir)  # Process 0 is saving it.
      return path.is_dir()
    try:
      claim.mkdir()
    except FileExistsError:
      _wait_until(lambda: not claim.exists())
      return path.is_dir()
    except OSError:
      pass  # Saving reports it.
    if not path.is_dir():
      self._start_save(step, state, notes)
      self._finish_save()
    with contextlib.suppress(OSError):
      claim.rmdir()
    return path.is_dir()

  def _start_save(self, step: int, state: Any, notes: Any) -> None:
    state = jax.tree.map(lambda x: x.addressable_data(0), state)
    self._saving = step
    try:
      if not self._directory.is_dir():
        raise FileNotFoundError(
          errno.ENOENT, "The folder is gone", str(self._directory)
        )
      self._before_first()
      self._before_first = lambda: None
      if self._manager is None:
        self._manager = orbax_manager.Manager(
          self._directory, self._keep, self._write_checksums
        )
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=state_file.State(state),
          config=ocp.args.JsonSave(self._config),
          notes=ocp.args.JsonSave({"notes": copy.deepcopy(notes)}),
        ),
        force=True,  # The caller has decided that it is due.
      )
    except Exception as error:  # Libraries raise errors of many types.
      self._note_failure(error)

  def _finish_save(self) -> None:
    """Waits for the save in the background, and notes whether it failed."""
    if self._saving is None:
      return
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      self._note_failure(error)
    else:
      self._saving = None
      self._failures.clear()

  def _write_checksums(self) -> None:
    """Writes checksums in the background, before orbax renames the folder."""
    folder = self._directory / f"{self._saving}{ocp.utils.TMP_DIR_SUFFIX}"
    checksums.write(folder, skip=_UNCHECKED)

  def _note_failure(self, error: Exception) -> None:
    # The state of its threads is unknown; the next save gets a new one.
    if self._manager is not None:
      with contextlib.suppress(Exception):
        self._manager.close()
      self._manager = None
    step, self._saving = self._saving, None
    why = disk_errors.describe(error)
    if self.path(step).is_dir():
      self._failures.clear()
      terminal.write(
        f"WARNING: {self.path(step)} is saved, but older ones could not be "
        f"removed: {why}"
      )
      return
    self._remove_half_written(step)
    self._failures.append(f"step {step}: {why}")
    newest = max(_steps(self._directory), default=None)
    good = "there is none" if newest is None else self.path(newest)
    terminal.write(
      f"WARNING: NO CHECKPOINT of step {step} in {self._directory} (failure "
      f"{len(self._failures)} in a row; the run stops after "
      f"{self._max_failures}): {why} Newest checkpoint: {good}"
    )

  def _remove_half_written(self, step: int | str = "*") -> None:
    for folder in self._directory.glob(f"{step}{ocp.utils.TMP_DIR_SUFFIX}*"):
      shutil.rmtree(folder, ignore_errors=True)

  def _error(self) -> CheckpointError:
    failures = "\n  ".join(self._failures)
    return CheckpointError(
      f"No checkpoint could be saved in {self._directory}:\n  {failures}\nWhen "
      "that is mended, the same command continues from the newest checkpoint."
    )

  def close(self) -> None:
    """Waits until everything is on disk.

    Raises:
      CheckpointError: the last save failed; printed during another exception.
    """
    self._finish_save()
    if self._manager is not None:
      self._manager.close()
      self._manager = None
    if self._failures and sys.exception() is None:
      raise self._error()

  # ---- Restoring -------------------------------------------------------------

  def restore_newest(self, state: Any) -> tuple[int, Any] | None:
    """Returns the newest undamaged checkpoint.

    Newer damaged ones are named in a warning and renamed to STEP.corrupt, so
    that their steps can be saved again.

    Args:
      state: a tree of the same structure, shapes and dtypes.

    Returns:
      The step and the state, as NumPy arrays; None if there is no checkpoint.

    Raises:
      ValueError: all are damaged, or of another structure than `state`.
      RuntimeError: another process raises this ValueError.
    """
    self._finish_save()
    damaged = {}
    steps = hosts.of_first_host(sorted(_steps(self._directory), reverse=True))
    for step in steps:
      damage = checksums.find_damage(self.path(step), skip=_UNCHECKED)
      see_damage = hosts.where(damage is not None)
      if not see_damage:
        self._set_aside(damaged, step)
        with hosts.together():
          restored = state_file.read_like(self.path(step) / "state", state)
        return step, restored
      damaged[step] = damage or (
        f"process {see_damage[0]} cannot read it as it was written"
      )
    if damaged:
      raise ValueError(
        f"All checkpoints in {self._directory} are damaged: "
        + "; ".join(f"{step}: {damage}" for step, damage in damaged.items())
        + ". Bring one back from a copy, or train from the start in another "
        "workdir."
      )
    return None

  def _set_aside(self, damaged: dict[int, str], good: int) -> None:
    with hosts.together():
      for step, damage in damaged.items() if self._writes else ():
        aside, count = self.path(step).with_suffix(CORRUPT), 1
        while aside.exists():
          count += 1
          aside = self.path(step).with_suffix(f"{CORRUPT}{count}")
        terminal.say(
          f"WARNING: the checkpoint {self.path(step)} is damaged: {damage}. "
          f"Falling back to {self.path(good)}; the damaged one is kept as "
          f"{aside.name}."
        )
        self.path(step).rename(aside)

  def notes(self, step: int) -> Any:
    """Returns the notes that were saved with a checkpoint; all must call it."""
    notes = None
    with hosts.together():
      if self._writes:
        notes = workdir_lib.read_notes(self.path(step))
    return hosts.of_first_host(notes)


def steps(workdir: pathlib.Path) -> list[int]:
  """Returns the steps of a workdir's checkpoints, intact or not."""
  return sorted(_steps(workdir / CHECKPOINTS))


def newest_step(workdir: pathlib.Path) -> int:
  """Returns the step of a workdir's newest checkpoint, intact or not.

  Raises:
    ValueError: there is none.
  """
  newest = max(steps(workdir), default=None)
  if newest is None:
    raise ValueError(f"{workdir} holds no checkpoint of a run.")
  return newest


def read_params(workdir: pathlib.Path, step: int | None = None) -> Any:
  """Returns the parameters to evaluate from a checkpoint of a workdir.

  They are the moving average if the run kept one, as nested dicts of NumPy
  arrays. Reading them does not need the optimizer.

  Args:
    workdir: of a run.
    step: of the checkpoint; None for the newest.

  Raises:
    ValueError: no checkpoint there, or it is damaged.
  """
  path = _intact(workdir, step) / "state"
  for prefix in ("ema/", "params/"):
    if arrays := state_file.read(path, prefix):
      break
  return traverse_util.unflatten_dict(
    {name.removeprefix(prefix): array for name, array in arrays.items()},
    sep="/",
  )


def param_specs(
  workdir: pathlib.Path,
) -> dict[str, tuple[tuple[int, ...], str]]:
  """Returns shape and safetensors dtype of each array of `read_params`.

  No array is read.

  Raises:
    ValueError: no checkpoint there, or its header is damaged.
  """
  step = newest_step(workdir)
  try:
    specs = state_file.specs(workdir / CHECKPOINTS / str(step) / "state")
  except ValueError:
    _intact(workdir)  # Says what is wrong.
    raise
  for prefix in ("ema/", "params/"):
    shapes = {
      name.removeprefix(prefix): spec
      for name, spec in specs.items()
      if name.startswith(prefix)
    }
    if shapes:
      break
  return shapes


def read_state(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the whole state of a workdir's newest checkpoint.

  The names are `step` and those that begin with params/, opt_state/ or ema/.

  Raises:
    ValueError: no checkpoint there, or the newest is damaged.
  """
  return state_file.read(_intact(workdir) / "state")


def _intact(workdir: pathlib.Path, step: int | None = None) -> pathlib.Path:
  """Returns the folder of a checkpoint after checking its files.

  Raises:
    ValueError: it is damaged, or there is none.
  """
  if step is None:
    step = newest_step(workdir)
  path = (workdir / CHECKPOINTS / str(step)).absolute()
  damage = checksums.find_damage(path, skip=_UNCHECKED)
  if damage is not None:
    raise ValueError(
      f"The checkpoint {path} is damaged: {damage}. The run falls back to the "
      "one before when it is continued; or rename this folder to use that one."
    )
  return path


def _wait_until(is_done: Callable[[], bool]) -> None:
  """Waits for what another host does to the disk, but not for ever."""
  end = time.monotonic() + _WAIT_FOR_HOST_SECONDS
  while not is_done() and time.monotonic() < end:
    time.sleep(0.1)


def _steps(directory: pathlib.Path) -> list[int]:
  """Returns the steps of the checkpoints that were written to the end."""
  if not directory.is_dir():
    return []
  return [int(p.name) for p in directory.iterdir() if p.name.isdecimal()]
