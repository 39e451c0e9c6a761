"""The training loop, the only one: `train_and_evaluate(config, workdir)`.

The command line, notebooks, tests and experiments all call it. A task
(`tasks/`) defines what is optimised, an evaluator what is measured.
"""

import contextlib
import functools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import paths, report, terminal
from tokenlearner_flexivit.models import stacking
from tokenlearner_flexivit.parallel import hosts
from tokenlearner_flexivit.run import checkpoint as checkpoint_lib
from tokenlearner_flexivit.run import metric_log, profiler
from tokenlearner_flexivit.run import progress as progress_lib
from tokenlearner_flexivit.run import workdir as workdir_lib
from tokenlearner_flexivit.train import (
  binding,
  preemption,
  setup,
  weight_digests,
)
from tokenlearner_flexivit.train import step as train_step_lib
from tokenlearner_flexivit.train.recipe import Recipe

say = terminal.say
TrainState = train_step_lib.TrainState

# How long a host whose evaluation fails waits for the others to learn of it.
_WAIT_FOR_HOSTS_SECONDS = 120


class NonFiniteLossError(RuntimeError):
  """The error of a loss or norm that became NaN or infinite; names the step."""


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> tuple[TrainState, list[dict[str, float]]]:
  """Trains what `config` describes, evaluates it and writes a report.

  It continues from the newest checkpoint if `workdir` has one, with the same
  result as without the interruption. On SIGTERM or SIGINT it saves and stops.

  Args:
    config: its keys are those of `setup.DEFAULTS`.
    workdir: holds config.json, checkpoints, metrics.jsonl, TensorBoard
      events and the report. All hosts share it, and no other run uses it.

  Returns:
    The final state (on the host for a model with `scan=True`), and all records
    of metrics.jsonl.

  Raises:
    ValueError: anything wrong with the config, the data or the workdir, before
      step 0.
    data.ExampleError: an example cannot be read, or is corrupt; training may
      skip some (`data.max_corrupt`), an evaluation none. If a batch cannot be
      read or an evaluation fails, for this or another reason, the state is
      saved first.
    checkpoint.CheckpointError: checkpoints could not be saved.
    NonFiniteLossError: the training diverged.
    preemption.PreemptedError: a signal stopped it; the same call continues.
    OSError: the report could not be written; its tables are printed.
  """
  workdir = paths.local(workdir, "workdir")
  with hosts.together():
    begins = not checkpoint_lib.steps(workdir)
    before = None
    if not begins and (workdir / workdir_lib.ABOUT_DATA_FILE).exists():
      before = workdir_lib.read_about_data(workdir)
    experiment = setup.Experiment(config, begins=begins, before=before)
    about_data = {
      **experiment.about_data,
      "weights": weight_digests.of_config(experiment.config, begins=begins),
    }
  config, task = experiment.config, experiment.task
  parallel, batch_size = experiment.parallel, config["batch_size"]

  # ---- Durations, optimizer --------------------------------------------------
  total_steps = experiment.steps("total")
  log_every = experiment.steps("log", default=50)
  checkpoint_every = experiment.steps("checkpoint", default=1000)
  eval_every = {
    name: experiment.steps(
      "eval", default=experiment.steps("eval", total_steps), evaluation=name
    )
    for name in config["evals"]
  }
  recipe, runs = Recipe(experiment), task.model.scanned_runs

  # ---- Workdir, checkpoints, state -------------------------------------------
  with contextlib.ExitStack() as closing:
    workdir_lib.check_shared(workdir)
    closing.enter_context(workdir_lib.Lock(workdir))
    kept = binding.claim_workdir(workdir, config, about_data)
    for line in experiment.describe_splits():
      say(line)
    progress_lib.describe_devices(batch_size)
    progress_lib.describe_model(recipe.shapes)
    say(report.cost_table(experiment))
    settings = experiment.dials.settings
    if dearer := task.model.dearer_settings(experiment.image_shape, settings):
      say(dearer)
    checkpoints = checkpoint_lib.Checkpoints(
      workdir,
      config["keep_checkpoints"],
      kept[0],
      config["max_save_failures"],
      functools.partial(binding.bind_workdir, workdir, *kept),
    )
    # Checkpoints name every block, whether a loop runs them or not.
    newest = checkpoints.restore_newest(
      jax.eval_shape(stacking.unstack, recipe.state_shapes())
    )
    if newest is None:
      first_step, notes = 0, {"pending": []}
      with hosts.together():
        params = stacking.stack(experiment.init_params(), runs)
      state = jax.jit(recipe.create_state)(params)
      del params  # They would stay in memory beside the state's.
    else:
      first_step, saved = newest
      notes = checkpoints.notes(first_step)
      say(f"Continuing from {checkpoints.path(first_step)}")
      state = stacking.stack(saved, runs)
      del newest, saved
    state = parallel.place(state)
    log = metric_log.MetricLog(workdir, first_step)
    progress = progress_lib.Progress(
      settings,
      first_step=first_step,
      total_steps=total_steps,
      batch_size=batch_size,
      kind=task.model.input,
      # Older checkpoints do not record how long they took.
      seconds_before=notes.get("seconds", log.last("train_seconds", 0.0)),
      pending=notes["pending"],
    )
    stop = preemption.Preemption()
    profile = profiler.Profiler(
      config["profile_steps"], workdir, first_step, total_steps
    )
    for resource in (stop, checkpoints, log, progress, profile):
      closing.callback(resource.close)
    if first_step >= total_steps:
      steps = terminal.counted(total_steps, "step")
      say(f"All training of this run is done: {steps}.")

    def evaluate_due(step: int) -> dict[str, dict[str, float]]:
      due = [
        name
        for name, every in eval_every.items()
        if step == total_steps
        or (step % every == 0 if step else config["eval_first"])
      ]
      with progress.paused():
        return _evaluate(experiment, due, state.eval_params, step, log)

    for evaluator in experiment.evaluators.values():
      evaluator.before_batch = stop.between_batches

    def save(step: int, *, must: bool = False, alone: bool = False) -> bool:
      _check_finite(progress, checkpoints)
      log.sync()  # The log must not end before the checkpoint.
      notes = {"pending": progress.pending, "seconds": progress.seconds}
      if alone:
        return checkpoints.save_alone(step, state, notes=notes)
      checkpoints.save(step, state, notes=notes, must=must)
      return True

    # ---- The step, compiled --------------------------------------------------
    if first_step < total_steps:
      batches = _device_batches(experiment, first_step)
      closing.callback(batches.close)
      with hosts.together():
        first = [next(batches)]
      with hosts.together():
        constants = task.constants(parallel)
      run_step = train_step_lib.compile_steps(
        task,
        recipe.optimizer,
        experiment.dials,
        parallel,
        state,
        first[0],
        constants,
        first_step=first_step,
        dispatch=experiment.dispatch,
        say=say,
        compiling=progress.compiling,
        **recipe.options,
      )
      num_examples = experiment.about_data["num_examples"]
      say(
        f"Training steps {first_step + 1} to {total_steps} on "
        f"{terminal.counted(num_examples, 'example')} of "
        f"{config['data']['name']}, preprocessed by {config['data']['pp']}"
      )

    # ---- The loop ------------------------------------------------------------
    progress.start()
    # A run that stopped between saving and evaluating evaluates now.
    results = evaluate_due(first_step)
    for step in range(first_step + 1, total_steps + 1):
      try:
        with jax.transfer_guard("disallow"):
          batch = first.pop() if first else next(batches)
      except Exception:
        # Others may be in the midst of this step, which has taken their state
        # and ends only with this host. JAX ends them when this one has ended.
        if save(step - 1, alone=True):
          terminal.write(
            f"A batch cannot be read. The state of step {step - 1} is saved."
          )
        raise
      # Metrics are not copied here, so that the devices need not wait.
      with jax.transfer_guard("disallow"):
        state, metrics = profile.run(step, run_step, state, batch)
        progress.add(step, metrics)
      last = step == total_steps
      stopping = stop.reached() and not last
      must_log = step % log_every == 0 or last
      must_save = step % checkpoint_every == 0 or last or stopping
      if must_log:
        _check_finite(progress, checkpoints)
        log.write(step, progress.log(recipe.learning_rate(step - 1)))
      progress.glance()
      if must_save:
        save(step, must=last or stopping)
      if not stopping:
        try:
          with stop.at_once():
            results = evaluate_due(step)
        except preemption.PreemptedError:
          stopping = True
          save(step, must=True)
        except Exception as error:
          # For example a damaged image, which must not lose the steps. Hosts
          # that are in the midst of a program could not save with the others.
          if hosts.raised_on_all(error):
            save(step, must=True)
            say(
              f"An evaluation failed. The state of step {step} is saved: once "
              "the cause is mended, the same command evaluates it and goes on."
            )
          raise
      if stopping:
        raise preemption.PreemptedError(
          f"Stopped at step {step} of {total_steps}; the same command goes on."
        )

    # ---- The report ----------------------------------------------------------
    with hosts.together():
      report.write(experiment, workdir, state.eval_params, results, total_steps)
    # Blocks on the host are views of the stacks, not a second state.
    state = stacking.unstack(jax.device_get(state)) if runs else state
  return state, log.history


