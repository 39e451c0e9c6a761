"""Trains or evaluates: python -m tokenlearner_flexivit.main --config=..."""

import contextlib
import linecache
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags, logging

_CONFIG = flags.DEFINE_string(
  "config", None, "The run, such as configs/quickstart.py:runlocal."
)
_VALUES = flags.DEFINE_multi_string(
  "config_value",
  [],
  "KEY=VALUE in place of what the config says; --config.KEY=VALUE is short for "
  "it, such as --config.optimizer.lr=1e-3.",
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
# A host that is silent for so long counts as dead, and the others stop.
_HEARTBEAT_SECONDS = 60
# If all hosts have an error, all have it within this time.
_TOGETHER_SECONDS = 10
flags.mark_flags_as_required(["workdir"])


def main(argv: list[str]) -> None:
  """Runs the training or evaluation that the flags describe."""
  if len(argv) > 1:
    raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
  if not flags.FLAGS["verbosity"].present:
    # Orbax and TFDS log many unimportant messages; --verbosity=0 shows them.
    logging.set_verbosity(logging.WARNING)
  # Imported after the flags are parsed, so that --help is quick.
  _join_processes()
  import jax

  from tokenlearner_flexivit import terminal, train
  from tokenlearner_flexivit.parallel import hosts
  from tokenlearner_flexivit.run import program_cache
  from tokenlearner_flexivit.train import preemption

  program_cache.use()
  terminal.prepare()
  with _end_for_all(), _errors_in_a_line():
    # Training and evaluation would wait for one another.
    hosts.check_alike("--mode", _MODE.value)
    # With another number the processes would never end.
    hosts.check_alike("--num_processes", _NUM_PROCESSES.value)
    with hosts.together():
      config = _read_config()
      if config is None:
        raise app.UsageError(
          "--mode=train needs --config, such as --config=configs/quickstart.py,"
          " unless --workdir holds a run that is to be continued."
        )
    if _MODE.value == "eval":
      train.evaluate(config, _WORKDIR.value)
      return
    try:
      train.train_and_evaluate(config, _WORKDIR.value)
    except preemption.PreemptedError as stopped:
      terminal.say(str(stopped))
      if jax.process_count() == 1:  # Programs may still be compiled.
        _exit_at_once(preemption.EXIT_CODE)
      sys.exit(preemption.EXIT_CODE)


def _read_config() -> Any:
  """Returns the config of the flags, or of the run in --workdir.

  Without a config file, the run in the workdir is continued or evaluated, even
  if the file could no longer be read, for example because the weights that it
  starts from are gone. Returns None if there is neither.
  """
  import ml_collections

  from tokenlearner_flexivit import overrides, paths, terminal
  from tokenlearner_flexivit.run import workdir
  from tokenlearner_flexivit.train import setup

  if _CONFIG.value is not None:
    config = overrides.load(_CONFIG.value)
  else:
    run = paths.local(_WORKDIR.value, "--workdir")
    if _MODE.value == "train" and not (run / workdir.CONFIG_FILE).exists():
      return None
    config = ml_collections.ConfigDict(
      workdir.read_config(run), allow_dotted_keys=True
    )
  for sentence in overrides.apply(config, _VALUES.value, setup.DEFAULTS):
    terminal.say(sentence)
  return config


@contextlib.contextmanager
def _end_for_all() -> Iterator[None]:
  """Ends the program after an error without waiting for others.

  Before a process exits, JAX waits for the others, for minutes, and they may
  wait for values that this one no longer computes. Threads that could not save
  a checkpoint may never end.
  """
  import jax

  from tokenlearner_flexivit.run import checkpoint

  try:
    yield
  except (Exception, SystemExit) as error:
    is_said = isinstance(error, SystemExit)
    if isinstance(error, app.UsageError) or (
      is_said and isinstance(error.code, int)
    ):
      raise
    cause = error.__context__ if is_said else error
    is_stuck = isinstance(cause, checkpoint.CheckpointError)
    if jax.process_count() == 1 and not is_stuck:
      raise
    if is_said:
      print(error.code, file=sys.stderr)
    else:
      traceback.print_exc()
    leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    try:
      leaving.start()
      leaving.join(_TOGETHER_SECONDS)
    finally:
      _exit_at_once(1)


def _exit_at_once(code: int) -> None:
  """Ends the process without waiting for its threads."""
  for stream in filter(None, (sys.stdout, sys.stderr)):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code)


@contextlib.contextmanager
def _errors_in_a_line() -> Iterator[None]:
  """Ends the program with one line for errors of this package or a config.

  Errors of other packages keep their traceback, unless they are about a file.
  So do unintended errors of this package, which come from no `raise`.
  """
  from tokenlearner_flexivit import overrides

  try:
    yield
  except (ImportError, OSError, RuntimeError, ValueError) as error:
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "").partition(".")[0]
    line = linecache.getline(frame.f_code.co_filename, number).lstrip()
    ours = ("tokenlearner_flexivit", "configs", overrides.MODULE)
    is_meant = module in ours and line.startswith("raise")
    if is_meant or (isinstance(error, OSError) and error.filename):
      sys.exit(f"Error: {error}")
    raise


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the flags, with any number of `--config.KEY=VALUE`."""
  from tokenlearner_flexivit import overrides

  values, others = overrides.split(argv)
  return app.parse_flags_with_usage(
    [*others[:1], *(f"--config_value={value}" for value in values), *others[1:]]
  )


def _join_processes() -> None:
  """Connects the processes of a run by the flags."""
  process_flags = {
    "coordinator_address": _COORDINATOR.value,
    "num_processes": _NUM_PROCESSES.value,
    "process_id": _PROCESS_ID.value,
  }
  missing = [
    f"--{name}" for name, value in process_flags.items() if value is None
  ]
  if not _MULTIHOST.value and len(missing) < len(process_flags):
    raise app.UsageError("--coordinator_address and such need --multihost.")
  if 0 < len(missing) < len(process_flags):
    raise app.UsageError(
      f"{', '.join(missing)} missing: the flags of --multihost come together, "
      "or none of them where the cluster is known (TPU, Slurm, Open MPI)."
    )
  if not _MULTIHOST.value:
    return
  address = _COORDINATOR.value
  if address is not None and not address.rpartition(":")[2].isdecimal():
    raise app.UsageError(
      f"--coordinator_address={address} has no port: give HOST:PORT, such as "
      f"{address.rstrip(':')}:8476."
    )
  import jax

  try:
    jax.distributed.initialize(
      **process_flags, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
  except ValueError as error:
    raise app.UsageError(
      f"--multihost: {error} Give --coordinator_address=HOST:PORT, "
      "--num_processes and --process_id."
    ) from None


if __name__ == "__main__":
  app.run(main, flags_parser=_parse_flags)
