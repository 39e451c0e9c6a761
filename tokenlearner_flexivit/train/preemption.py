"""Requests by SIGTERM and SIGINT to stop a run so that it can continue later.

Clusters send SIGTERM before they take a machine away, people press Ctrl-C. The
loop calls `reached` after each step. When it returns True, on all hosts after
the same step, the loop saves and raises `PreemptedError`, which `main` turns
into the exit code 75. The same command then continues the run. A single process
stops at once where nothing has to be saved: before its first step, and in an
evaluation, which is done again. Several processes leave an evaluation together
before the same batch. Nothing interrupts XLA while it compiles a program, but a
line says at once that a signal has arrived; not SIGTERM in several processes,
whose handler is JAX's, in C++, where Python does not see it.
"""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from tokenlearner_flexivit import terminal

# EX_TEMPFAIL of sysexits.h: a temporary failure, try again.
EXIT_CODE = 75
_NUMBERS = (signal.SIGINT, signal.SIGTERM)


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
    self._calls = itertools.count(1)
    self._wakeup: tuple[int, int] | None = None
    if threading.current_thread() is not threading.main_thread():
      return
    if self._together:
      self._take_over(signal.SIGINT, self._pass_on)
    else:
      self._take_over(signal.SIGINT, self._note)
      self._take_over(signal.SIGTERM, self._note)
    self._announce()

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

  def _pass_on(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self.close()
    os.kill(os.getpid(), signal.SIGTERM)

  def _announce(self) -> None:
    """Starts a thread that says in a line that a signal has arrived.

    Python runs a signal's handler in the main thread, when that has returned
    from compiled code, such as XLA's, which may take minutes.
    """
    if not self._previous:
      return
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    previous = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    self._wakeup = sender, previous

    def listen() -> None:
      with open(receiver, "rb", buffering=0) as signals:
        while number := signals.read(1):
          with contextlib.suppress(ValueError):  # One that Python lacks.
            if (name := signal.Signals(number[0])) in _NUMBERS:
              terminal.write(f"\n{name.name}: {self._what_will_be}")

    threading.Thread(target=listen, name="signals", daemon=True).start()

  @property
  def _what_will_be(self) -> str:
    if self._together:
      return "all processes will save and stop after the same step or batch."
    if self._at_once:
      return "will stop at once; while a program is compiled, after compiling."
    return "saving after this step. Again: stop at once."

  def reached(self) -> bool:
    """Tells whether to save and stop now; called by every host after a step."""
    self._at_once = False
    if self._together:
      # It counts steps, and batches of evaluations alike.
      return multihost_utils.reached_preemption_sync_point(next(self._calls))
    return self._signal is not None

  def between_batches(self) -> None:
    """Ends an evaluation if all hosts are to stop; called by every host.

    Raises:
      PreemptedError: on all hosts before the same batch.
    """
    if self._together and self.reached():
      raise PreemptedError(
        "Stopped in an evaluation; the same command goes on."
      )

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
    if self._wakeup is None:
      return
    (sender, previous), self._wakeup = self._wakeup, None
    if (other := signal.set_wakeup_fd(previous)) != sender:
      signal.set_wakeup_fd(other)
    os.close(sender)