def evaluate(
  config: ml_collections.ConfigDict | None, workdir: str | pathlib.Path
) -> dict[str, dict[str, float]]:
  """Evaluates the newest checkpoint of a workdir and rewrites its report.

  Args:
    config: None for the run's own; another may differ in everything but `model`
      and `task`, such as other evaluations or another batch size.
    workdir: of a run, finished or not. Neither its training data nor the
      weights that it started from are needed.

  Returns:
    Metrics by evaluator and name.

  Raises:
    ValueError: `workdir` has no run or one of another model, or the config or
      its data are wrong.
    OSError: the report could not be written; its tables are printed.
  """
  workdir = paths.local(workdir, "workdir")
  with hosts.together():
    trained = workdir_lib.read_config(workdir)
    about_data = None  # A very old run has no record, so its data are opened.
    if (workdir / workdir_lib.ABOUT_DATA_FILE).exists():
      about_data = workdir_lib.read_about_data(workdir)
    if config is None:
      config = trained
    experiment = setup.Experiment(config, about_data)
    weights = experiment.about_data.get("weights", {})
    binding.check_model(workdir, trained, experiment.config, weights)
    step = checkpoint_lib.newest_step(workdir)
  binding.check_hosts_agree(experiment.config, experiment.about_data)
  step = hosts.of_first_host(step)
  with hosts.together():
    params = checkpoint_lib.read_params(workdir, step)
  params = stacking.stack(params, experiment.task.model.scanned_runs)
  params = experiment.parallel.place(params)
  for line in experiment.describe_splits():
    say(line)
  names = list(experiment.evaluators)
  results = _evaluate(experiment, names, params, step, log=None)
  with hosts.together():
    report.write(experiment, workdir, params, results, step)
  return results


