"""Requests by SIGTERM and SIGINT to stop a run so that it can continue later.

Clusters send SIGTERM before they take a machine away, people press Ctrl-C. The
loop calls `reached(step)` after each step. When it returns True, on all hosts
after the same step, the loop saves and raises `PreemptedError`, which `main`
turns into the exit code 75. The same command then continues the run. A single
process stops at once where nothing has to be saved: before its first step, such
as while it compiles, and in an evaluation, which is done again.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: a temporary failure, try again.
EXIT_CODE = 75


class PreemptedError(RuntimeError):
  """The error of a run that was asked to stop, and has saved its state."""


class Preemption:
  """A watch for requests to stop, from its creation until `close`.

  With several processes JAX's coordination service notices SIGTERM in any of
  them and agrees with all on the step; SIGINT is passed on to it. A second
  signal to a single process ends it at once, without saving.

  A program that embeds Python (R, uWSGI) may handle a signal without Python.
  Such a handler could not be restored, so it is left in place.
  """

  def __init__(self):
    """Takes over the two signals, if called in the main thread."""
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
    if previous is None:  # The handler is not Python's.
      return
    signal.signal(number, handler)
    self._previous[number] = handler, previous

  def _note(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._signal = signal.Signals(number)
    self.close()
    if self._at_once:
      raise self._error()
    # Not print, which a signal may interrupt and which is not reentrant.
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
      step: steps done; every host must call this after each step.
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
    """Restores the signal handlers, unless others have replaced them since."""
    while self._previous:
      number, (handler, previous) = self._previous.popitem()
      if signal.getsignal(number) == handler:
        signal.signal(number, previous)
