"""Checkpoints on disks that fill up, vanish and flip bits; files are real."""

import contextlib
import errno
import os
import pathlib
import resource
import shutil
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils

from tokenlearner_flexivit.models import stacking
from tokenlearner_flexivit.run import checkpoint, checksums


def make_state(step):
  """Numbers that do not compress: 256 KiB in one array."""
  params = {"w": jax.random.normal(jax.random.key(step), (256, 256))}
  return {
    "params": params,
    "opt": optax.adam(0.1).init({"b": jnp.full((3,), step, jnp.bfloat16)}),
    "step": jnp.int32(step),
    "ema": None,
  }


@contextlib.contextmanager
def opened(workdir, keep=3, **arguments):
  checkpoints = checkpoint.Checkpoints(workdir, keep, {"a": 1}, **arguments)
  try:
    yield checkpoints
  finally:
    checkpoints.close()


def save(workdir, *steps):
  with opened(workdir) as checkpoints:
    for step in steps:
      notes = {"of": step}
      checkpoints.save(step, make_state(step), notes=notes)
      notes["of"] = None  # The loop goes on while they are written.


def restore(workdir):
  """Returns the step; checks the state and the notes."""
  with opened(workdir) as checkpoints:
    step, state = checkpoints.restore_newest(
      jax.eval_shape(make_state, jnp.int32(0))
    )
    assert checkpoints.notes(step) == {"of": step}
  chex.assert_trees_all_equal(state, jax.device_get(make_state(step)))
  chex.assert_trees_all_equal_dtypes(state, make_state(step))
  return step


def names(workdir):
  return {p.name for p in (workdir / "checkpoints").iterdir()}


def files_of(folder):
  return sorted(p for p in folder.rglob("*") if p.is_file())


def largest(folder):
  return max(files_of(folder), key=lambda p: p.stat().st_size)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def cut(path):
  os.truncate(path, path.stat().st_size - 1)


DAMAGES = [flip, cut, pathlib.Path.unlink]


