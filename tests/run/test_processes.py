"""Runs of several processes, and runs that are told to stop: real processes.

tests/test_main.py has the signals, and the flags of processes, in one.
"""

import pathlib
import signal

import chex
import jax
import pytest

from tests import image_text
from tests.reliability import program
from tokenlearner_flexivit.run import checkpoint as checkpoint_lib
from tokenlearner_flexivit.run import metric_log
from tokenlearner_flexivit.train import preemption

pytestmark = pytest.mark.processes
LIMIT = 240  # Seconds.


@pytest.fixture
def start(config, write_config, tmp_path):
  """Returns a function that starts the run in one or several processes."""
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

  def start(name, num_processes, more_code=""):
    config_file = write_config(config)
    with config_file.open("a") as file:
      file.write(more_code)
    return program.Program(
      [tmp_path / name] * num_processes,
      tmp_path / f"{name}_logs",
      pathlib.Path(jax.config.jax_compilation_cache_dir),
      config_file=config_file,
      environment={"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )

  return start


def wait_for_step(run, step):
  """Waits until the log has a step."""
  assert run.until(lambda: (run.step or 0) >= step, LIMIT), run.all_output()


def check_same_result(start, config, workdir):
  """Compares with one undisturbed process of one device."""
  with start("whole", 1) as run:
    assert run.wait(LIMIT) == [0]
  whole = workdir.parent / "whole"
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


def test_two_processes_stop_together_and_go_on_as_one_run(
  start, config, tmp_path
):
  """SIGTERM to one of them; in the end one process computes the same."""
  workdir = tmp_path / "two"
  with start("two", 2) as run:
    wait_for_step(run, 5)
    run.send(signal.SIGTERM, 1)
    assert run.wait(LIMIT) == [preemption.EXIT_CODE] * 2
    stopped = checkpoint_lib.newest_step(workdir)
    assert 5 <= stopped < 80
    assert f"Stopped at step {stopped} of 80" in run.output()
  with start("two", 2) as run:
    assert run.wait(LIMIT) == [0, 0]
    assert f"Continuing from {workdir}" in run.output()
  check_same_result(start, config, workdir)


def test_four_processes_are_one_run(start, config, tmp_path):
  config.total_steps = 40
  with start("four", 4) as run:
    assert run.wait(LIMIT) == [0] * 4
  check_same_result(start, config, tmp_path / "four")


def test_pairs_are_compared_across_processes(start, config, tmp_path):
  """Each loss gathers the other's embeddings, or sends them around."""
  pairs = image_text.make_config(image_text.write_pairs(tmp_path))
  for key in ("data", "model", "flexi", "task", "evals"):
    config[key] = pairs[key]
  config.total_steps, config.ema_decay = 5, None
  config.batch_size = 8  # There are twelve pairs.
  for loss, bias in (("softmax", None), ("sigmoid", -10.0)):
    config.task.loss, config.model.bias_init = loss, bias
    for name, number in (("two", 2), ("one", 1)):
      with start(f"{loss}_{name}", number) as run:
        assert run.wait(LIMIT) == [0] * number
    two, one = (
      checkpoint_lib.read_params(tmp_path / f"{loss}_{name}")
      for name in ("two", "one")
    )
    chex.assert_trees_all_close(two, one, rtol=1e-4, atol=1e-5)


def test_a_dead_process_stops_the_others(start, config):
  """With an error, within two minutes."""
  config.total_steps = 100_000
  with start("dead", 2) as run:
    wait_for_step(run, 5)
    run.send(signal.SIGKILL, 1)
    codes = run.wait(limit=120)
  assert codes[0] not in (0, preemption.EXIT_CODE)


@pytest.mark.parametrize("bad", ["1", "01"])
def test_a_batch_that_fails_loses_no_step(bad, start, config, tmp_path):
  """Who fails saves and says why; the others end as if it had died."""
  bad_label = f"""
import sys
from tokenlearner_flexivit.tasks import classification
steps = []
def check_batch(self, batch):
  steps.append(1)
  if len(steps) > 8:
    raise ValueError("a bad label")
if sys.argv[-1].removeprefix("--process_id=") in "{bad}":
  classification.Classification.check_batch = check_batch
"""
  workdir = tmp_path / "error"
  with start("error", 2, bad_label) as run:
    wait_for_step(run, 5)
    codes = run.wait(limit=120)
    assert "The state of step 8 is saved" in run.output(1)
    assert run.output(1).strip().endswith("Error: a bad label")
  assert codes[1] == 1 and codes[0] not in (0, preemption.EXIT_CODE)
  assert checkpoint_lib.newest_step(workdir) == 8
  if bad == "1":
    with start("error", 1) as run:
      assert run.wait(LIMIT) == [0]
    check_same_result(start, config, workdir)


BAD_EVALUATION = """
import sys
from tokenlearner_flexivit.tasks import classification
check_labels = classification.Classification.check_labels
def bad(self, labels, where):
  if where == "config.evals.test.data" and len(labels) < 8:
    raise ValueError("a bad label")
  check_labels(self, labels, where)
if "--process_id=1" in sys.argv:
  classification.Classification.check_labels = bad
"""


def test_an_evaluation_that_fails_on_one_host_saves_on_all(
  start, config, tmp_path
):
  """Both end at once, and the same command goes on."""
  config.evals.test.eval_steps = 20
  workdir = tmp_path / "bad"
  with start("bad", 2, BAD_EVALUATION) as run:
    wait_for_step(run, 20)
    seconds = run.seconds
    assert run.wait(limit=120) == [1, 1]
    assert run.seconds - seconds < 30
    assert "Stopped because of process 1, whose output says" in run.output()
    assert "The state of step 20 is saved" in run.output()
    assert run.output(1).strip().endswith("Error: a bad label")
  assert checkpoint_lib.newest_step(workdir) == 20
  with start("bad", 2) as run:
    assert run.wait(LIMIT) == [0, 0]
  evaluated = [
    r["step"] for r in metric_log.read(workdir) if "test/patch4/accuracy" in r
  ]
  assert evaluated == [20, 40, 60, 80]


def test_processes_leave_an_evaluation_together(start, config, tmp_path):
  """It would take a thousand batches, each of half a second."""
  config.evals.test.data.name = "fake:12x12x3:5:16000"
  config.evals.test.eval_steps = 20
  slow = """
import time
from tokenlearner_flexivit.tasks import classification
check_labels = classification.Classification.check_labels
def slow(self, labels, where):
  if where == "config.evals.test.data":
    print("BATCH", flush=True)
    time.sleep(0.5)
  check_labels(self, labels, where)
classification.Classification.check_labels = slow
"""
  with start("left", 2, slow) as run:
    assert run.until(lambda: run.output(1).count("BATCH") > 4, LIMIT)
    run.send(signal.SIGTERM, 1)
    assert run.wait(limit=60) == [preemption.EXIT_CODE] * 2
    assert "Stopped at step 20 of 80" in run.output()
  assert checkpoint_lib.newest_step(tmp_path / "left") == 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_a_code(number, start, config, tmp_path):
  config.total_steps = 100_000
  workdir = tmp_path / "one"
  with start("one", 1) as run:
    wait_for_step(run, 5)
    run.send(number)
    assert run.wait(LIMIT) == [preemption.EXIT_CODE]
  last = max(r["step"] for r in metric_log.read(workdir))
  assert checkpoint_lib.newest_step(workdir) == last


@pytest.mark.parametrize("dispatch, programs", [("host", 2), ("switch", 1)])
def test_a_signal_while_compiling_stops_at_once(
  start, config, tmp_path, dispatch, programs
):
  """Though a program would take for ever."""
  config.flexi.dispatch = dispatch
  never_compiled = """
import hashlib
from tokenlearner_flexivit.parallel import pmap
# As XLA does, it lets other threads run, and looks at no signal.
never = lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
pmap.Pmap.lower = lambda *args, **options: never
"""
  with start("compiling", 1, never_compiled) as run:
    words = f"Compiling {programs} program"
    assert run.until(lambda: words in run.output(), LIMIT)
    run.send(signal.SIGTERM)
    assert run.wait(limit=30) == [preemption.EXIT_CODE]
    assert "SIGTERM: stopped before the first step" in run.output()
  assert not checkpoint_lib.steps(tmp_path / "compiling")
