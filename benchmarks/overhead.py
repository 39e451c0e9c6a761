"""What logging and checkpoints cost the training loop.

The quickstart is trained: with a log line and a checkpoint only at the end,
with a line every step, with a checkpoint every 50 steps. The runs take turns;
what counts is their own clock, which starts after compilation and stops before
the last checkpoint. Then saves are timed alone: how long the call holds the
loop up, and how long until all is on disk.
"""

import contextlib
import io
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import ml_collections

from configs import quickstart
from tokenlearner_flexivit import train
from tokenlearner_flexivit.models import timing
from tokenlearner_flexivit.run import checkpoint

SAVE_EVERY = 50


def make_config(quick: bool, saves: int) -> ml_collections.ConfigDict:
  """Returns a run that ends one step after its last possible save."""
  c = quickstart.get_config("runlocal" if quick else "")
  c.total_steps = saves * SAVE_EVERY + 1
  c.optimizer.schedule.warmup_steps = 10
  c.evals = {}
  if quick:
    c.flexi = dict(patch_size=dict(values=(8,)))
  return c


def train_seconds(
  config: ml_collections.ConfigDict, **durations: int
) -> tuple[Any, float]:
  """Returns the final state and the loop's seconds per step.

  Args:
    config: of the run.
    **durations: such as `log_steps`; those not given last the whole run.
  """
  with config.unlocked():
    config = config.copy_and_resolve_references()
    config.log_steps = config.checkpoint_steps = config.total_steps
    config.update(durations)
  jax.clear_caches()  # Programs of all runs together would not fit.
  with (
    tempfile.TemporaryDirectory() as workdir,
    contextlib.redirect_stdout(io.StringIO()),
  ):
    state, history = train.train_and_evaluate(config, workdir)
  return state, history[-1]["train_seconds"] / config.total_steps


def time_saves(state: Any, rounds: int) -> tuple[list[float], list[float]]:
  """Returns the seconds that saves block, and those until they are on disk."""
  blocked, whole = [], []
  with tempfile.TemporaryDirectory() as folder:
    for i in range(rounds + 1):
      checkpoints = checkpoint.Checkpoints(
        pathlib.Path(folder) / str(i), keep=1, config={}
      )
      start = time.perf_counter()
      checkpoints.save(0, state)
      blocked.append(time.perf_counter() - start)
      checkpoints.close()
      whole.append(time.perf_counter() - start)
  return blocked[1:], whole[1:]  # The first also starts threads.


def run(quick: bool) -> list[dict[str, Any]]:
  """Measures steps, log lines and saves.

  Returns:
    Rows of what was measured in milliseconds, what it is set in relation to,
    and the ratio of the two.
  """
  rounds, saves = (1, 1) if quick else (5, 3)
  config = make_config(quick, saves)
  cases = {
    "plain": {},
    "logged": dict(log_steps=1),
    "saved": dict(checkpoint_steps=SAVE_EVERY),
  }
  seconds = {name: [] for name in cases}
  with tempfile.TemporaryDirectory() as cache:
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", cache)
    if not quick:
      train_seconds(config)  # What only the first run of a process does.
    for _ in range(rounds):
      for name, durations in cases.items():
        state, per_step = train_seconds(config, **durations)
        seconds[name].append(per_step)
    jax.config.update("jax_compilation_cache_dir", before)
  blocked, whole = time_saves(state, rounds=1 if quick else 5)

  # What differs between two noisy runs may come out negative.
  size = sum(x.nbytes for x in jax.tree.leaves(state)) / 2**20
  plain, save = "a plain step", f"a save of {size:.0f} MiB"
  table = [
    (plain, seconds["plain"], plain, seconds["plain"]),
    ("a step, each logged", seconds["logged"], plain, seconds["plain"]),
    (
      f"a step, every {SAVE_EVERY}th saved",
      seconds["saved"],
      plain,
      seconds["plain"],
    ),
    (save, whole, plain, [statistics.median(seconds["plain"])] * len(whole)),
    ("the loop waits for it", blocked, save, whole),
  ]
  return [
    {
      "what": what,
      "ms": 1e3 * statistics.median(times),
      "over": over,
      "ratio": timing.ratio(times, others),
    }
    for what, times, over, others in table
  ]