@contextlib.contextmanager
def full_disk():
  """No file can grow over 64 KiB: writing fails within the system call."""
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_the_newest_of_those_kept_is_restored(tmp_path):
  with opened(tmp_path) as checkpoints:
    assert checkpoints.restore_newest(make_state(0)) is None
  save(tmp_path, 1, 2, 3, 4)
  assert names(tmp_path) == {"2", "3", "4"}
  assert restore(tmp_path) == 4
  with (
    opened(tmp_path) as checkpoints,
    pytest.raises(ValueError, match=r"params/w is float32.* run bfloat16\(9,"),
  ):
    template = make_state(0)
    template["params"]["w"] = jnp.zeros((9,), jnp.bfloat16)
    checkpoints.restore_newest(template)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found(tmp_path, damage):
  save(tmp_path, 1)
  folder = tmp_path / "checkpoints" / "1"
  unchecked = checkpoint._UNCHECKED
  checked = [p for p in files_of(folder) if p.name not in unchecked]
  assert len(checked) > 3
  for path in checked:
    assert checksums.find_damage(folder, unchecked) is None
    content = path.read_bytes()
    if content or damage is pathlib.Path.unlink:
      damage(path)
      found = checksums.find_damage(folder, unchecked)
      assert path.name in found or path.name == checksums.FILE
    path.write_bytes(content)
  (folder / "state" / "new").touch()
  assert "state/new" in checksums.find_damage(folder, unchecked)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
  tmp_path, damage, capsys
):
  save(tmp_path, 1, 2, 3)
  folder = tmp_path / "checkpoints"
  damage(largest(folder / "3"))
  shutil.rmtree(folder / "2" / "state")
  assert restore(tmp_path) == 1
  printed = capsys.readouterr().out
  for step in 2, 3:
    assert (
      f"WARNING: the checkpoint {folder / str(step)} is damaged: " in printed
    )
  assert f"Falling back to {folder / '1'}" in printed
  assert names(tmp_path) == {"1", "2.corrupt", "3.corrupt"}

  save(tmp_path, 3)
  assert restore(tmp_path) == 3
  flip(largest(folder / "3"))
  assert restore(tmp_path) == 1
  assert "3.corrupt2" in names(tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_books_of_orbax_are_not_needed(tmp_path, damage):
  save(tmp_path, 1, 2)
  for step in "12":
    for name in checkpoint._UNCHECKED:
      damage(tmp_path / "checkpoints" / step / name)
  assert restore(tmp_path) == 2
  save(tmp_path, 3)
  assert restore(tmp_path) == 3


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(tmp_path):
  save(tmp_path, 1, 2)
  for step in "12":
    flip(largest(tmp_path / "checkpoints" / step))
  for _ in range(2):
    with pytest.raises(ValueError, match=r"All .*damaged: 2: .*; 1: .*written"):
      restore(tmp_path)
  assert names(tmp_path) == {"1", "2"}
  with pytest.raises(ValueError, match=r"checkpoints/2 is damaged: .*rename"):
    checkpoint.read_params(tmp_path)


def test_the_moving_average_is_read_where_there_is_one(tmp_path):
  save(tmp_path, 1)
  wanted = make_state(1)["params"]
  chex.assert_trees_all_equal(checkpoint.read_params(tmp_path), wanted)
  with opened(tmp_path) as checkpoints:
    state = make_state(2)
    state["ema"] = jax.tree.map(jnp.negative, state["params"])
    checkpoints.save(2, state)
  chex.assert_trees_all_equal(checkpoint.read_params(tmp_path), state["ema"])


def test_no_array_is_lost_for_its_name(tmp_path):
  state = {"a/b": jnp.zeros(1), "a": {"b": jnp.ones(1)}}
  checkpoints = checkpoint.Checkpoints(tmp_path, 3, {})
  with pytest.raises(checkpoint.CheckpointError, match=r"share paths.*a/b"):
    checkpoints.save(1, state, must=True)
  # No thread of orbax waits on, which would keep the program from ending.
  time.sleep(0.5)
  assert "json_ch_save" not in {t.name for t in threading.enumerate()}


def test_a_run_that_continued_is_told_to_stop(tmp_path, capsys, monkeypatch):
  """A save at such a step removes older checkpoints like any other."""
  save(tmp_path, 1, 2, 3)
  monkeypatch.setattr(
    multihost_utils, "reached_preemption_sync_point", lambda step: True
  )
  with opened(tmp_path) as checkpoints:
    checkpoints.save(4, make_state(4), notes={"of": 4}, must=True)
  assert "WARNING" not in capsys.readouterr().out
  assert names(tmp_path) == {"2", "3", "4"}
  assert restore(tmp_path) == 4


def test_others_may_read_a_checkpoint_if_they_may_read_new_files(tmp_path):
  before = os.umask(0o022)
  try:
    save(tmp_path, 1)
  finally:
    os.umask(before)
  modes = {path.stat().st_mode & 0o777 for path in files_of(tmp_path)}
  assert modes == {0o644}


def test_stacks_of_blocks_are_saved_block_by_block(tmp_path):
  """Without a copy on the device; and read into the same stacks."""
  blocks = {
    f"encoderblock_{i}": {"kernel": jnp.full((2, 3), i)} for i in range(3)
  }
  params = {"Transformer": {**blocks, "norm": jnp.ones(3)}}
  stacked = stacking.stack(params, (range(1, 3),))
  with opened(tmp_path) as checkpoints:
    checkpoints.save(1, {"params": stacked}, must=True)
    _, saved = checkpoints.restore_newest({"params": params})
  chex.assert_trees_all_equal(saved["params"], jax.device_get(params))
  again = stacking.stack(saved["params"], (range(1, 3),))
  chex.assert_trees_all_equal(again, jax.device_get(stacked))
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(again))


def test_what_comes_before_the_first_save_is_tried_until_it_works(tmp_path):
  calls = []

  def bind():
    calls.append(len(calls))
    if len(calls) == 1:
      raise OSError(errno.ENOSPC, "No space left on device")

  with opened(tmp_path, before_first=bind) as checkpoints:
    checkpoints.save(1, make_state(1))
    assert checkpoints.newest is None
    for step in 2, 3:
      checkpoints.save(step, make_state(step), must=True)
  assert calls == [0, 1]


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path):
  save(tmp_path, 1)
  folder = tmp_path / "checkpoints"
  shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
  assert checkpoint.newest_step(tmp_path) == 1
  assert restore(tmp_path) == 1
  assert names(tmp_path) == {"1"}


