"""Compares the two ways to pick a patch size per step, `switch` and `host`.

  python -m benchmarks.dispatch

Both train the quickstart's model on one fixed batch, taking turns, so that
ratios hold although the machine's speed drifts.
"""

import json
import statistics
import time

import jax

from configs import quickstart
from tokenlearner_flexivit import data
from tokenlearner_flexivit.train import optimizer as optimizer_lib
from tokenlearner_flexivit.train import setup
from tokenlearner_flexivit.train import step as train_step

DISPATCHES = ("switch", "host")


def prepare(experiment, dispatch):
  """Returns a state, a batch, the compiled step and the seconds it took."""
  config = experiment.config
  sizes = dict(batch_size=config["batch_size"], num_examples=1)
  params = experiment.init_params()
  optimizer, _ = optimizer_lib.create(
    config["optimizer"], params, experiment.steps("total"), **sizes
  )
  state = experiment.parallel.place(
    train_step.create_state(params, optimizer, ema=False)
  )
  batch = next(
    data.train_batches(config["data"], batch_size=sizes["batch_size"], seed=0)
  )
  batch = experiment.parallel.place_batch(batch)
  start = time.perf_counter()
  step = train_step.compile_steps(
    experiment.task,
    optimizer,
    experiment.dials,
    experiment.parallel,
    state,
    batch,
    experiment.task.constants(experiment.parallel),
    first_step=0,
    seed=0,
    dispatch=dispatch,
  )
  return state, batch, step, time.perf_counter() - start


def measure(config, rounds=6, steps=20):
  """Returns seconds to compile and per step of each dispatch, and ratios.

  Args:
    config: of a run.
    rounds: how often each takes its turn; the median counts.
    steps: steps in a turn, of the same patch sizes for both.
  """
  experiment = setup.Experiment(config)
  runs = {name: prepare(experiment, name) for name in DISPATCHES}
  states = {name: run[0] for name, run in runs.items()}
  seconds = {name: [] for name in DISPATCHES}
  for _ in range(rounds):
    for name, (_, batch, step, _) in runs.items():
      start = time.perf_counter()
      for _ in range(steps):
        states[name], _ = step(states[name], batch)
      jax.block_until_ready(states[name])
      seconds[name].append((time.perf_counter() - start) / steps)
  result = {"backend": jax.default_backend()}
  for name, run in runs.items():
    result[f"{name}_compile_s"] = run[3]
    result[f"{name}_step_s"] = statistics.median(seconds[name])
  result["compile_switch_over_host"] = (
    result["switch_compile_s"] / result["host_compile_s"]
  )
  result["step_switch_over_host"] = statistics.median(
    a / b for a, b in zip(*(seconds[name] for name in DISPATCHES), strict=True)
  )
  return result


def main():
  """Prints the measurement of the quickstart as JSON."""
  print(json.dumps(measure(quickstart.get_config()), indent=2))


if __name__ == "__main__":
  main()
