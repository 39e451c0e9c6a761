"""Compiled programs, kept on disk from one start to the next."""

import platform

import jax

from tokenlearner_flexivit import paths


def use() -> None:
  """Keeps what is compiled, unless the user chose another folder.

  The folder is in ~/.cache/tokenlearner_flexivit/compiled. A program suits only
  the kind of processor that compiled it, so machines that share a home
  directory keep separate folders.
  """
  if jax.config.jax_compilation_cache_dir is None:
    folder = paths.cache_dir() / "compiled" / platform.node()
    jax.config.update("jax_compilation_cache_dir", str(folder))