def test_a_full_disk_is_told_and_outlived(tmp_path, capsys):
  with opened(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(1), notes={"of": 1}, must=True)
    with full_disk():
      for step in 2, 3:
        checkpoints.save(step, make_state(step))
      assert checkpoints.newest == 1  # Waits for the save of 3.
    printed = capsys.readouterr().out
    for count, step in (1, 2), (2, 3):
      assert f"WARNING: NO CHECKPOINT of step {step} in {tmp_path}" in printed
      assert f"(failure {count} in a row; the run stops after 3)" in printed
    assert f"Newest checkpoint: {tmp_path / 'checkpoints' / '1'}" in printed
    assert "ulimit" in printed
    assert names(tmp_path) == {"1"}  # What was half written makes room.
    checkpoints.save(4, make_state(4), notes={"of": 4})
  assert names(tmp_path) == {"1", "4"}
  assert restore(tmp_path) == 4


def test_so_many_failures_in_a_row_stop_the_run(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, 3, {}, max_failures=2)
  with full_disk():
    checkpoints.save(1, make_state(1))
    checkpoints.save(2, make_state(2))
    with pytest.raises(checkpoint.CheckpointError) as error:
      checkpoints.save(3, make_state(3))
  for words in ("step 1: ", "step 2: ", "the same command continues"):
    assert words in str(error.value)


def test_the_last_checkpoint_is_not_lost_in_silence(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, 3, {})
  with full_disk():
    with pytest.raises(checkpoint.CheckpointError, match="step 7: "):
      checkpoints.save(7, make_state(7), must=True)
    checkpoints.save(8, make_state(8))
    with pytest.raises(checkpoint.CheckpointError, match="step 8: "):
      checkpoints.close()
  # What stopped the run says more.
  with (
    full_disk(),
    pytest.raises(ZeroDivisionError),
    contextlib.ExitStack() as closing,
  ):
    checkpoints = checkpoint.Checkpoints(tmp_path, 3, {})
    closing.callback(checkpoints.close)
    checkpoints.save(9, make_state(9))
    raise ZeroDivisionError


def test_a_folder_that_is_gone_for_a_while(tmp_path, capsys):
  workdir = tmp_path / "work"
  with opened(workdir) as checkpoints:
    checkpoints.save(1, make_state(1), notes={"of": 1}, must=True)
    workdir.rename(tmp_path / "elsewhere")
    checkpoints.save(2, make_state(2))
    workdir.write_text("no folder")
    checkpoints.save(3, make_state(3))
    printed = capsys.readouterr().out
    assert printed.count("NO CHECKPOINT") == 2 and "Put it back" in printed
    workdir.unlink()
    (tmp_path / "elsewhere").rename(workdir)
    checkpoints.save(4, make_state(4), notes={"of": 4})
  assert names(workdir) == {"1", "4"}
  assert restore(workdir) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path, capsys):
  with opened(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(1), notes={"of": 1}, must=True)
    (tmp_path / "checkpoints").chmod(0o500)
    checkpoints.save(2, make_state(2))
    assert checkpoints.newest == 1
    assert "Make the folder writable" in capsys.readouterr().out
    (tmp_path / "checkpoints").chmod(0o700)
    checkpoints.save(3, make_state(3), notes={"of": 3})
  assert restore(tmp_path) == 3


def test_a_host_that_fails_alone_saves_alone(tmp_path, capsys):
  """In its own folder for what is half written, which leaves others' be."""
  with opened(tmp_path) as checkpoints:
    theirs = (
      tmp_path / "checkpoints" / f"1{checkpoint.ocp.utils.TMP_DIR_SUFFIX}"
    )
    theirs.mkdir()
    with full_disk():
      assert not checkpoints.save_alone(2, make_state(2))
    assert "NO CHECKPOINT of step 2" in capsys.readouterr().out
    assert checkpoints.save_alone(3, make_state(3), notes={"of": 3})
    assert checkpoints.save_alone(3, make_state(3))
    assert names(tmp_path) == {theirs.name, "3"}
    checkpoints.save(4, make_state(4), notes={"of": 4})
  assert restore(tmp_path) == 4
  assert names(tmp_path) == {"3", "4"}
