"""The killer of runs kills and compares as it says."""

import collections
import json
import signal
import sys

import jax.numpy as jnp
import pytest

from tests.reliability import compare, config, kills, program
from tokenlearner_flexivit.run import checkpoint, metric_log
from tokenlearner_flexivit.train import step as train_step

# Stands in for the training program: counts steps, saves what it has counted,
# and continues from there. LOSES is what a restart adds to the sum.
STAND_IN = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2].partition("=")[2]) / "checkpoints"
folder.mkdir(parents=True, exist_ok=True)
stopping = []
saved = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
step = max(saved, default=0)
total = int((folder / str(step)).read_text()) + LOSES if step else 0
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
if step == 120:
  print("All training of this run is done: 120 steps.", flush=True)
else:
  print(f"Training steps {step + 1} to 120", flush=True)
def save():
  partial = folder / f"{step}.tmp"
  partial.write_text(str(total))
  time.sleep(0.02)
  partial.rename(folder / str(step))
while step < 120:
  step += 1
  total += step
  time.sleep(0.002)
  print(f"step {step:3}/120", flush=True)
  if step % 8 == 0 or stopping:
    save()
  if stopping:
    sys.exit(CODE)
"""


@pytest.fixture
def make_world(tmp_path, monkeypatch):
  """Makes worlds in which the stand-in is the training program."""

  def result(workdir):
    step = max(program.finished_saves(workdir))
    total = (workdir / "checkpoints" / str(step)).read_text()
    return {part: {} for part in compare.PARTS} | {"parameters": {"sum": total}}

  def make(loses=0, code=75):
    script = STAND_IN.replace("LOSES", str(loses)).replace("CODE", str(code))
    monkeypatch.setattr(program, "COMMAND", (sys.executable, "-c", script))
    monkeypatch.setattr(compare, "result", result)
    reference, timeline = kills.undisturbed(tmp_path / "whole", tmp_path, 1)
    assert timeline["all"] > timeline["training"] > 0.24
    assert timeline["saving"] > 0
    return kills.World(tmp_path, tmp_path, 1, reference, timeline, 1.0)

  return make


@pytest.mark.processes
def test_killed_runs_go_on_to_the_same_end(make_world, tmp_path):
  world = make_world()
  for number in (1, 2):  # SIGTERM while training, SIGKILL while saving.
    row = kills.killed_run(world, number)
    assert (row["error"], row["differs"]) == (None, {})
    first = row["kills"][0]
    expected = {1: ("SIGTERM", [75]), 2: ("SIGKILL", [-9])}[number]
    assert (first["signal"], first["exit_codes"]) == expected
    assert first["continued_from"] is not None
    assert not (tmp_path / f"run{number:03}").exists()


def test_a_restart_that_loses_something_is_found(make_world, tmp_path):
  row = kills.killed_run(make_world(loses=1), 1)
  assert row["error"] is None
  assert row["differs"] == {"parameters": ["sum"]}
  assert (tmp_path / "run001").exists()  # For a person to look.


@pytest.mark.processes
def test_a_run_with_no_step_left_is_at_its_end(make_world, tmp_path):
  world, workdir = make_world(), tmp_path / "whole"
  with program.Program([workdir], kills.logs_of(workdir), tmp_path) as run:
    assert run.until(lambda: run.training, 10)
    plan = kills.Plan(signal.SIGTERM, "training", 0.0, 0.0, 0)
    kill = kills._strike(run, plan, world, workdir)
  assert kill["training"] and not kills.in_loop(kill)


@pytest.mark.processes
def test_a_wrong_exit_code_is_found(make_world):
  row = kills.killed_run(make_world(code=1), 1)
  assert "exit codes [1], not 75" in row["error"]


@pytest.mark.parametrize(
  "name, codes, training, wrong",
  [
    ("SIGKILL", [-9], True, None),
    ("SIGKILL", [1, -9], True, None),
    ("SIGKILL", [None, -9], True, "within"),
    ("SIGKILL", [0, -9], True, "took that for a success"),
    ("SIGKILL", [1, 0], True, "nothing explains"),
    ("SIGTERM", [75, 75], True, None),
    ("SIGTERM", [0, 0], True, None),
    ("SIGTERM", [1, -15], False, None),
    ("SIGTERM", [1, -15], True, "nothing explains"),
    ("SIGTERM", [1, 75], True, "not 75"),
    ("SIGTERM", [1, 1], False, "not 75"),
  ],
)
def test_exit_codes_after_a_signal_to_the_last(name, codes, training, wrong):
  kill = {
    "signal": name,
    "victim": len(codes) - 1,
    "exit_codes": codes,
    "training": training,
    "step": 5,
    "seconds_to_end": 1.0,
  }
  said = kills._wrong_codes(kill)
  assert said is None if wrong is None else wrong in said


def test_nine_runs_have_every_moment_with_every_signal():
  first = [next(kills.plans(number, 2))[0] for number in range(9)]
  drawn = collections.Counter((plan.moment, plan.signal) for plan in first)
  assert drawn == {
    (moment, number): 2 if number == signal.SIGKILL else 1
    for moment in kills.MOMENTS
    for number in (signal.SIGKILL, signal.SIGTERM)
  }
  assert len({plan.instant for plan in first}) == 9
  assert first == [next(kills.plans(number, 2))[0] for number in range(9)]


def save(workdir, last=3.0, loss=0.5, seconds=1.0):
  state = train_step.TrainState(
    step=jnp.int32(4),
    params={"w": jnp.arange(3.0)},
    opt_state=({"mu": jnp.array([1.0, last])},),
    ema={"w": jnp.ones(3)},
  )
  checkpoints = checkpoint.Checkpoints(workdir, 1, {})
  checkpoints.save(4, state)
  checkpoints.close()
  log = metric_log.MetricLog(workdir, 4)
  log.write(4, {"loss": loss, "train_seconds": seconds})
  log.write(4, {"test/patch8/loss": 0.25})
  log.close()
  return compare.result(workdir)


def test_one_bit_is_a_difference_and_time_is_none(tmp_path):
  whole = save(tmp_path / "whole")
  assert all(whole[part] for part in compare.PARTS)
  assert json.loads(json.dumps(whole)) == whole  # It is stored.
  same = save(tmp_path / "same", seconds=2.0)
  assert compare.differences(whole, same) == {}
  other = save(tmp_path / "other", last=3.0000002, loss=0.5000001)
  differs = compare.differences(whole, other)
  assert list(differs) == ["optimizer state", "training metrics"]
  assert "mu" in differs["optimizer state"][0]
  assert differs["training metrics"] == ["4 loss"]


def test_the_config_has_what_a_restart_could_lose():
  c = config.get_config("images=/somewhere")
  assert c.total_steps == program.TOTAL_STEPS
  assert c.model.dropout and c.task.mixup_alpha and c.ema_decay
  assert c.checkpoint_steps % c.log_steps and c.eval_steps % c.checkpoint_steps
  assert c.evals.test.data.name == c.data.name == "folder:/somewhere"
