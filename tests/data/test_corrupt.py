"""Corrupt examples in the middle of an epoch: named, and skipped on request."""

import itertools
import pathlib
import shutil

import cv2
import numpy as np
import pytest

from tokenlearner_flexivit import data

COUNT = 10
# Neighbours, and the last one, after which the first comes.
DAMAGED = (3, 4, 9)
STANDS_IN = {3: 5, 4: 5, 9: 0}


@pytest.fixture
def folder(tmp_path):
  """A config of ten JPEGs in two classes, and a function that damages some."""
  rng = np.random.default_rng(0)
  for i in range(COUNT):
    path = tmp_path / "ab"[i % 2] / f"{i}.jpg"
    path.parent.mkdir(exist_ok=True)
    image = cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (40, 32))
    path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
  config = {
    "name": f"folder:{tmp_path}",
    "split": "all",
    "pp": "decode|inception_crop(8)|flip_lr|keep('image','label','id')",
    "num_threads": 0,
  }
  source = data.open_source(config)
  paths = [
    pathlib.Path(source.describe(i).partition(", ")[2]) for i in range(COUNT)
  ]

  def damage(indices=DAMAGED):
    for index in indices:
      file = paths[index].read_bytes()
      paths[index].write_bytes(file[: len(file) // 2])

  return config, paths, damage


def take(config, count, **kwargs):
  batches = data.train_batches(config, batch_size=4, seed=1, **kwargs)
  result = list(itertools.islice(batches, count))
  batches.close()
  return result


def assert_equal(batches, expected):
  for one, two in zip(batches, expected, strict=True):
    assert one.keys() == two.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], two[key])


def warnings_of(caplog):
  return [r.getMessage() for r in caplog.records if "Skipped" in r.msg]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_stops_the_run_by_default(folder, num_threads):
  config, paths, damage = folder
  damage([6])
  with pytest.raises(data.ExampleError) as error:
    take({**config, "num_threads": num_threads}, 3)
  message = str(error.value)
  for part in (
    f"example 6, {paths[6]} of {config['name']} (all): decode in",
    "damaged",
    "data.max_corrupt=0",
  ):
    assert part in message


@pytest.mark.parametrize("num_threads", [0, 3])
def test_another_example_takes_the_place(folder, num_threads, caplog):
  config, paths, damage = folder
  config["num_threads"] = num_threads
  good = take(config, 10)
  damage()
  batches = take({**config, "max_corrupt": 3}, 10)
  for before, after in zip(good, batches, strict=True):
    ids = before["id"].tolist()
    assert after["id"].tolist() == [STANDS_IN.get(i, i) for i in ids]
    kept = ~np.isin(ids, DAMAGED)
    np.testing.assert_array_equal(after["image"][kept], before["image"][kept])
  # Four epochs met each four times; it counts once.
  warned = warnings_of(caplog)
  assert len(warned) == 3
  for index in DAMAGED:
    assert sum(f"example {index}, {paths[index]}" in w for w in warned) == 1

  # The same after a restart and on several hosts.
  config["max_corrupt"] = 3
  assert_equal(take(config, 4, start_step=5), batches[5:9])
  hosts = [take(config, 10, process_index=i, process_count=2) for i in range(2)]
  joined = [
    {key: np.concatenate([one[key], two[key]]) for key in one}
    for one, two in zip(*hosts, strict=True)
  ]
  assert_equal(joined, batches)


def test_one_too_many_stops_the_run_and_all_are_listed(folder, caplog):
  config, paths, damage = folder
  damage((1, 3, 8))
  with pytest.raises(data.ExampleError) as error:
    take({**config, "max_corrupt": 2}, 3)
  for part in ("3 where data.max_corrupt=2", *(str(paths[i]) for i in (1, 3))):
    assert part in str(error.value)
  assert len(warnings_of(caplog)) == 2


@pytest.mark.parametrize("max_corrupt, listed", [(2, 3), (99, COUNT)])
def test_nothing_but_corrupt_examples(folder, max_corrupt, listed):
  config, _, damage = folder
  damage(range(COUNT))
  config["max_corrupt"] = max_corrupt
  with pytest.raises(data.ExampleError, match=f"{listed} where") as error:
    take(config, 1)
  assert str(error.value).count(".jpg") == listed


@pytest.mark.processes
def test_processes_give_the_same_batches_and_count_together(folder, caplog):
  config, paths, damage = folder
  damage()
  expected = take({**config, "max_corrupt": 3}, 10)
  caplog.clear()
  config["num_workers"] = 2
  assert_equal(take({**config, "max_corrupt": 3}, 10), expected)
  assert len(warnings_of(caplog)) == 3
  with pytest.raises(data.ExampleError) as error:
    take({**config, "max_corrupt": 2}, 10)
  assert all(str(paths[index]) in str(error.value) for index in DAMAGED)


def test_an_evaluation_always_stops(folder):
  config, paths, damage = folder
  damage([7])
  batches = data.eval_batches(config, batch_size=5)
  with pytest.raises(data.ExampleError) as error:
    list(batches)
  assert f"example 7, {paths[7]} of" in str(error.value)
  with pytest.raises(ValueError, match=r"max_corrupt=1 is for training only"):
    data.eval_batches({**config, "max_corrupt": 1}, batch_size=5)


def test_what_cannot_be_read_now_is_not_skipped(folder):
  config, paths, _ = folder
  batches = data.train_batches(
    {**config, "max_corrupt": COUNT}, batch_size=COUNT, seed=1
  )
  paths[2].unlink()
  with pytest.raises(data.ExampleError) as error:
    next(batches)
  assert f"example 2, {paths[2]} of" in str(error.value)
  assert "No such file" in str(error.value)


def test_peek_skips_too(folder):
  config, _, damage = folder
  damage([0])
  assert data.peek({**config, "max_corrupt": 1})["id"] == 1
  with pytest.raises(data.ExampleError, match="example 0, "):
    data.peek(config)


def test_a_damaged_record_of_a_tfds_dataset(digits, tmp_path, caplog):
  source = data.open_source(digits())
  png = source[700]["image"]
  shutil.copytree(digits()["data_dir"], tmp_path, dirs_exist_ok=True)
  (file,) = tmp_path.glob("digits/1.0.0/*train*array_record*")
  content = bytearray(file.read_bytes())
  content[content.index(png) + 50] ^= 255
  file.write_bytes(content)

  config = digits(data_dir=str(tmp_path))
  with pytest.raises(data.ExampleError, match=r"example 700 of digits \(train"):
    list(itertools.islice(_stream(config), 15))
  batches = itertools.islice(_stream({**config, "max_corrupt": 1}), 15)
  ids = np.concatenate([batch["id"] for batch in batches])
  assert 700 not in ids and np.sum(ids == 701) > 1
  assert ["example 700 of" in w for w in warnings_of(caplog)] == [True]


def _stream(config):
  return data.train_batches(config, batch_size=100, seed=0)
