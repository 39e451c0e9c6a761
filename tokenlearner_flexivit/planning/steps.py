"""The training steps of a config, compiled for the chips of a topology."""

import functools
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.parallel import compiled, topologies
from tokenlearner_flexivit.planning import work
from tokenlearner_flexivit.tasks import views
from tokenlearner_flexivit.train import recipe as recipe_lib
from tokenlearner_flexivit.train import setup
from tokenlearner_flexivit.train import step as train_step_lib

# The largest batch that is sought, in batches of the config.
_MOST = 64


class Progress:
  """Says what was compiled, and how long the rest will take.

  Attributes:
    left: number of programs that are still to be compiled, as far as known.
  """

  def __init__(self, say: Callable[[str], None], left: int = 0):
    """Starts the clock."""
    self.left = left
    self._say = say
    self._done, self._start = 0, time.perf_counter()

  def add(self, name: str, program: compiled.Program) -> None:
    """Says that a program was compiled."""
    self._done += 1
    self.left = max(self.left - 1, 0)
    each = (time.perf_counter() - self._start) / self._done
    result = "fits" if program.fits else "does not fit"
    left = ""
    if self.left:
      left = f", about {terminal.duration(each * self.left)} left"
    self._say(
      f"Compiled {name} in {program.seconds:.0f} s: "
      f"{terminal.gib(program.memory)} GiB per chip, {result}{left}"
    )


class Steps:
  """The steps of a run on chips that need not be there.

  Attributes:
    experiment: what the config describes.
    topology: the chips.
    branches: the settings with their own program.
    shares: the share of the steps that each of them gets.
    batch_per_chip: examples that a chip has of a batch.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    topology: topologies.Topology,
    progress: Progress,
  ):
    """Builds everything but the programs; no array is made.

    Args:
      config: see `stand_ins.config_without_files`.
      topology: the chips.
      progress: is told of every program.

    Raises:
      ValueError: the config is wrong, or the chips cannot share its batch.
    """
    is_here = topology.name == topologies.HERE
    devices = None if is_here else topology.devices
    self.topology, self._progress = topology, progress
    self._programs = {}
    self.experiment = experiment = setup.Experiment(config, devices=devices)
    self._recipe = recipe_lib.Recipe(experiment)
    self._state = self._recipe.state_shapes()
    self._is_trained = work.trained(self._recipe.options["frozen"])
    self._constants = experiment.task.constant_shapes()
    example = data_lib.peek(
      experiment.data_section,
      experiment.source,
      "config.data",
      skip_device_ops=True,
    )
    self._example = {key: example[key] for key in experiment.task.batch_keys}
    self.batch_per_chip = experiment.config["batch_size"] // self.num_chips
    self.branches = experiment.dials.branches
    numbers = np.asarray(
      experiment.dials.branch_index(np.arange(len(experiment.dials.settings)))
    )
    self.shares = np.bincount(numbers, experiment.dials.shares).tolist()

  @property
  def num_chips(self) -> int:
    """Returns the number of chips."""
    return self.experiment.parallel.num_devices

  @functools.cached_property
  def state_bytes(self) -> int:
    """Returns the bytes of parameters, optimizer and their moving average."""
    return _bytes(self._state)

  @functools.cached_property
  def constant_bytes(self) -> int:
    """Returns the bytes of constants, such as a teacher's weights."""
    return _bytes(self._constants)

  @property
  def has_loops(self) -> bool:
    """Tells whether programs have loops, whose bytes compilers count once."""
    accumulates = self.experiment.config["accumulate"] > 1
    return accumulates or bool(self.experiment.task.model.scanned_runs)

  def compile(
    self, branch: int | None, batch_per_chip: int | None = None
  ) -> compiled.Program:
    """Compiles the step of a branch, or with all branches in a switch.

    Args:
      branch: an index into `branches`; None for all.
      batch_per_chip: examples on each chip; None for the config's.
    """
    share = batch_per_chip or self.batch_per_chip
    if (branch, share) in self._programs:
      return self._programs[branch, share]
    experiment = self.experiment
    step = train_step_lib.make_train_step(
      experiment.task,
      self._recipe.optimizer,
      experiment.dials,
      experiment.parallel,
      branch=branch,
      **self._recipe.options,
    )
    batch = experiment.parallel.batch_shapes(
      self._example, share * self.num_chips
    )
    lowered = experiment.parallel.lower_program(
      step, self._state, batch, self._constants, donate=True
    )
    program = compiled.compile_for(self.topology, lowered)
    self._programs[branch, share] = program
    name = "all settings" if branch is None else self.branches[branch].name
    self._progress.add(f"{name}, {share} a chip,", program)
    return program

  def flops(self, branch: int) -> float:
    """Returns the operations of a step for one example, in matrix products.

    The backward pass counts twice as much as the forward pass, without what
    frozen parameters spare (`work`). What a program computes again to save
    memory does not count.
    """
    settings = [self.branches[branch]]
    if self.experiment.dials.sandwich:
      settings += [
        self.experiment.dials.largest,
        self.experiment.dials.smallest,
      ]
    shape = self.experiment.image_shape
    task = self.experiment.task
    macs = sum(
      work.input_macs(
        task.trained_cost(shape, setting),
        *(task.model, shape, setting, self._is_trained),
      )
      for setting in settings
    )
    at_once = self.batch_per_chip // self.experiment.config["accumulate"]
    further = task.further_cost(at_once)
    further = work.text_macs(further, self._is_trained)
    macs += len(settings) * (further + task.untrained_cost(shape))
    for teacher in getattr(self.experiment.task, "teachers", ()):
      seen = views.shape_of_one(
        self._example[teacher.image].shape, teacher.model
      )
      macs += teacher.model.cost(seen, **teacher.setting)
    return 2.0 * macs

  def mean_flops(self) -> float:
    """Returns the operations for one example in the mean over all steps."""
    numbers = range(len(self.branches))
    return sum(self.shares[i] * self.flops(i) for i in numbers)

  def dispatch(self) -> str:
    """Returns how the run would choose a step's setting on these chips."""
    flexi: Mapping[str, Any] = self.experiment.config["flexi"] or {}
    chosen = flexi.get("dispatch") or "auto"
    if chosen == "auto":
      return dials.default_dispatch(self.topology.devices[0].platform)
    return chosen


