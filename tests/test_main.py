"""The training command: its flags, its errors and its exit codes.

In this process, from the flags on; tests/run/test_processes.py starts it.
"""

import os
import signal
import threading

import pytest
from absl import app
from absl.testing import flagsaver

from tokenlearner_flexivit import main
from tokenlearner_flexivit.parallel import pmap
from tokenlearner_flexivit.run import checkpoint, metric_log
from tokenlearner_flexivit.tasks import classification
from tokenlearner_flexivit.train import preemption


@pytest.fixture
def command(monkeypatch, tmp_path):
  """Returns a function that runs the command and returns what it exits with.

  That is a number or the line of an error, or None at the end of a run.
  """
  before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

  def exit_at_once(code):
    raise SystemExit(code)

  monkeypatch.setattr(os, "_exit", exit_at_once)
  verbosity = main.logging.get_verbosity()

  def run(*flags):
    try:
      with flagsaver.flagsaver():
        workdir = f"--workdir={tmp_path / 'run'}"
        main.main(main._parse_flags(["main", workdir, *flags]))
    except SystemExit as end:
      return end.code
    except app.UsageError as error:  # Which `app.run` says.
      return str(error)

  yield run
  main.logging.set_verbosity(verbosity)
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize(
  "flags, message",
  [
    (("--process_id=0",), "need --multihost"),
    (
      ("--multihost", "--process_id=0"),
      "--coordinator_address, --num_processes missing",
    ),
    (
      (
        *("--multihost", "--coordinator_address=box"),
        *("--num_processes=1", "--process_id=0"),
      ),
      "give HOST:PORT, such as box:8476",
    ),
    ((), "--mode=train needs --config"),
    (("quickstart",), "Unknown arguments: quickstart"),
  ],
)
def test_flags_that_are_missing(command, flags, message):
  assert message in command(*flags)


@pytest.mark.parametrize(
  "flags, message",
  [
    (
      ("configs/quickstart.py:runlocal", "--config.model.dept=3"),
      "Error: ViT has no key 'dept'. Did you mean 'depth'?",
    ),
    # What a config file itself refuses.
    (("configs/folder.py",), "Error: Say where the images are: --conf"),
  ],
)
def test_a_mistake_ends_the_command_in_a_line(command, flags, message):
  config, *others = flags
  assert command(f"--config={config}", *others).startswith(message)


def test_a_signal_saves_and_exits_with_a_code(
  command, small_config, write_config, tmp_path, monkeypatch
):
  small_config.total_steps = 100_000
  small_config.evals = {}
  small_config.log_steps = 1
  batches = []

  def check_batch(self, batch):
    batches.append(batch)
    if len(batches) == 8:
      signal.raise_signal(signal.SIGINT)

  monkeypatch.setattr(classification.Classification, "check_batch", check_batch)
  config = write_config(small_config)
  assert command(f"--config={config}") == preemption.EXIT_CODE
  last = max(r["step"] for r in metric_log.read(tmp_path / "run"))
  assert 1 < last == checkpoint.newest_step(tmp_path / "run")


def test_a_signal_while_compiling_stops_at_once(
  command, small_config, write_config, tmp_path, monkeypatch, capsys
):
  """Though a program would take for ever."""
  small_config.flexi.patch_size.values = (6, 4)
  ended, given_up = threading.Event(), []

  def never():
    # As the system does: one that another thread gets wakes nobody.
    signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
    given_up.append(not ended.wait(60))

  monkeypatch.setattr(pmap.Pmap, "lower", lambda *args, **options: never)
  config = write_config(small_config)
  try:
    assert command(f"--config={config}") == preemption.EXIT_CODE
    assert not given_up
  finally:
    ended.set()
  printed = capsys.readouterr().out
  assert "Compiling 2 programs" in printed
  assert "SIGTERM: stopped before the first step" in printed
  assert not checkpoint.steps(tmp_path / "run")
