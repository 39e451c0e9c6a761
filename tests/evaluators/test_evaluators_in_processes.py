"""Several processes share the examples and come to the same values."""

import json
import os
import subprocess
import sys

import pytest

from experiments.reliability import program
from tokenlearner_flexivit import parallel

PROGRAM = """
import json, sys
import jax, ml_collections
config, port, count, index = json.loads(sys.argv[1]), *map(int, sys.argv[2:])
jax.config.update("jax_num_cpu_devices", 2)
if count > 1:
  jax.distributed.initialize(f"localhost:{port}", count, index)
from tokenlearner_flexivit import experiment, parallel
made = experiment.Experiment(ml_collections.ConfigDict(config))
params = made.task.init(jax.random.key(0), (12, 12, 3))
params = parallel.replicate(params, config["parallel"])
results = {
  f"{name}/{key}": value
  for name, evaluator in made.evaluators.items()
  for key, value in evaluator.run(params)
}
print("RESULTS", json.dumps(results))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", parallel.KINDS)
def test_two_processes_are_one(config, kind):
  """Each of two devices; 21 examples, the last five in a padded batch."""
  model = dict(variant="mu", depth=1, patch_size=(4, 4), posemb_grid=(3, 3))
  config.parallel = kind
  config.model = model | {"head_zeroinit": False}
  config.flexi.patch_size.values = (6, 4)
  config.task = dict(
    name="distillation",
    teachers=dict(
      prof=dict(model=config.model.to_dict(), patch_size=3, dtype="float32")
    ),
  )
  data = config.evals.test.data.to_dict()
  config.evals = dict(
    dist=dict(type="distance", data=data), ens=dict(type="ensemble", data=data)
  )
  section = json.dumps(config.to_dict())
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

  def start(count):
    port = program.free_port()
    return [
      subprocess.Popen(
        [sys.executable, "-c", PROGRAM, section, *map(str, (port, count, i))],
        cwd=program.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
      )
      for i in range(count)
    ]

  results = []
  for process in [*start(1), *start(2)]:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    results.append(json.loads(output.split("RESULTS")[-1]))
  assert len(results[0]) == (2 * 4 + 4) + (2 * 4 + 7)
  assert results[1] == results[2] == pytest.approx(results[0], rel=1e-5)
