"""Compares the two ways to pick a patch size per step, `switch` and `host`.

  python -m benchmarks.dispatch

Both train the quickstart's model on one fixed batch, taking turns, so that
ratios hold although the machine's speed drifts.
"""

import argparse
import json
import statistics

import jax

from benchmarks import drawn_step
from configs import quickstart
from tokenlearner_flexivit import data
from tokenlearner_flexivit.models import timing
from tokenlearner_flexivit.train import setup

DISPATCHES = ("switch", "host")


def measure(config, rounds=6, steps=20):
  """Returns seconds to compile and per step of each dispatch, and ratios.

  Args:
    config: of a run.
    rounds: how often each takes its turn; the median counts.
    steps: steps in a turn, of the same patch sizes for both.
  """
  experiment = setup.Experiment(config)
  params = experiment.init_params()
  section, size = experiment.config["data"], experiment.config["batch_size"]
  batch = next(data.train_batches(section, batch_size=size, seed=0))
  batch = {key: batch[key] for key in experiment.task.batch_keys}
  programs, result = {}, {"backend": jax.default_backend()}
  for name in DISPATCHES:
    programs[name], result[f"{name}_compile_s"] = drawn_step.make(
      experiment.task, params, batch, experiment.dials, steps, name
    )
  seconds = timing.by_turns(programs, rounds)
  for name in DISPATCHES:
    result[f"{name}_step_s"] = statistics.median(seconds[name]) / steps
  result["compile_switch_over_host"] = (
    result["switch_compile_s"] / result["host_compile_s"]
  )
  result["step_switch_over_host"] = timing.ratio(
    *(seconds[name] for name in DISPATCHES)
  )
  return result


def main(argv: list[str] | None = None) -> None:
  """Prints the measurement of the quickstart as JSON."""
  argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args(
    argv
  )
  print(json.dumps(measure(quickstart.get_config()), indent=2))


if __name__ == "__main__":
  main()
