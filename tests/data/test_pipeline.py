"""The streams: order, hosts, restarts, threads and processes."""

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import flexivit_i1k_distill
from tokenlearner_flexivit import data, parallel
from tokenlearner_flexivit.data import batches as batches_lib

RANDOM_PP = (
  "decode|resize(12)|random_affine(10, 0.1, (0.9, 1.1))|random_translate(2)"
  "|flip_lr|value_range(-1,1)|keep('image','label','id')"
)
FAKE = {
  "name": "fake:8x8x3:5:23",
  "split": "train",
  "pp": RANDOM_PP,
  "num_threads": 0,
}


def take(count, config=FAKE, *, batch_size=8, seed=3, **kwargs):
  """Returns the first batches of a training stream."""
  batches = data.train_batches(
    config, batch_size=batch_size, seed=seed, **kwargs
  )
  result = list(itertools.islice(batches, count))
  batches.close()
  return result


def assert_equal(batches, expected):
  assert len(batches) == len(expected)
  for one, two in zip(batches, expected, strict=True):
    assert one.keys() == two.keys()
    for key in one:
      assert one[key].dtype == two[key].dtype
      np.testing.assert_array_equal(one[key], two[key])


# The training stream


def test_batch():
  (batch,) = take(1)
  assert batch["image"].shape == (8, 12, 12, 3)
  assert batch["image"].dtype == np.float32
  assert batch["label"].shape == batch["id"].shape == (8,)
  source = data.open_source(FAKE)
  assert [source[i]["label"] for i in batch["id"].tolist()] == (
    batch["label"].tolist()
  )


def test_an_epoch_has_every_example_once_in_an_order_of_its_own():
  ids = np.concatenate([b["id"] for b in take(23, batch_size=8)])
  epochs = ids.reshape(8, 23)
  for epoch in epochs:
    assert sorted(epoch) == list(range(23))
  assert len({tuple(epoch) for epoch in epochs.tolist()}) == 8


def test_augmentation_differs_between_epochs_and_examples():
  # 46 times the same image.
  config = {**FAKE, "name": "fake:8x8x3:5:1"}
  (batch,) = take(1, config, batch_size=46)
  assert (batch["id"] == 0).all()
  assert len({image.tobytes() for image in batch["image"]}) == 46


