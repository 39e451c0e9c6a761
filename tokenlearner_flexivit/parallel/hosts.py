"""Agreement between the hosts of a run, each of which is a process.

A host that stops alone leaves the others waiting for it in a collective
operation. So where an error may be that of one host, all learn of it and raise.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_ON_ALL_HOSTS = "_is_raised_on_all_hosts"


def raise_together(
  error: Exception | None, seconds: float | None = None
) -> None:
  """Raises on all hosts if one of them has an error; all must call it.

  Without it, the other hosts would wait for the one that stopped.

  Args:
    error: this host's, or None.
    seconds: how long a host with an error waits for the others, if these may
      be waiting for it elsewhere; None waits for ever.

  Raises:
    Exception: `error`.
    RuntimeError: this host has none, but another; names it.
  """
  failed = where(error is not None, seconds if error else None)
  if failed and error is None:
    error = RuntimeError(
      f"Stopped because of process {', '.join(map(str, failed))}, whose output "
      "says why."
    )
  if error is not None:
    if failed is not None:
      setattr(error, _ON_ALL_HOSTS, True)
    raise error


def where(condition: bool, seconds: float | None = None) -> list[int] | None:
  """Returns the numbers of the hosts whose condition is true.

  All hosts must call it.

  Args:
    condition: this host's.
    seconds: how long to wait for the others; None waits for ever.

  Returns:
    The numbers in order, None if time ran out.
  """
  if jax.process_count() == 1:
    return [0] if condition else []
  verdicts = []

  def exchange() -> None:
    gathered = multihost_utils.process_allgather(np.asarray(condition))
    verdicts.append(np.flatnonzero(gathered).tolist())

  if seconds is None:
    exchange()
  else:
    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    thread.join(seconds)
  return verdicts[0] if verdicts else None


def raised_on_all(error: Exception) -> bool:
  """Tells whether every host has raised an error where this one raised it."""
  return getattr(error, _ON_ALL_HOSTS, False)


@contextlib.contextmanager
def together(seconds: float | None = None) -> Iterator[None]:
  """Raises on all hosts if the code inside raises on one of them.

  All hosts must enter it. Inside, no host may wait for another, except in
  another `together` or `raise_together`.

  Args:
    seconds: as in `raise_together`.

  Raises:
    Exception: what was raised inside.
    RuntimeError: it was raised on another host.
  """
  error = None
  try:
    yield
  except Exception as raised:
    if raised_on_all(raised):
      raise
    error = raised
  raise_together(error, seconds)


def of_first_host(value: Any) -> Any:
  """Returns the value of process 0 on every host; all must call it.

  It is for values that depend on files or on the environment: hosts may see
  different values, take different branches, and then wait for each other.

  Args:
    value: a JSON value; that of the other processes is ignored.
  """
  if jax.process_count() == 1:
    return value
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  padded = np.resize(data, size)
  padded = np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)
  return json.loads(padded.tobytes())


def check_alike(name: str, value: Any) -> None:
  """Checks that a value is the same on all hosts; all must call it.

  Args:
    name: of the value, for the error.
    value: this host's, a JSON value.

  Raises:
    ValueError: process 0 has another value.
    RuntimeError: another host raises this ValueError.
  """
  first = of_first_host(value)
  with together():
    if value != first:
      raise ValueError(
        f"Process {jax.process_index()} has {name}={value}, but process 0 "
        f"{name}={first}. Start all processes alike."
      )
