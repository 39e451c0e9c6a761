"""Files of a workdir, on disks that fill up."""

import json
import os
import resource
import socket
import subprocess
import sys

import numpy as np
import pytest

from tokenlearner_flexivit.interop import containers
from tokenlearner_flexivit.run import workdir as workdir_lib


@pytest.fixture
def full_disk():
  """Lets no file have more than 100 bytes."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_does_not_fit_leaves_the_file_before_and_nothing_else(
  tmp_path, full_disk
):
  path = tmp_path / "report.json"
  workdir_lib.write_json(path, {"step": 1})
  with pytest.raises(OSError, match=r"File too large: .*report\.json'"):
    workdir_lib.write_json(path, {"steps": list(range(100))})
  assert json.loads(path.read_text()) == {"step": 1}
  assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_keeps_its_permissions(tmp_path):
  path, link = tmp_path / "notes.json", tmp_path / "link"
  before = os.umask(0o027)
  try:
    workdir_lib.write_whole(path, b"1")
    assert path.stat().st_mode & 0o777 == 0o640  # Those of any new file.
    path.chmod(0o604)
    link.symlink_to(path.name)
    workdir_lib.write_whole(link, b"2")
    for suffix in ("npz", "safetensors", "msgpack"):
      file = tmp_path / f"model.{suffix}"
      containers.write(file, {"a": np.zeros(3)})
      assert file.stat().st_mode & 0o777 == 0o640
      file.chmod(0o666)
      containers.write(file, {"a": np.ones(3)})
      assert file.stat().st_mode & 0o777 == 0o666
  finally:
    os.umask(before)
  assert path.read_bytes() == b"2" and path.stat().st_mode & 0o777 == 0o604


def test_what_is_no_file_is_written_and_not_replaced(tmp_path):
  """A link, a pipe, a device: as a shell would."""
  target, link = tmp_path / "target", tmp_path / "link"
  link.symlink_to(target)
  for content in (b"new", b"written over"):
    workdir_lib.write_whole(link, content)
    assert link.is_symlink() and target.read_bytes() == content
  pipe = tmp_path / "pipe"
  os.mkfifo(pipe)
  reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
  workdir_lib.write_whole(pipe, b"piped")
  assert os.read(reader, 99) == b"piped" and pipe.is_fifo()
  os.close(reader)
  # /dev/null is one for all: by a link, so that a fault breaks none.
  null = tmp_path / "null"
  null.symlink_to(os.devnull)
  workdir_lib.write_whole(null, b"nothing")
  assert null.is_char_device()
  assert {p.name for p in tmp_path.iterdir()} == {
    "target",
    "link",
    "pipe",
    "null",
  }


@pytest.mark.parametrize("output", ["file", "pipe"])
def test_what_is_written_to_the_own_output_comes_after_what_is_there(
  tmp_path, output
):
  code = (
    "import pathlib; from tokenlearner_flexivit import paths\n"
    "print('before', flush=True)\n"
    "with paths.whole(pathlib.Path('/dev/stdout')) as partial:\n"
    "  partial.write_text('whole')"
  )
  command = [sys.executable, "-c", code]
  if output == "pipe":
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"before\nwhole"
    return
  with (tmp_path / "out").open("wb") as file:
    subprocess.run(command, stdout=file, check=True)
  assert (tmp_path / "out").read_bytes() == b"before\nwhole"


def test_the_second_run_in_a_workdir_is_refused(tmp_path):
  with workdir_lib.Lock(tmp_path) as lock:
    with pytest.raises(ValueError, match="in use by another run") as error:
      workdir_lib.Lock(tmp_path)
    assert f"host {socket.gethostname()}, process {os.getpid()}, since 2" in (
      str(error.value)
    )
    lock.close()
    workdir_lib.Lock(tmp_path).close()


def test_no_lock_outlives_its_process(tmp_path):
  code = (
    "import fcntl, sys, time; f = open(sys.argv[1], 'w'); "
    "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"
  )
  lock = tmp_path / workdir_lib.LOCK_FILE
  with subprocess.Popen(
    [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE
  ) as other:
    other.stdout.readline()
    with pytest.raises(ValueError, match="in use"):
      workdir_lib.Lock(tmp_path)
    other.kill()
  workdir_lib.Lock(tmp_path).close()
