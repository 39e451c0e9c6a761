"""remat="auto" is the first policy whose program fits the device."""

import dataclasses

from tests.train.test_train_step import (
  OPTIMIZER,
  init,
  make_batches,
  patch_sizes,
)
from tokenlearner_flexivit import models, parallel, tasks
from tokenlearner_flexivit.models import stacking
from tokenlearner_flexivit.parallel import compiled, topologies
from tokenlearner_flexivit.train import remat
from tokenlearner_flexivit.train import step as train_step_lib


def compile_blocks_in_a_loop(remat, say):
  """Compiles the step of a model with `scan`."""
  model = models.create(
    variant="mu",
    depth=4,
    num_classes=5,
    patch_size=(4, 4),
    posemb_grid=(3, 3),
    scan=True,
    remat=remat,
  )
  task = tasks.create({}, model=model, num_classes=5)
  devices = parallel.create()
  params = init(task)
  params = stacking.stack(params, model.scanned_runs)
  state = train_step_lib.create_state(params, OPTIMIZER, ema=False)
  state = devices.place(state)
  batches = list(devices.prefetch(make_batches()[:1]))
  train_step_lib.compile_steps(
    *(task, OPTIMIZER, patch_sizes(4), devices, state, batches[0], ()),
    first_step=0,
    seed=3,
    dispatch="host",
    say=say,
  )


def test_remat_auto_is_the_first_that_fits(monkeypatch):
  """If none does, it is the last."""
  here, needs, said = topologies.create("here"), [], []
  chip = dataclasses.replace(here.chip, memory=0)
  topology = dataclasses.replace(here, chip=chip)
  monkeypatch.setattr(topologies, "create", lambda name: topology)
  compile_for = compiled.compile_for

  def counted(topology, lowered):
    needs.append(compile_for(topology, lowered))
    return needs[-1]

  monkeypatch.setattr(compiled, "compile_for", counted)
  compile_blocks_in_a_loop("auto", said.append)
  assert "remat='auto' is 'blocks'" in said[0] and "not be enough" in said[0]
  _, dots, blocks = needs
  assert blocks.memory < dots.memory

  task = tasks.create({}, model=models.create(variant="mu"), num_classes=5)
  task.model = task.model.clone(remat="auto")
  fitting = [False, True]
  monkeypatch.setattr(
    compiled,
    "compile_for",
    lambda *_: dataclasses.replace(dots, fits=fitting.pop(0)),
  )
  chosen = remat.choose(task, lambda trial: trial, said.append)
  assert chosen.model.remat == "dots" and task.model.remat == "auto"
  assert "is 'dots'" in said[-1] and "not be enough" not in said[-1]
