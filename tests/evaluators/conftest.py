"""Evaluation of one config by different numbers of processes."""

import json
import os
import subprocess
import sys

import pytest

from tests.reliability import program

PROGRAM = """
import json, sys
import jax, ml_collections
config = json.loads(sys.argv[1])
port, count, index, devices = map(int, sys.argv[2:])
jax.config.update("jax_num_cpu_devices", devices)
if count > 1:
  jax.distributed.initialize(f"localhost:{port}", count, index)
from tokenlearner_flexivit.train import setup
made = setup.Experiment(ml_collections.ConfigDict(config))
params = made.task.init(jax.random.key(0), made.image_shape)
params = made.parallel.place(params)
results = {
  f"{name}/{key}": value
  for name, evaluator in made.evaluators.items()
  for key, value in evaluator.run(params)
}
print("RESULTS", json.dumps(results))
"""


@pytest.fixture
def evaluate_by_processes():
  """Returns a function that has a config evaluated by new processes.

  Each has some devices and the fresh parameters of key 0; returned are the
  values that each of them comes to.
  """

  def evaluate(config, count: int, devices=2) -> list[dict[str, float]]:
    section, port = json.dumps(config.to_dict()), program.free_port()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    processes = [
      subprocess.Popen(
        [
          *(sys.executable, "-c", PROGRAM, section),
          *map(str, (port, count, i, devices)),
        ],
        cwd=program.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
      )
      for i in range(count)
    ]
    results = []
    for process in processes:
      output, _ = process.communicate(timeout=300)
      assert process.returncode == 0
      results.append(json.loads(output.split("RESULTS")[-1]))
    return results

  return evaluate
