"""Finds accelerators that JAX does not use."""

import importlib.util
import os

import jax


def unused_accelerator() -> str | None:
  """Returns the sign of an accelerator that JAX does not use, or None."""
  if jax.default_backend() != "cpu":
    return None
  if "cpu" in (jax.config.jax_platforms or ""):
    return None  # The user asked for it.
  signs = {
    "an NVIDIA GPU (/dev/nvidia0)": os.path.exists("/dev/nvidia0"),
    "an AMD GPU (/dev/kfd)": os.path.exists("/dev/kfd"),
    "a TPU (/dev/accel0)": os.path.exists("/dev/accel0"),
    "a TPU (TPU_NAME)": "TPU_NAME" in os.environ,
  }
  for plugin in ("jax_cuda12_plugin", "jax_cuda13_plugin", "libtpu"):
    is_installed = importlib.util.find_spec(plugin) is not None
    signs[f"the installed package {plugin}"] = is_installed
  return next((sign for sign, is_there in signs.items() if is_there), None)