def _device_batches(experiment: Any, first_step: int) -> Iterator[Any]:
  """Yields training batches from step `first_step` on, on the devices.

  Closing the generator ends the threads and processes that load them.
  """
  batches = data_lib.train_batches(
    experiment.data_section,
    batch_size=experiment.config["batch_size"],
    seed=experiment.config["seed"],
    start_step=first_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    source=experiment.source,
    skip_device_ops=True,
    where="config.data",
  )
  task = experiment.task

  def checked(batch: dict[str, Any]) -> dict[str, Any]:
    batch = {key: batch[key] for key in task.batch_keys}
    task.check_batch(batch)
    return batch

  with contextlib.closing(batches):
    yield from experiment.parallel.prefetch(map(checked, batches))


def _check_finite(
  progress: progress_lib.Progress, checkpoints: checkpoint_lib.Checkpoints
) -> None:
  """Raises at the first step whose metrics are not all finite."""
  bad = progress.first_not_finite()
  if bad is None:
    return
  step, setting, name = bad
  newest = checkpoints.newest
  good = "none was saved" if newest is None else checkpoints.path(newest)
  raise NonFiniteLossError(
    f"The {name} of step {step} ({setting.name}) is not finite. Last good "
    f"checkpoint: {good}. A lower optimizer.lr, a longer warmup or "
    "optimizer.grad_clip_norm may help."
  )


def _evaluate(
  experiment: setup.Experiment,
  names: Sequence[str],
  params: Any,
  step: int,
  log: metric_log.MetricLog | None,
) -> dict[str, dict[str, float]]:
  """Runs and logs the evaluators that have no results in `log` yet."""
  results = {}
  for name in names:
    if log is not None and (logged := log.find(step, f"{name}/")):
      results[name] = logged
      continue
    start = time.perf_counter()
    with hosts.together(_WAIT_FOR_HOSTS_SECONDS):
      results[name] = dict(experiment.evaluators[name].run(params))
    seconds = time.perf_counter() - start
    say(report.one_line(experiment, name, results[name], step, seconds))
    if log is not None:
      log.write(step, {f"{name}/{k}": v for k, v in results[name].items()})
  return results