def test_the_seed_is_all_that_matters():
  assert_equal(take(4), take(4))
  one, two = take(4, seed=3), take(4, seed=4)
  assert any((a["id"] != b["id"]).any() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("start_step", [1, 3, 7])
def test_starting_late_continues_the_stream(start_step):
  assert_equal(take(3, start_step=start_step), take(10)[start_step:][:3])


def test_starting_very_late_costs_nothing():
  steps = 10**12
  assert_equal(take(1, start_step=steps + 1), take(2, start_step=steps)[1:])


@pytest.mark.parametrize("process_count", [2, 4])
def test_hosts_get_consecutive_parts_of_the_global_batch(process_count):
  hosts = [
    take(5, process_index=i, process_count=process_count, start_step=2)
    for i in range(process_count)
  ]
  joined = [
    {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for parts in zip(*hosts, strict=True)
  ]
  assert_equal(joined, take(5, start_step=2))


@pytest.mark.parametrize(
  "changes",
  [
    {"num_threads": 1, "prefetch": 1},
    {"num_threads": 4, "prefetch": 2},
    {"num_threads": 4, "prefetch": 16},
    {"num_threads": 2, "prefetch": 0},
  ],
)
def test_threads_change_nothing(changes):
  assert_equal(take(7, {**FAKE, **changes}), take(7))


def test_a_process_changes_nothing():
  assert_equal(take(4, {**FAKE, "num_workers": 1}), take(4))


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_change_nothing(digits, num_workers):
  config = digits(pp=RANDOM_PP)
  kwargs = {"start_step": 5, "process_index": 1, "process_count": 2}
  assert_equal(
    take(7, {**config, "num_workers": num_workers}, **kwargs),
    take(7, config, **kwargs),
  )


@pytest.mark.processes
def test_processes_beside_jax_in_a_program(tmp_path):
  """Workers import the program again, so it has the usual guard."""
  program = tmp_path / "program.py"
  program.write_text(
    textwrap.dedent(f"""
      import jax.numpy as jnp
      from tokenlearner_flexivit import data

      def main():
        total = jnp.zeros(()).block_until_ready()
        config = {dict(FAKE, num_workers=2)!r}
        batches = data.train_batches(config, batch_size=8, seed=3)
        for _ in range(4):
          batch = next(batches)
          total += batch["image"].sum()
        batches.close()
        print(batch["id"].tolist())

      if __name__ == "__main__":
        main()
    """)
  )
  result = subprocess.run(
    [sys.executable, "-W", "error", str(program)],
    env={"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 0, result.stderr
  # What Grain's shared memory makes Python's resource tracker print at the end
  # of a busy machine's program is not looked at.
  assert result.stdout.strip() == str(take(4)[-1]["id"].tolist())


WORKERS_OF_A_PROGRAM = f"""
import multiprocessing
import time
from tokenlearner_flexivit import data

if __name__ == "__main__":
  config = {dict(FAKE, num_workers=2)!r}
  batches = data.train_batches(config, batch_size=8, seed=3)
  for _ in range(2):  # A batch of each, so that both have begun.
    next(batches)
  workers = [p.pid for p in multiprocessing.active_children()]
  try:
    print(*workers, flush=True)
    time.sleep(100)
  except KeyboardInterrupt:
    for _ in range(20):
      next(batches)
    batches.close()
    print("went on")
"""


@pytest.fixture
def program_with_workers(tmp_path):
  """Starts a program with two workers; returns it and their numbers."""
  path = tmp_path / "program.py"
  path.write_text(WORKERS_OF_A_PROGRAM)
  # Where the tests run in the background, children would ignore it.
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  process = subprocess.Popen(
    [sys.executable, str(path)],
    env={"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  signal.signal(signal.SIGINT, previous)
  yield process, [int(pid) for pid in process.stdout.readline().split()]
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.communicate()


def is_running(pid):
  try:
    # Nobody may be there to wait for one that has ended.
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.processes
def test_processes_end_with_a_killed_program(program_with_workers):
  process, workers = program_with_workers
  assert len(workers) == 2 and all(map(is_running, workers))
  process.kill()
  end = time.monotonic() + 30
  while any(map(is_running, workers)) and time.monotonic() < end:
    time.sleep(0.1)
  assert not any(map(is_running, workers))


@pytest.mark.processes
def test_processes_outlive_ctrl_c_of_the_program(program_with_workers):
  """A terminal sends it to all of them."""
  process, workers = program_with_workers
  assert len(workers) == 2
  os.killpg(process.pid, signal.SIGINT)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out) == (0, "went on\n"), err
  assert "KeyboardInterrupt" not in err


@pytest.mark.processes
def test_errors_of_processes_name_the_example(tmp_path, capfd):
  pp = "decode|onehot(3)|keep('label')"
  config = {"name": "fake:8x8x3:5:23", "split": "train", "pp": pp}
  with pytest.raises(data.ExampleError, match=r"example \d+ of fake:8x8x3"):
    take(3, {**config, "num_workers": 1})
  capfd.readouterr()


# Evaluation


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("num_examples", [23, 24, 5, 12])
def test_eval_counts_every_example_once(process_count, num_examples):
  config = {**FAKE, "name": f"fake:8x8x3:5:{num_examples}"}
  passes = [
    data.eval_batches(
      config, batch_size=12, process_index=i, process_count=process_count
    )
    for i in range(process_count)
  ]
  seen = Counter()
  for batches in passes:
    batches_list = list(batches)
    assert len(batches_list) == len(batches) == -(-num_examples // 12)
    for batch in batches_list:
      assert batch["mask"].dtype == np.float32
      assert batch["image"].shape == (12 // process_count, 12, 12, 3)
      real = batch["mask"] == 1
      assert ((batch["mask"] == 0) | real).all()
      assert not batch["image"][~real].any()
      seen.update(batch["id"][real].tolist())
  assert seen == Counter(range(num_examples))


def test_eval_is_in_order_and_the_same_in_every_pass():
  batches = data.eval_batches(FAKE, batch_size=10)
  one, two = list(batches), list(batches)
  assert_equal(one, two)
  ids = np.concatenate([b["id"][b["mask"] == 1] for b in one])
  assert ids.tolist() == list(range(23))


def test_random_ops_of_eval_do_not_depend_on_the_batch_size():
  one = list(data.eval_batches(FAKE, batch_size=23))
  two = list(data.eval_batches({**FAKE, "num_threads": 2}, batch_size=4))
  images = np.concatenate([b["image"] for b in two])[:23]
  np.testing.assert_array_equal(images, one[0]["image"])


class InMemory(data.Source):
  """A source of given examples."""

  def __init__(self, examples):
    self.name = "examples in memory"
    self._examples = examples

  def __len__(self):
    return len(self._examples)

  def __getitem__(self, index):
    return dict(self._examples[index])


@pytest.mark.parametrize("num_threads", [0, 2])
def test_several_preprocessings_read_an_example_once(num_threads):
  read = Counter()

  class Counting(InMemory):
    def __getitem__(self, index):
      read[index] += 1
      return super().__getitem__(index)

  images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
  source = Counting([{"image": x, "id": i} for i, x in enumerate(images)])
  config = {**FAKE, "num_threads": num_threads}
  config["pp"] = "random_crop(4)|value_range(-1,1)|keep('image')"
  other = {**config, "pp": "random_crop(4)|copy('id','number')"}
  alone = [
    list(data.eval_batches(c, batch_size=4, source=source))
    for c in (config, other)
  ]
  batches = data.eval_batches(
    config, batch_size=4, source=source, also={"true_": other}
  )
  read.clear()
  both = list(batches)
  assert read == Counter(range(10))
  expected = [
    one | {f"true_{k}": v for k, v in two.items() if k != "mask"}
    for one, two in zip(*alone, strict=True)
  ]
  assert_equal(both, expected)
  number = np.concatenate([batch["true_number"] for batch in both])
  assert number.tolist() == [*range(10), 0, 0]


def test_the_evaluation_on_real_labels_has_images_without_any():
  config = flexivit_i1k_distill.get_config("variants=True")
  # TFDS gives a sequence of classes as a list.
  image = np.zeros((300, 280, 3), np.uint8)
  source = InMemory(
    [{"image": image, "real_label": label} for label in ([], [3], [7, 999])]
  )
  batches = data.eval_batches(
    config.evals.real.data.to_dict(), batch_size=4, source=source
  )
  (batch,) = batches
  assert batch["image"].shape == (4, 240, 240, 3)
  assert batch["label"].shape == (4, 1000)
  classes = [np.flatnonzero(row).tolist() for row in batch["label"]]
  assert classes == [[], [3], [7, 999], []]
  assert batch["mask"].tolist() == [1, 1, 1, 0]


@pytest.mark.processes
def test_eval_by_processes():
  config = {**FAKE, "num_workers": 2}
  assert_equal(
    list(data.eval_batches(config, batch_size=4)),
    list(data.eval_batches(FAKE, batch_size=4)),
  )


def test_eval_may_be_broken_off():
  batches = data.eval_batches({**FAKE, "num_threads": 2}, batch_size=4)
  for _ in batches:
    break
  assert len(list(batches)) == 6


# Memory and threads


def test_batches_made_ahead_fit_into_memory():
  def spec(side):
    return {"image": ((side, side, 3), np.dtype(np.uint8))}

  assert batches_lib.prefetch_of(spec(240), 64) == 8
  num_bytes = batches_lib.prefetch_of(spec(384), 1024) * 1024 * 384**2 * 3
  assert 1 << 30 < num_bytes <= 2 << 30
  assert batches_lib.prefetch_of(spec(4000), 1024) == 2


def test_threads_follow_the_limits_of_a_container(tmp_path):
  cpus = len(os.sched_getaffinity(0))
  own = tmp_path / "own"
  for limit, expected in (("max 100000", cpus), ("50000 100000", 1)):
    group = tmp_path / "tree" / "job" / "step"
    group.mkdir(parents=True, exist_ok=True)
    (group.parent / "cpu.max").write_text(f"{limit}\n")
    own.write_text("0::/job/step\n")
    assert batches_lib.available_cpus(tmp_path / "tree", own) == expected
  group = tmp_path / "tree" / "cpu" / "docker"
  group.mkdir(parents=True)
  (group / "cpu.cfs_quota_us").write_text("30000\n")
  (group / "cpu.cfs_period_us").write_text("100000\n")
  own.write_text("4:cpu,cpuacct:/docker\n1:name=systemd:/docker\n")
  assert batches_lib.available_cpus(tmp_path / "tree", own) == 1
  assert batches_lib.available_cpus(tmp_path / "no", tmp_path / "no") == cpus


def test_all_threads_work_on_one_batch():
  barrier = threading.Barrier(4, timeout=30)

  class Meeting(InMemory):
    def __getitem__(self, index):
      if index and not barrier.broken:
        barrier.wait()  # Of four threads, or it breaks.
      return super().__getitem__(index)

  source = Meeting([{"image": np.zeros((2, 2, 3), np.uint8)}] * 17)
  config = {**FAKE, "pp": "flip_lr", "num_threads": 4}
  (batch, *_) = data.eval_batches(config, batch_size=17, source=source)
  assert batch["mask"].sum() == 17


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_comes_in_the_place_of_its_batch(num_threads, depth):
  image = np.zeros((2, 2, 3), np.uint8)
  source = InMemory(
    [{"image": image if i != 27 else b"?", "id": i} for i in range(40)]
  )
  config = {**FAKE, "pp": "decode", "num_threads": num_threads}
  stream = data.eval_batches(config, batch_size=8, source=source)
  taken = []
  with pytest.raises(data.ExampleError, match="example 27 "):
    for batch in parallel.create().prefetch(stream, depth=depth):
      taken += np.ravel(batch["id"]).tolist()
  assert taken == list(range(24))


# Configs


def test_peek_shows_shapes_and_dtypes():
  example = data.peek(FAKE)
  assert {k: (v.shape, v.dtype) for k, v in example.items()} == {
    "image": ((12, 12, 3), np.float32),
    "label": ((), np.int32),
    "id": ((), np.int32),
  }


def test_config_dict(digits):
  config = ConfigDict(digits(pp="decode|keep('image','label')"))
  assert data.peek(config)["image"].shape == (8, 8, 3)
  (batch,) = take(1, config)
  assert batch["label"].shape == (8,)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"nmae": "x"}, "data has no key 'nmae'. Did you mean 'name'.*split"),
    ({"name": None}, "data.name must name what to read, not None"),
    ({"name": 3}, "data.name must"),
    ({"split": ""}, "data.split must"),
    ({"pp": None}, "data.pp must be a preprocessing string"),
    ({"pp": "decod"}, "'decode'"),
    ({"num_workers": -1}, "num_workers"),
    ({"prefetch": 1.5}, "prefetch"),
    ({"features": ("image",)}, "data.features=.* is for TFDS datasets"),
    ({"max_corrupt": -1}, "max_corrupt=-1 must be a whole number in"),
    ({"max_corrupt": True}, "max_corrupt"),
    ({"max_corrupt": "1"}, "max_corrupt"),
  ],
)
def test_bad_configs(changes, message):
  config = {**FAKE, **changes}
  for use in (
    data.peek,
    lambda config: data.train_batches(config, batch_size=4, seed=0),
    lambda config: data.eval_batches(config, batch_size=4),
  ):
    with pytest.raises(ValueError, match=message):
      use(config)


def test_hosts_must_divide_the_batch():
  for make in (
    lambda: take(1, process_count=3),
    lambda: data.eval_batches(FAKE, batch_size=8, process_count=3),
  ):
    with pytest.raises(ValueError, match="cannot be divided over 3 hosts"):
      make()
  with pytest.raises(ValueError, match="start_step"):
    take(1, start_step=-1)
  with pytest.raises(ValueError, match=r"seed=-1 must be a whole number"):
    take(1, seed=-1)
  for size in (0, 2.0, "8"):
    message = f"batch_size={size!r} must be a whole number"
    with pytest.raises(ValueError, match=message):
      take(1, batch_size=size)
    with pytest.raises(ValueError, match=message):
      data.eval_batches(FAKE, batch_size=size)


def test_peek_refuses_what_is_no_number(digits):
  with pytest.raises(ValueError, match=r"'image'.*bytes.*keep"):
    data.peek(digits(pp="keep('image')"))


def test_a_mask_of_the_preprocessing_is_refused():
  config = {**FAKE, "pp": "copy('label', 'mask')|drop('image')"}
  with pytest.raises(ValueError, match="'mask'"):
    data.eval_batches(config, batch_size=4)


def test_examples_of_different_shapes(tmp_path):
  for size in (4, 5):
    (tmp_path / f"size {size}").mkdir()
    image = np.zeros((size, size, 3), np.uint8)
    cv2.imwrite(str(tmp_path / f"size {size}" / "image.png"), image)
  config = {
    "name": f"folder:{tmp_path}",
    "split": "all",
    "pp": "decode|keep('image')",
  }
  with pytest.raises(ValueError, match="lack a resize"):
    take(1, config, batch_size=2)
  source = data.open_source(config)
  with pytest.raises(ValueError, match=r"evals\.pp: .*lack a resize"):
    data.check_sample(config, source, data.peek(config), "evals")
  config["pp"] = "decode|resize(4)|keep('image')"
  data.check_sample(config, source, data.peek(config), "evals")
