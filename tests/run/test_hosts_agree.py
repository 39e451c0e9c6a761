"""Two processes agree on a workdir and its checkpoints: real processes."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.reliability import program

ROOT = pathlib.Path(__file__).parents[2]

PROCESS = """
import pathlib, sys
import jax, numpy as np
port, i, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, i)
from tokenlearner_flexivit.parallel import hosts
from tokenlearner_flexivit.run import checkpoint, metric_log, workdir
from tokenlearner_flexivit.train import binding

def refused(function, *arguments):
  try:
    function(*arguments)
  except (ValueError, RuntimeError) as error:
    return f"{type(error).__name__}: {error}"

workdir._SHARED_WITHIN_SECONDS = 0.5
print("apart:", refused(workdir.check_shared, folder / f"own{i}"))
workdir.check_shared(folder / "run")
lock = workdir.Lock(folder / "run")
print("again:", refused(workdir.Lock, folder / "run"))
assert hosts.of_first_host({"process": i, "text": "é" * (1 + 9 * i)}) == {
  "process": 0, "text": "é"
}
print("mode:", refused(hosts.check_alike, "--mode", ("train", "eval")[i]))
hosts.check_alike("--mode", "eval")
about = {"digest": "ab", "evals": {}}
binding.claim_workdir(folder / "run", {"a": 1}, about)
other = folder / "run", {"a": 1 + i}, about
print("config:", refused(binding.claim_workdir, *other))
other = folder / "run", {"a": 1}, about | {"digest": "abc"[i:]}
print("data:", refused(binding.claim_workdir, *other))
# The log of process 0 counts, whatever another one finds in its place.
log = folder / "run" if i == 0 else folder / "stale"
log.mkdir(exist_ok=True)
(log / metric_log.METRICS_FILE).write_text(
  '{"step": 0, "test/accuracy": %d}' % (i + 1)
)
log = metric_log.MetricLog(log, 0)
assert log.find(0, "test/") == {"accuracy": 1}, log.history
log.close()

checkpoints = checkpoint.Checkpoints(folder / "run", 2, {})
assert checkpoints.restore_newest({}) is None
for step in 1, 2:
  state = jax.device_put({"w": np.full(3, step)}, jax.local_devices()[0])
  checkpoints.save(step, state, must=True)
if i == 0:
  (folder / "run/checkpoints/2/config/metadata").unlink()
hosts.raise_together(None)
step, restored = checkpoints.restore_newest(state)
assert step == 1 and restored["w"].tolist() == [1] * 3, restored
if i == 0:
  (folder / "run/checkpoints").rename(folder / "gone")
print("full:", refused(lambda: checkpoints.save(3, state, must=True)))
if i == 0:
  (folder / "gone").rename(folder / "run/checkpoints")
hosts.raise_together(None)

# One host fails, then both, then one while process 0 saves.
if i == 1:
  print("one:", checkpoints.save_alone(4, state, notes="alone"))
hosts.raise_together(None)
assert checkpoints.newest == 4 and checkpoints.notes(4) == "alone"
print("both:", checkpoints.save_alone(5, state))
assert checkpoints.newest == 5
hosts.raise_together(None)  # Process 0 would have 6 before 1 looks for 5.
checkpoints.save(6, state)
if i == 1:
  print("one:", checkpoints.save_alone(6, state))
checkpoints.close()
hosts.raise_together(None)
kept = sorted(path.name for path in (folder / "run/checkpoints").iterdir())
assert kept == ["2.corrupt", "5", "6"], kept
step, restored = checkpoints.restore_newest(state)
assert step == 6 and restored["w"].tolist() == [2] * 3, restored
"""


@pytest.mark.processes
def test_two_processes_agree(tmp_path):
  """On what is wrong, and on the checkpoint to use; none waits for ever.

  One that fails alone saves alone.
  """
  port = program.free_port()
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", PROCESS, str(port), str(i), str(tmp_path)],
      stdout=subprocess.PIPE,
      text=True,
      cwd=ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
    )
    for i in range(2)
  ]
  try:
    outputs = [p.communicate(timeout=240)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  assert [p.returncode for p in processes] == [0, 0], outputs
  first, second = outputs
  assert "apart: RuntimeError: Stopped because of process 1" in first
  assert "apart: ValueError" in second and "process 1 on" in second
  assert "again: ValueError" in first and "in use by another run" in first
  assert "mode: RuntimeError: Stopped because of process 1" in first
  assert "Process 1 has --mode=eval, but process 0 --mode=train" in second
  for word, differs in (
    ("config", "config.a: 1 -> 2"),
    ("data", "about_data.digest: 'abc' -> 'bc'"),
  ):
    assert f"{word}: RuntimeError: Stopped because of process 1" in first
    assert f"{word}: ValueError: Process 1 differs from process 0" in second
    assert differs in second
  assert f"Falling back to {tmp_path / 'run/checkpoints/1'}" in first
  assert "full: CheckpointError" in first and "step 3: " in first
  for word in ("again", "full"):
    assert f"{word}: RuntimeError: Stopped because of process 0" in second
  assert "both: True" in first and second.count(": True") == 3
