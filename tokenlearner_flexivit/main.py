"""Trains or evaluates: python -m tokenlearner_flexivit.main --config=..."""

import platform

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
  "Joins the other processes first, as TPU pods, Slurm and Open MPI tell it.",
)
flags.mark_flags_as_required(["workdir"])


def main(argv: list[str]) -> None:
  """Runs what the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
  if not flags.FLAGS["verbosity"].present:
    # Orbax and TFDS tell a lot that is not news; --verbosity=0 shows it.
    logging.set_verbosity(logging.WARNING)
  import jax  # After the flags: --help should be quick.

  if _MULTIHOST.value:
    jax.distributed.initialize()
  from tokenlearner_flexivit import train
  from tokenlearner_flexivit.interop import download

  if jax.config.jax_compilation_cache_dir is None:
    # The next start finds what this one compiles. A program is for the
    # processor that compiled it, so machines with one home keep their own.
    folder = download.cache_dir() / "compiled" / platform.node()
    jax.config.update("jax_compilation_cache_dir", str(folder))
  if _MODE.value == "eval":
    train.evaluate(_CONFIG.value, _WORKDIR.value)
    return
  if _CONFIG.value is None:
    raise app.UsageError(
      "--mode=train needs --config, such as --config=configs/quickstart.py"
    )
  train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
  app.run(main)
