"""Checks of a model's arguments, which a config or a JSON file may hold."""

import numbers
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

DTYPES = ("float32", "bfloat16", "float16")


def whole(value: Any, name: str, least: int | None = 1) -> None:
  """Raises ValueError unless a value is a whole number of at least `least`."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise ValueError(f"{name} must be a whole number, got {value!r}.")
  if least is not None and value < least:
    raise ValueError(f"{name} must be at least {least}, got {value}.")


def number(value: Any, name: str) -> None:
  """Raises ValueError unless a value is a number."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise ValueError(f"{name} must be a number, got {value!r}.")


def share(value: Any, name: str) -> None:
  """Raises ValueError unless a value is a number in [0, 1)."""
  number(value, name)
  if not 0 <= value < 1:
    raise ValueError(f"{name} must be in [0, 1), got {value}.")


def choice(value: Any, name: str, known: Iterable[Any]) -> None:
  """Raises ValueError unless a value is a known one, listing those."""
  if value not in (known := tuple(known)):
    raise ValueError(f"Unknown {name} {value!r}. Known: {', '.join(known)}.")


def dtype(value: Any) -> jnp.dtype:
  """Returns the dtype of a computation, or raises ValueError."""
  name = getattr(value, "__name__", str(value))
  choice(name, "dtype", DTYPES)
  return jnp.dtype(name)


def boolean(value: Any, name: str) -> None:
  """Raises ValueError unless a value is True or False."""
  if not isinstance(value, bool):
    raise ValueError(f"{name} must be True or False, got {value!r}.")


def no_explicit_axes(value: ArrayLike, name: str) -> None:
  """Raises ValueError if an array is sharded over explicit axes of a mesh."""
  spec = jax.typeof(value).sharding.spec  # It leaves automatic axes out.
  if any(axes is not None for axes in spec):
    raise ValueError(
      f"{name} {list(value.shape)} are sharded as {spec} over explicit axes of"
      " a mesh, which these models do not take. Create the mesh with automatic"
      " axes: jax.make_mesh(sizes, names, axis_types=(jax.sharding.AxisType."
      "Auto,) * len(names))."
    )


def reads_patches(model: Any, who: str) -> None:
  """Raises ValueError for a pooling or norm that a dense network cannot use.

  Args:
    model: with the fields `pool` and `norm`.
    who: the network, for the error.
  """
  if model.pool not in ("gap", "tok"):
    raise ValueError(
      f"{who} reads every patch, so pool={model.pool!r} would have weights of"
      " no use. Set pool='gap', or 'tok' for a tower with a cls token."
    )
  if model.norm != "before_pool":
    raise ValueError(
      f"{who} reads every patch, so norm={model.norm!r} would leave out the"
      " last norm. Set norm='before_pool'."
    )
