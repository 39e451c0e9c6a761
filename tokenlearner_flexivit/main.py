"""Trains or evaluates: python -m tokenlearner_flexivit.main --config=..."""

import os
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The run, such as configs/quickstart.py:runlocal."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Gets checkpoints, metrics, report; shared by all hosts."
)
_MODE = flags.DEFINE_enum(
  "mode",
  "train",
  ["train", "eval"],
  "train (and evaluate), or eval: evaluate what --workdir holds.",
)
_MULTIHOST = flags.DEFINE_bool(
  "multihost",
  False,
  "Joins the other processes first, as TPU pods, Slurm and Open MPI tell it, "
  "or as the following three flags do.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator_address", None, "host:port of process 0, for --multihost."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "How many processes there are, for --multihost."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Number of this process from 0 on, for --multihost."
)
# A host that says nothing for so long is dead, and the others stop.
_HEARTBEAT_SECONDS = 60
flags.mark_flags_as_required(["workdir"])


def main(argv: list[str]) -> None:
  """Runs what the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
  if not flags.FLAGS["verbosity"].present:
    # Orbax and TFDS tell a lot that is not news; --verbosity=0 shows it.
    logging.set_verbosity(logging.WARNING)
  # Imports after the flags: --help should be quick.
  _join_processes()
  from tokenlearner_flexivit import (
    checkpoint,
    preemption,
    program_cache,
    progress,
    train,
  )

  program_cache.use()
  if _MODE.value == "eval":
    train.evaluate(_CONFIG.value, _WORKDIR.value)
    return
  if _CONFIG.value is None:
    raise app.UsageError(
      "--mode=train needs --config, such as --config=configs/quickstart.py"
    )
  try:
    train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
  except preemption.PreemptedError as stopped:
    progress.say(str(stopped))
    sys.exit(preemption.EXIT_CODE)
  except checkpoint.CheckpointError:
    traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # Threads that could not save may never end.


def _join_processes() -> None:
  """Connects the processes of a run, as the flags say."""
  given = {
    "coordinator_address": _COORDINATOR.value,
    "num_processes": _NUM_PROCESSES.value,
    "process_id": _PROCESS_ID.value,
  }
  missing = [f"--{name}" for name, value in given.items() if value is None]
  if not _MULTIHOST.value and len(missing) < len(given):
    raise app.UsageError("--coordinator_address and such need --multihost.")
  if 0 < len(missing) < len(given):
    raise app.UsageError(
      f"{', '.join(missing)} missing: the flags of --multihost come together, "
      "or none of them where the cluster is known (TPU, Slurm, Open MPI)."
    )
  if not _MULTIHOST.value:
    return
  import jax

  try:
    jax.distributed.initialize(
      **given, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
  except ValueError as error:
    raise app.UsageError(
      f"--multihost: {error} Give --coordinator_address=HOST:PORT, "
      "--num_processes and --process_id."
    ) from None


if __name__ == "__main__":
  app.run(main)
