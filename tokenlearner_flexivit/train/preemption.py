"""Stopping a run so that it can go on: SIGTERM and SIGINT as a request.

Clusters send SIGTERM before they take a machine away, people press Ctrl-C. The
loop asks `reached(step)` after each step; when it says so, on all hosts after
the same step, the loop saves and raises `PreemptedError`, which `main` turns
into the exit code 75. Started again, the same command continues. A process
alone does not wait for the end of what may take long: before its first step,
such as while it compiles, there is nothing to save, and an evaluation is done
again.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: it failed for now, try again.
EXIT_CODE = 75


class PreemptedError(RuntimeError):
  """The run was asked to stop, and has saved what it had done."""


class Preemption:
  """Notices requests to stop, from its creation until `close`.

  With several processes JAX's coordination service notices SIGTERM in any of
  them and agrees with all on the step; SIGINT is passed on to it. A second
  signal ends a process of its own at once, without saving.

  A program that Python runs inside of (R, uWSGI) may handle a signal without
  Python. Such a handler could not be put back, so it stays and decides.
  """

  def __init__(self):
    """Takes over the two signals; outside the main thread it cannot."""
    self._signal: signal.Signals | None = None
    self._at_once = True
    self._together = jax.process_count() > 1
    self._previous = {}
    if threading.current_thread() is not threading.main_thread():
      return
    if self._together:
      self._take_over(signal.SIGINT, self._pass_on)
    else:
      self._take_over(signal.SIGINT, self._note)
      self._take_over(signal.SIGTERM, self._note)

  def _take_over(self, number: signal.Signals, handler) -> None:
    previous = signal.getsignal(number)
    if previous is None:  # It is not Python's.
      return
    signal.signal(number, handler)
    self._previous[number] = handler, previous

  def _note(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._signal = signal.Signals(number)
    self.close()
    if self._at_once:
      raise self._error()
    # Not print, which a signal may interrupt and which does not run twice.
    text = (
      f"\n{self._signal.name}: saving after this step. Again: stop at once."
    )
    with contextlib.suppress(OSError):
      os.write(1, f"{text}\n".encode())

  def _pass_on(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self.close()
    os.kill(os.getpid(), signal.SIGTERM)

  def reached(self, step: int) -> bool:
    """Tells whether to save and stop now.

    Args:
      step: steps done; every host asks after each of them.
    """
    self._at_once = False
    if self._together:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._signal is not None

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """Lets a signal raise `PreemptedError` inside; not in several processes."""
    if self._signal is not None:
      raise self._error()
    self._at_once = True
    try:
      yield
    finally:
      self._at_once = False

  def _error(self) -> PreemptedError:
    return PreemptedError(
      f"{self._signal.name}: stopped before the first step, there is nothing "
      "to save. The same command goes on."
    )

  def close(self) -> None:
    """Gives the signals back, unless others have taken them meanwhile."""
    while self._previous:
      number, (handler, previous) = self._previous.popitem()
      if signal.getsignal(number) == handler:
        signal.signal(number, previous)
