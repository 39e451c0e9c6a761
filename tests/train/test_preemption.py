"""Signals are taken over for a run, and given back."""

import hashlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from tokenlearner_flexivit import terminal, train
from tokenlearner_flexivit.evaluators import classification
from tokenlearner_flexivit.run import checkpoint
from tokenlearner_flexivit.train import preemption

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _as_before():
  before = {number: signal.getsignal(number) for number in NUMBERS}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize(
  "handler", [signal.SIG_DFL, signal.SIG_IGN, lambda number, frame: None]
)
def test_handlers_come_back(handler):
  signal.signal(signal.SIGTERM, handler)
  stop = preemption.Preemption()
  assert not stop.reached()
  signal.raise_signal(signal.SIGTERM)
  assert stop.reached()
  assert signal.getsignal(signal.SIGTERM) is handler
  stop.close()
  stop.close()
  assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("number", NUMBERS)
def test_before_the_first_step_there_is_nothing_to_save(number):
  before = signal.getsignal(number)
  preemption.Preemption()
  with pytest.raises(preemption.PreemptedError, match="nothing to save"):
    signal.raise_signal(number)
  assert signal.getsignal(number) is before


def test_a_signal_interrupts_what_is_done_again():
  stop = preemption.Preemption()
  assert not stop.reached()
  with stop.at_once():
    pass
  signal.raise_signal(signal.SIGTERM)  # Now it waits for the step.
  with pytest.raises(preemption.PreemptedError), stop.at_once():
    pytest.fail("nothing more is begun")
  stop = preemption.Preemption()
  assert not stop.reached()
  with pytest.raises(preemption.PreemptedError), stop.at_once():
    signal.raise_signal(signal.SIGTERM)
  assert stop.reached()


def test_a_line_says_at_once_that_a_signal_has_arrived(monkeypatch):
  """The handler waits for compiled code, such as XLA's while it compiles."""
  for thread in threading.enumerate():
    if thread.name == "signals":  # It may still have to tell of another test's.
      thread.join(10)
  said = []
  monkeypatch.setattr(
    terminal, "write", lambda text: said.append((time.perf_counter(), text))
  )
  before = signal.set_wakeup_fd(-1)
  stop = preemption.Preemption()
  timer = threading.Timer(0.1, signal.raise_signal, (signal.SIGTERM,))
  with pytest.raises(preemption.PreemptedError, match="nothing to save"):
    timer.start()
    hashlib.pbkdf2_hmac("sha256", b"longer", b"than a while", 2_000_000)
    time.sleep(10)
  ((seconds, text),) = said
  assert (
    "SIGTERM: will stop at once; while a program is compiled, after" in text
  )
  assert seconds < time.perf_counter() - 0.2
  stop.close()
  assert signal.set_wakeup_fd(before) == -1


def test_a_run_that_is_stopped_while_it_evaluates_has_saved(
  small_config, tmp_path, monkeypatch
):
  small_config.evals.test.eval_steps = 3

  def interrupted(self, params):
    signal.raise_signal(signal.SIGTERM)

  monkeypatch.setattr(classification.Evaluator, "run", interrupted)
  with pytest.raises(preemption.PreemptedError, match="at step 3 of 4"):
    train.train_and_evaluate(small_config, tmp_path)
  assert checkpoint.newest_step(tmp_path) == 3


def test_what_others_took_meanwhile_stays_theirs():
  def theirs(number, frame):
    del number, frame

  stop = preemption.Preemption()
  signal.signal(signal.SIGTERM, theirs)
  stop.close()
  assert signal.getsignal(signal.SIGTERM) is theirs


def test_another_thread_leaves_signals_alone():
  before = signal.getsignal(signal.SIGTERM)
  seen = []

  def run():
    stop = preemption.Preemption()
    seen.append(signal.getsignal(signal.SIGTERM))
    stop.close()

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert seen == [before]


def test_a_handler_that_is_not_of_python_stays():
  """The C library sets one, as the program around Python may."""
  code = """
import ctypes, signal
from tokenlearner_flexivit.train import preemption
library = ctypes.CDLL(None)
library.signal.restype = ctypes.c_void_p
library.signal.argtypes = ctypes.c_int, ctypes.c_void_p
handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: print("theirs"))
address = ctypes.cast(handler, ctypes.c_void_p).value
getsignal = signal.getsignal
# Python reads the handlers when it starts, which is too early for this test.
signal.getsignal = lambda n: None if n == signal.SIGTERM else getsignal(n)
library.signal(signal.SIGTERM, address)
stop = preemption.Preemption()
signal.raise_signal(signal.SIGTERM)
print(stop.reached())
stop.close()
print(library.signal(signal.SIGTERM, 0) == address)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.stdout.split() == ["theirs", "False", "True"], done.stderr
