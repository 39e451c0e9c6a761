"""The digits builder: what is in it, and preparing it."""

import concurrent.futures
import errno
import fcntl
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from sklearn import datasets

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.rendered_scenes import builder
from tokenlearner_flexivit.data.sources import digits as digits_module


def test_split_is_as_documented(digits):
  reference = datasets.load_digits()
  pixels = {}
  for split, size in (("train", 1437), ("test", 360)):
    source = data.open_source(digits(split=split))
    assert len(source) == size
    assert source.num_classes == 10
    pp = data.parse("decode(1)")
    examples = [pp(source[i]) for i in range(size)]
    pixels[split] = {
      (int(e["label"]), *e["image"].ravel().tolist()) for e in examples
    }
    # A class has its share of each part, give or take one.
    counts = np.bincount([e["label"] for e in examples])
    shares = np.bincount(reference.target) * size / 1797
    assert np.abs(counts - shares).max() < 1
    assert [e["id"] for e in examples] == list(range(size))

  # Disjoint and complete: all digits of the set differ.
  assert len(pixels["train"]) == 1437 and len(pixels["test"]) == 360
  everything = {
    (int(label), *np.round(image.ravel() * 255 / 16).astype(int).tolist())
    for label, image in zip(reference.target, reference.images, strict=True)
  }
  assert pixels["train"] | pixels["test"] == everything

  # The documented rule, for one digit: the first 0 of all is for testing.
  assert reference.target[0] == 0
  first = np.round(reference.images[0].ravel() * 255 / 16).astype(int)
  assert (0, *first.tolist()) in pixels["test"]


def test_same_bytes_again(digits, tmp_path):
  for split in ("train", "test"):
    one = data.open_source(digits(split=split))
    two = data.open_source(digits(split=split, data_dir=str(tmp_path)))
    assert len(one) == len(two)
    for i in range(len(one)):
      assert one[i] == two[i]


def test_slices(digits):
  sizes = {"train[:99%]": 1423, "train[-100:]": 100, "train+test": 1797}
  for split, size in sizes.items():
    assert len(data.open_source(digits(split=split))) == size


@pytest.mark.parametrize(
  "split, message",
  [
    ("valid", r"no split 'valid'. Its splits are: train, test\."),
    ("train[:5", r"'train\[:5'"),
    ("train[5:5]", r"train\[5:5\] of digits is empty.* 1437 examples"),
    ("train[:2000]", r"'train\[:2000\]'(.|\n)*: train \(1437 examples\), test"),
  ],
)
def test_bad_split(digits, split, message):
  with pytest.raises(ValueError, match=message) as error:
    data.open_source(digits(split=split))
  assert "digits" in str(error.value)


@pytest.mark.processes
def test_without_tensorflow_in_the_environment_s_folder(tmp_path):
  """TFDS reads the variable when it is imported, so in a new process."""
  program = """
import importlib.machinery
import sys

class InstalledButForbidden:
  def find_spec(self, name, path=None, target=None):
    if name == "tensorflow":
      return importlib.machinery.ModuleSpec(name, self)

  def create_module(self, spec):
    raise AssertionError("TensorFlow is imported")

sys.meta_path.insert(0, InstalledButForbidden())
from tokenlearner_flexivit import data
config = {"name": "digits", "split": "test", "pp":
          "decode|random_translate(1)|value_range|keep('image')"}
batch = next(data.train_batches(config, batch_size=4, seed=0))
assert batch["image"].shape == (4, 8, 8, 3)
assert len(list(data.eval_batches(config, batch_size=100))) == 4
assert "tensorflow" not in sys.modules
"""
  result = subprocess.run(
    [sys.executable, "-c", program],
    env={
      **os.environ,
      "TFDS_DATA_DIR": str(tmp_path),
      "PYTHONPATH": os.pathsep.join(sys.path),
    },
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  # Nothing but what TFDS logs by itself: no progress bars, no leftovers.
  assert result.stdout == ""
  assert os.listdir(tmp_path / "digits") == ["1.0.0"]


def test_prepared_at_home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  digits_module.prepare("~/tfds")
  assert (tmp_path / "tfds/digits/1.0.0/dataset_info.json").is_file()
  folder = builder.RenderedScenes.folder("~/tfds", "96")
  assert folder.parent == tmp_path / "tfds/rendered_scenes/96"


def test_two_threads_prepare_at_once(tmp_path):
  """Each opens the lock for itself, as processes do."""
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(digits_module.prepare, [tmp_path] * 2))
  assert os.listdir(tmp_path / "digits") == ["1.0.0"]


@pytest.mark.processes
def test_two_processes_prepare_at_once(tmp_path):
  context = multiprocessing.get_context("spawn")
  processes = [
    context.Process(target=digits_module.prepare, args=(str(tmp_path),))
    for _ in range(2)
  ]
  for process in processes:
    process.start()
  for process in processes:
    process.join(60)
    assert process.exitcode == 0
  assert os.listdir(tmp_path / "digits") == ["1.0.0"]


def test_home_folder(digits, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert len(data.open_source(digits(data_dir="~/data"))) == 1437
  assert os.listdir(tmp_path / "data" / "digits") == ["1.0.0"]


def test_losing_the_race_is_no_error(tmp_path, monkeypatch):
  """Against a host whose locks are not seen."""
  done = tmp_path / "done"
  digits_module.prepare(done)

  def prepared_meanwhile(path, target):
    monkeypatch.undo()
    shutil.copytree(done / "digits" / "1.0.0", target)
    return path.rename(target)

  monkeypatch.setattr("pathlib.PosixPath.rename", prepared_meanwhile)
  digits_module.prepare(tmp_path)
  assert os.listdir(tmp_path / "digits") == ["1.0.0"]


def test_what_killed_processes_left_is_removed(tmp_path):
  folder = tmp_path / "digits"
  mine = folder / f".new-{socket.gethostname()}-x"
  old, fresh = folder / ".new-old", folder / ".new-other-host-x"
  for left in (mine, old, fresh):
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"part")
  for path in (old, old / "part"):
    os.utime(path, (0, 0))
  (folder / ".lock-1.0.0").touch()
  digits_module.prepare(tmp_path)
  # Another host may still be writing.
  assert sorted(os.listdir(folder)) == [fresh.name, "1.0.0"]


def test_without_locks_each_prepares_by_itself(tmp_path, monkeypatch, caplog):
  def no_locks(*args):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, "flock", no_locks)
  mine = tmp_path / "digits" / f".new-{socket.gethostname()}-x"
  mine.mkdir(parents=True)
  digits_module.prepare(tmp_path)
  # Perhaps of a process that is alive.
  assert sorted(os.listdir(mine.parent)) == [mine.name, "1.0.0"]
  assert "has no locks (No locks available)" in caplog.text


def test_other_threads_are_heard_while_tfds_is_silent(
  tmp_path, monkeypatch, capsys
):
  prepare = digits_module.Digits.download_and_prepare

  def talkative(builder):
    print("this thread")
    for stream in (sys.stdout, sys.stderr):
      thread = threading.Thread(target=lambda s=stream: print("other", file=s))
      thread.start()
      thread.join()
    prepare(builder)

  monkeypatch.setattr(digits_module.Digits, "download_and_prepare", talkative)
  digits_module.prepare(tmp_path)
  assert capsys.readouterr() == ("other\n", "other\n")
