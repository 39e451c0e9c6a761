"""The optimizer, the state and the options of a run's training step."""

import functools

import jax

from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.models import stacking
from tokenlearner_flexivit.train import layer_rates, setup
from tokenlearner_flexivit.train import optimizer as optimizer_lib
from tokenlearner_flexivit.train import step as train_step_lib


class Recipe:
  """Holds what a training step needs beside the task and the dials.

  Attributes:
    shapes: of the parameters, block by block.
    stacked: the same with the blocks of loops in stacks, as the state has them.
    optimizer: the gradient transformation.
    learning_rate: the learning rate as a function of the step.
    options: the keyword arguments of `step.make_train_step` that are the same
      for all of a run's programs.
  """

  def __init__(self, experiment: setup.Experiment):
    """Builds the optimizer.

    Raises:
      ValueError: `config.optimizer` is wrong.
    """
    config, model = experiment.config, experiment.task.model
    self.shapes = experiment.init_shapes()
    self.stacked = jax.eval_shape(
      lambda tree: stacking.stack(tree, model.scanned_runs), self.shapes
    )
    section = dict(config["optimizer"])
    if frozen := experiment.task.frozen:
      own = configuration.value(section, "freeze", [])
      own = [own] if isinstance(own, str) else own
      configuration.check_list(own, "config.optimizer.freeze")
      section["freeze"] = [*own, *frozen]
    self.optimizer, self.learning_rate = optimizer_lib.create(
      section,
      self.stacked,
      experiment.steps("total"),
      batch_size=config["batch_size"],
      num_examples=experiment.about_data["num_examples"],
      model=model,
    )
    rates = {key: section.get(key) for key in layer_rates.KEYS}
    factors = layer_rates.factors(self.stacked, **rates, model=model)
    self.options = dict(
      seed=config["seed"],
      accumulate=config["accumulate"],
      ema_decay=config["ema_decay"],
      frozen=jax.tree.map(lambda factor: factor == 0, factors),
      device_ops=data_lib.device_ops(config["data"], "config.data"),
    )
    self.create_state = functools.partial(
      train_step_lib.create_state,
      optimizer=self.optimizer,
      ema=config["ema_decay"] is not None,
    )

  def state_shapes(self) -> train_step_lib.TrainState:
    """Returns the shapes of the state."""
    return jax.eval_shape(self.create_state, self.stacked)
