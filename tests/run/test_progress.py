"""The lines of progress, and the times that they tell."""

import contextlib
import re

import jax
import numpy as np

from tokenlearner_flexivit import dials
from tokenlearner_flexivit.run import progress as progress_lib


def test_a_first_line_comes_before_the_log_does(capsys, monkeypatch):
  clock = iter(range(0, 900, 4))
  monkeypatch.setattr(progress_lib.time, "perf_counter", lambda: next(clock))
  progress = progress_lib.Progress(
    [], first_step=2, total_steps=102, batch_size=1, pending=[(2, {"loss": 9})]
  )
  progress.start()
  progress.glance()
  for step in range(3, 9):
    progress.add(step, {"loss": np.float32(1 / step)})
    progress.glance()
  progress.close()
  # Once, when ten seconds are over since the first step.
  assert re.findall(r"step +\d+/102.*", capsys.readouterr().out) == [
    "step   6/102  loss 0.1667  ETA 8:32"
  ]


def test_the_time_of_compiling_is_not_expected_again(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(progress_lib.time, "perf_counter", lambda: now[0])
  setting = dials.Setting((4, 4))
  progress = progress_lib.Progress(
    [setting], first_step=0, total_steps=103, batch_size=1
  )
  progress.start()
  for step, seconds in ((1, 600), (2, 1), (3, 1)):
    now[0] += seconds
    metrics = {"loss": 1.0, "grad_norm": 1.0, "setting": 0}
    progress.add(step, jax.tree.map(np.float32, metrics))
  assert progress.log(0.1)["train_seconds"] == 602
  progress.close()
  assert "ETA 1:40  " in capsys.readouterr().out


def test_steps_that_compile_are_not_in_the_rate(monkeypatch, capsys):
  """As where several processes run, each program at its first step."""
  now = [0.0]
  monkeypatch.setattr(progress_lib.time, "perf_counter", lambda: now[0])
  progress = progress_lib.Progress(
    [dials.Setting((4, 4))],
    first_step=0,
    total_steps=9,
    batch_size=6,
    kind="video",
  )
  progress.start()
  rates = []
  for seconds in (600, 4, 300, 4, 500):
    with progress.compiling() if seconds > 4 else contextlib.nullcontext():
      now[0] += seconds
    metrics = {"loss": 1.0, "grad_norm": 1.0, "setting": 0}
    progress.add(1, jax.tree.map(np.float32, metrics))
    if seconds != 600:
      rates.append(progress.log(0.1)["img_per_s"])
  progress.close()
  # Of a line with nothing else it is that of compiling steps.
  assert rates == [6 / 4, 6 / 300, 6 / 4, 6 / 500]
  assert progress.seconds == 1408
  assert "  1.50 vid/s (" in capsys.readouterr().out


def test_time_of_evaluations_is_no_time_of_steps(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(progress_lib.time, "perf_counter", lambda: now[0])
  progress = progress_lib.Progress(
    [], first_step=0, total_steps=112, batch_size=1, seconds_before=5.0
  )
  progress.start()
  for step in range(1, 13):
    now[0] += 1
    progress.add(step, {"loss": np.float32(1)})
    with progress.paused():
      now[0] += 60
  progress.glance()
  progress.close()
  assert "step  12/112  loss 1.0000  ETA 1:40" in capsys.readouterr().out
  assert progress.seconds == 17


def test_pending_metrics_are_those_of_now():
  """A checkpoint is written while the loop adds more steps."""
  progress = progress_lib.Progress(
    [], first_step=2, total_steps=4, batch_size=1, pending=[(2, {"loss": 0.5})]
  )
  progress.start()
  progress.add(3, {"loss": np.float32(0.25)})
  pending = progress.pending
  progress.add(4, {"loss": np.float32(0.125)})
  progress.close()
  assert pending == [(2, {"loss": 0.5}), (3, {"loss": 0.25})]
