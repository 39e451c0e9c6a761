"""Runs of several processes, and runs that are told to stop: real processes."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import pytest

from tokenlearner_flexivit import checkpoint as checkpoint_lib
from tokenlearner_flexivit import metric_log, preemption

ROOT = pathlib.Path(__file__).parent.parent


class Run:
  """The command of a run, in as many processes as wanted."""

  def __init__(self, config, folder):
    """Writes the config to a file."""
    self.config = folder / "config.py"
    self.config.write_text(
      "import ml_collections\ndef get_config():\n"
      f"  return ml_collections.ConfigDict({config.to_dict()!r})\n"
    )
    self.cache = jax.config.jax_compilation_cache_dir

  def start(self, workdir, num_processes, *flags):
    """Starts the processes, each with a device of its own."""
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    processes = []
    for i in range(num_processes):
      command = [
        *(sys.executable, "-m", "tokenlearner_flexivit.main"),
        *(f"--config={self.config}", f"--workdir={workdir}", *flags),
      ]
      if num_processes > 1:
        command += [
          *("--multihost", f"--coordinator_address=localhost:{port}"),
          *(f"--num_processes={num_processes}", f"--process_id={i}"),
        ]
      environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": self.cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      }
      with (workdir.parent / f"{workdir.name}.{i}.txt").open("a") as output:
        processes.append(
          subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
          )
        )
    return processes


def wait(processes, seconds=240):
  """Returns the exit codes, however the processes end."""
  end = time.monotonic() + seconds
  try:
    return [p.wait(max(1, end - time.monotonic())) for p in processes]
  finally:
    for process in processes:
      process.kill()


def wait_for_step(workdir, step, processes):
  """Waits until the log has a step."""
  while not any(r["step"] >= step for r in metric_log.read(workdir)):
    assert all(p.poll() is None for p in processes), "ended too soon"
    time.sleep(0.05)


def set_up(config):
  config.total_steps = 80
  config.log_steps = 1
  config.checkpoint_steps = 50
  config.flexi.patch_size.values = (6, 4)
  # Small steps: large ones make much of the last digit within many.
  config.optimizer = dict(
    name="sgd", lr=1e-3, schedule=dict(name="constant"), weight_decay=1e-3
  )
  config.task.mixup_alpha = 0.3
  config.ema_decay = 0.9


def check_same_result(config, run, workdir):
  """Compares with one undisturbed process of one device."""
  whole = workdir.parent / "whole"
  assert wait(run.start(whole, 1)) == [0]
  history, records = metric_log.read(whole), metric_log.read(workdir)
  step = checkpoint_lib.newest_step(workdir)
  assert step == config.total_steps
  chex.assert_trees_all_close(
    checkpoint_lib.read_params(workdir),
    checkpoint_lib.read_params(whole),
    rtol=1e-4,
    atol=1e-5,
  )
  assert [r["step"] for r in records] == [r["step"] for r in history]
  drawn = [r["loss"] for r in records if "loss" in r]
  expected = [r["loss"] for r in history if "loss" in r]
  chex.assert_trees_all_close(drawn, expected, rtol=1e-3)
  # Every example counted once, though the hosts' shares are not equal.
  for name in ("test/patch6/accuracy", "test/patch4/accuracy"):
    assert records[-1][name] == pytest.approx(history[-1][name], abs=1e-6)
    assert round(21 * records[-1][name], 4) % 1 == 0


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_as_one_run(config, tmp_path):
  """SIGTERM to one of them; in the end one process computes the same."""
  set_up(config)
  run, workdir = Run(config, tmp_path), tmp_path / "two"
  processes = run.start(workdir, 2)
  wait_for_step(workdir, 5, processes)
  processes[1].send_signal(signal.SIGTERM)
  assert wait(processes) == [preemption.EXIT_CODE] * 2
  stopped = checkpoint_lib.newest_step(workdir)
  assert 5 <= stopped < 80
  output = (tmp_path / "two.0.txt").read_text()
  assert f"Stopped at step {stopped} of 80" in output
  assert wait(run.start(workdir, 2)) == [0, 0]
  assert f"Continuing from {workdir}" in (tmp_path / "two.0.txt").read_text()
  check_same_result(config, run, workdir)


@pytest.mark.slow
def test_four_processes_are_one_run(config, tmp_path):
  set_up(config)
  config.total_steps = 40
  run, workdir = Run(config, tmp_path), tmp_path / "four"
  assert wait(run.start(workdir, 4)) == [0] * 4
  check_same_result(config, run, workdir)


@pytest.mark.slow
def test_a_dead_process_stops_the_others(config, tmp_path):
  """With an error, within two minutes."""
  set_up(config)
  config.total_steps = 100_000
  run, workdir = Run(config, tmp_path), tmp_path / "dead"
  processes = run.start(workdir, 2)
  wait_for_step(workdir, 5, processes)
  processes[1].kill()
  codes = wait(processes, seconds=120)
  assert codes[0] not in (0, preemption.EXIT_CODE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_a_code(number, config, tmp_path):
  set_up(config)
  config.total_steps = 100_000
  run, workdir = Run(config, tmp_path), tmp_path / "one"
  processes = run.start(workdir, 1)
  wait_for_step(workdir, 5, processes)
  processes[0].send_signal(number)
  assert wait(processes) == [preemption.EXIT_CODE]
  last = max(r["step"] for r in metric_log.read(workdir))
  assert checkpoint_lib.newest_step(workdir) == last


@pytest.mark.parametrize(
  "flags, message",
  [
    (("--process_id=0",), "need --multihost"),
    (("--multihost", "--process_id=0"), "--coordinator_address.*missing"),
  ],
)
def test_flags_of_processes_come_together(flags, message, config, tmp_path):
  result = subprocess.run(
    [
      *(sys.executable, "-m", "tokenlearner_flexivit.main"),
      *(f"--workdir={tmp_path}", *flags),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 1
  assert re.search(message, result.stderr + result.stdout)