def largest_batch(steps: Steps, branch: int) -> tuple[int | None, bool]:
  """Returns the largest batch per chip that is known to fit.

  The memory of two batch sizes gives a line, and the answer on it is compiled.
  If it does not fit, a second answer between the known ones is tried. More than
  64 times the config's batch is not sought.

  Args:
    steps: compiles.
    branch: an index into `steps.branches`.

  Returns:
    The number of examples, and whether its program was compiled and fits. The
    number is None if the compiler does not tell the memory.
  """
  unit = steps.experiment.config["accumulate"]
  size = steps.batch_per_chip
  other = size // 2 // unit * unit or 2 * size
  needs = {n: steps.compile(branch, n) for n in (size, other)}
  for _ in range(2):
    answer = _on_the_line(needs, steps.topology.chip.memory, unit)
    if answer == 0:
      return 0, False
    if answer is None and all(program.fits for program in needs.values()):
      answer = _MOST * size  # What so few examples take does not grow.
    if answer is None or min(answer, _MOST * size) in needs:
      break
    answer = min(answer, _MOST * size)
    needs[answer] = steps.compile(branch, answer)
    if needs[answer].fits:
      break
  fitting = [n for n, program in needs.items() if program.fits]
  return (max(fitting), True) if fitting else (None, False)


def _on_the_line(
  needs: Mapping[int, compiled.Program], memory: int, unit: int
) -> int | None:
  """Returns the batch that fills the memory, by the two nearest programs."""
  known = sorted(
    ((program.memory, n) for n, program in needs.items() if program.memory),
    key=lambda pair: abs(pair[0] - memory),
  )
  for (near, n), (far, m) in itertools.combinations(known, 2):
    if (near - far) * (n - m) > 0:
      answer = max(0, int(n + (memory - near) * (n - m) / (near - far)))
      rounded = unit * 8 if answer >= 32 * unit else unit
      return answer // rounded * rounded
  return None


def _bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
