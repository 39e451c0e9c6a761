"""Orbax's manager of checkpoints, for one host that waits for no other."""

import pathlib
from collections.abc import Callable

import jax

from tokenlearner_flexivit import terminal
from tokenlearner_flexivit.run import state_file

with terminal.root_logger_unchanged():
  import orbax.checkpoint as ocp


class Manager(ocp.CheckpointManager):
  """Saves a state and two JSON values, "config" and "notes", on this host.

  It leaves it to the loop to notice preemption. At a preempted step orbax
  subtracts two times. One of them has no time zone if its checkpoint is older
  than the manager, and the subtraction fails.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    keep: int,
    before_rename: Callable[[], None],
  ):
    """Opens a folder that exists.

    Args:
      directory: of the checkpoints.
      keep: how many to keep.
      before_rename: called when all files of a checkpoint are written.
    """
    # The others wait for nothing, whatever happens to the disk.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    # By default process 0 alone would write JSON.
    json = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
    handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
    handlers.add("state", state_file.State, state_file.Handler())
    handlers.add("config", ocp.args.JsonSave, json)
    handlers.add("notes", ocp.args.JsonSave, json)
    super().__init__(
      directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        lightweight_initialize=True,
        # Threads would wait for ten minutes for folders that a save that fails
        # at its beginning does not create, and the program would not end.
        async_options=ocp.options.AsyncOptions(
          create_directories_asynchronously=False,
          post_finalization_callback=before_rename,
        ),
        multiprocessing_options=alone,
      ),
      handler_registry=handlers,
    )

  def reached_preemption(self, step: int) -> bool:
    """Returns False, whatever the step."""
    return False
