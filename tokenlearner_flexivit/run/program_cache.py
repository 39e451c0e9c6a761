"""Compiled programs, kept on disk from one start to the next."""

import platform

import jax

from tokenlearner_flexivit import paths


def use() -> None:
  """Keeps what is compiled, unless the user chose another folder.

  In ~/.cache/tokenlearner_flexivit/compiled. A program is for the processor
  that compiled it, so machines with one home keep their own.
  """
  if jax.config.jax_compilation_cache_dir is None:
    folder = paths.cache_dir() / "compiled" / platform.node()
    jax.config.update("jax_compilation_cache_dir", str(folder))
