"""The steps that are profiled, in a run and over its starts."""

import gzip
import json

import jax
import pytest

from tokenlearner_flexivit import parallel, train
from tokenlearner_flexivit.run import profiler


def test_a_run_leaves_a_trace_of_the_steps_asked_for(
  small_config, tmp_path, capsys
):
  small_config.evals = {}
  small_config.profile_steps = (2, 3)
  train.train_and_evaluate(small_config, tmp_path)
  [file] = (tmp_path / "profile").rglob("*.trace.json.gz")
  assert f"Profile of steps 2 to 3: {file}. Open" in capsys.readouterr().out
  events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
  steps = {e["args"]["step_num"] for e in events if e.get("name") == "train"}
  assert steps == {"2", "3"}
  # It changes no result, so that a run may go on with another.
  small_config.profile_steps = (1, 2)
  train.train_and_evaluate(small_config, tmp_path)
  assert "config.profile_steps: [2, 3] -> [1, 2]" in capsys.readouterr().out
  assert len([*(tmp_path / "profile").rglob("*.trace.json.gz")]) == 1


@pytest.mark.parametrize(
  "steps, first_step, expected",
  [
    (None, 0, []),
    (2, 0, [2, 3]),
    (2, 5, [7, 8]),
    (9, 5, [7, 8, 9]),
    ((3, 4), 0, [3, 4]),
    ((3, 6), 4, [5, 6]),
    ((3, 4), 4, []),
  ],
)
def test_steps_of_a_start(monkeypatch, tmp_path, steps, first_step, expected):
  traced, on = [], []
  monkeypatch.setattr(jax.profiler, "start_trace", on.append)
  monkeypatch.setattr(jax.profiler, "stop_trace", on.clear)
  profile = profiler.Profiler(steps, tmp_path, first_step, total_steps=9)
  for step in range(first_step + 1, 10):
    profile.run(step, lambda step: on and traced.append(step), step)
    assert not on or step != 9
  assert traced == expected


def test_what_stops_within_the_steps_is_written(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(jax.profiler, "start_trace", lambda path: None)
  stopped = []
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: stopped.append(1))
  profile = profiler.Profiler((1, 5), tmp_path, 0, total_steps=9)
  profile.run(1, lambda: None)
  profile.close()
  profile.close()
  assert stopped == [1] and "Profile of steps" in capsys.readouterr().out


@pytest.mark.parametrize(
  "steps, message",
  [
    (0, r"profile_steps=0 must be a whole number in \[1, inf"),
    (True, "profile_steps=True must be a whole number"),
    (4, "profile_steps=4 ends with step 5, but the training has 4 steps"),
    ((3, 5), "ends with step 5"),
    ((3, 2), r"\[3, 2\] must be the first and the last step"),
    ((0, 2), "must be the first and the last"),
    ((1, 2, 3), "must be the first and the last"),
    ("all", "must be a whole number"),
  ],
)
def test_steps_that_cannot_be(config, tmp_path, steps, message):
  config.profile_steps = steps
  with pytest.raises(ValueError, match=message):
    train.train_and_evaluate(config, tmp_path)


def test_steps_copy_nothing_to_devices_that_nobody_asked_for(
  small_config, tmp_path, monkeypatch
):
  """As batches would be that were left on the host."""
  prefetch = parallel.Pmap.prefetch
  monkeypatch.setattr(
    parallel.Pmap,
    "prefetch",
    lambda *args: map(jax.device_get, prefetch(*args)),
  )
  small_config.evals = {}
  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    train.train_and_evaluate(small_config, tmp_path)
