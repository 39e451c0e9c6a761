"""The log of metrics after crashes, and on disks that fill up."""

import io
import os
import shutil

import numpy as np
import pytest

from tokenlearner_flexivit.run import metric_log
from tokenlearner_flexivit.run import workdir as workdir_lib


@pytest.fixture
def log(tmp_path):
  """A log of three records in a folder of its own."""
  log = metric_log.MetricLog(tmp_path, 0)
  for step in 1, 2, 3:
    log.write(step, {"loss": 1 / step})
  yield log
  log.close()


def continued(tmp_path, first_step):
  log = metric_log.MetricLog(tmp_path, first_step)
  log.write(first_step + 1, {"loss": 1 / (first_step + 1)})
  log.close()
  return metric_log.read(tmp_path)


def test_records_are_in_the_file_at_once(log, tmp_path):
  assert metric_log.read(tmp_path) == log.history
  assert [r["step"] for r in log.history] == [1, 2, 3]


def test_what_is_no_number_is_null_in_the_file_alone(log, tmp_path):
  log.write(4, {"loss": float("nan")})
  assert (
    (tmp_path / "metrics.jsonl")
    .read_text()
    .endswith('{"step": 4, "loss": null}\n')
  )
  log.close()
  again = metric_log.MetricLog(tmp_path, 4)
  again.close()
  for history in (metric_log.read(tmp_path), again.history):
    np.testing.assert_equal(history[3], {"step": 4, "loss": np.nan})


@pytest.mark.parametrize("lost", [1, 2, 9])
def test_a_line_cut_by_a_crash(log, tmp_path, lost, capsys):
  """The run that continues before it ends with the log of one without."""
  path = tmp_path / "metrics.jsonl"
  whole = metric_log.read(tmp_path)
  size = path.stat().st_size
  last = len(path.read_bytes().splitlines(keepends=True)[-1])
  os.truncate(path, size - lost)
  assert continued(tmp_path, 2) == whole
  warning = f"held {last - lost} bytes of lines"
  # A line that lacks nothing but its end counts.
  assert (warning in capsys.readouterr().out) == (lost > 1)


def test_bytes_that_are_no_text(log, tmp_path, capsys):
  path = tmp_path / "metrics.jsonl"
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(lines[0] + b"\0\xff\0\n" + b'["step"]\n' + lines[1])
  assert [r["step"] for r in continued(tmp_path, 2)] == [1, 2, 3]
  assert "held 13 bytes" in capsys.readouterr().out


def test_a_full_disk_loses_no_record(log, tmp_path, capsys):
  # The system's own full device.
  log._file.close()
  log._file = io.FileIO("/dev/full", "a")
  partial = tmp_path / f"metrics.jsonl.{os.getpid()}.partial"
  partial.mkdir()  # So that it cannot be written anew either.
  log.write(4, {"loss": 0.4})
  log.write(5, {"loss": 0.5})
  log.sync()
  assert capsys.readouterr().out.count("WARNING: the metrics of step") == 2
  assert [r["step"] for r in metric_log.read(tmp_path)] == [1, 2, 3]
  partial.rmdir()
  log.write(6, {"loss": 0.6})
  assert metric_log.read(tmp_path) == log.history
  assert [r["step"] for r in log.history] == [1, 2, 3, 4, 5, 6]


def test_a_run_continues_on_a_full_disk(log, tmp_path, monkeypatch, capsys):
  def full(path, *unused):
    raise OSError(28, "No space left on device", str(path))

  log.close()
  monkeypatch.setattr(workdir_lib, "write_whole", full)
  monkeypatch.setattr(metric_log, "Writer", full)
  again = metric_log.MetricLog(tmp_path, 3)
  assert again.history == log.history
  assert "no more TensorBoard events" in capsys.readouterr().out
  again.write(4, {"loss": 0.4})
  again.close()
  assert [r["step"] for r in metric_log.read(tmp_path)] == [1, 2, 3, 4]
  # Where steps are done again there is something to write.
  with pytest.raises(OSError, match=r"No space.*metrics\.jsonl"):
    metric_log.MetricLog(tmp_path, 2)


def test_a_folder_that_was_gone(log, tmp_path):
  path = tmp_path / "metrics.jsonl"
  shutil.copy(path, tmp_path / "copy")
  path.unlink()
  (tmp_path / "copy").rename(path)
  log.write(4, {"loss": 0.4})
  log.sync()
  assert metric_log.read(tmp_path) == log.history


def test_a_run_outlives_the_events_of_tensorboard(log, tmp_path, capsys):
  def fail(*unused):
    raise OSError(28, "No space left on device")

  log._events.add_scalar = fail
  log.write(4, {"loss": 0.4})
  log.write(5, {"loss": 0.5})
  assert capsys.readouterr().out.count("no more TensorBoard events") == 1
  assert metric_log.read(tmp_path) == log.history


def test_a_name_that_is_not_utf8_ends_no_events(log, tmp_path, capsys):
  """Such as that of a class, whose folder has a name in Latin-1."""
  log.write(4, {"test/AP/caf\udce9": 0.5})
  assert not capsys.readouterr().out
  assert metric_log.read(tmp_path) == log.history
  log.close()
  (events,) = (tmp_path / "tensorboard").iterdir()
  assert rb"test/AP/caf\udce9" in events.read_bytes()
