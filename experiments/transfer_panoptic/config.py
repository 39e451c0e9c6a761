r"""One training of the study; the study itself is `run.py`.

    python -m tokenlearner_flexivit.main --workdir=/tmp/runs/cell --config=\
      experiments/transfer_panoptic/config.py:cell=panoptic_any_size,seed=0,\
workdir=/tmp/runs

A backbone is a training of flexivit_curves, under the name that it has there,
and `coder` is UViM's stage I. Transfers, its stage II, start from the runs of a
backbone and of the coder in the folder `workdir=...` of the study.
"""

import dataclasses

import ml_collections

from configs import panoptic_code_scenes, panoptic_scenes
from experiments import recipe
from experiments.flexivit_curves import cells as curves_cells
from experiments.flexivit_curves import config as curves_config
from experiments.flexivit_curves import scales

CODER = "coder"
ANY_SIZE, BOTH_DIALS = "panoptic_any_size", "panoptic_both_dials"
ALL = "all"  # Tokens.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(scales.Scale):
  """A size of the study.

  Attributes:
    code_steps: of stage I.
    map_steps: of a transfer.
    map_batch: its images per step.
    map_test: the split that is evaluated.
    numbers: of learned tokens, from few to many.
  """

  code_steps: int
  map_steps: int
  map_batch: int
  map_test: str
  numbers: tuple[int, ...]


SCALES = {
  "cpu": recipe.larger(
    Scale,
    scales.SCALES["cpu"],
    code_steps=1500,
    # Few images per step: shapes are learned after some thousands of steps.
    map_steps=4000,
    map_batch=16,
    map_test="test[:1000]",
    numbers=(4, 8, 16),
  )
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """A transfer.

  Attributes:
    name: in tables and folders.
    backbone: key of `cells.backbones`.
    sizes: patch sizes; one of them is drawn at each step.
    version: of TokenLearner before the last block; None without one.
    numbers: of tokens; one of them is drawn at each step. None without
      TokenLearner.
  """

  name: str
  backbone: str
  sizes: tuple[int, ...]
  version: str | None = None
  numbers: tuple[int | str, ...] | None = None


def transfer(backbone: str, size: int) -> str:
  """Returns the name of a backbone's transfer at one patch size."""
  return f"panoptic_{backbone}_at{size}"


def learned(number: int) -> str:
  """Returns the name of the transfer with so many learned tokens."""
  return f"panoptic_learned{number}"


def averages(number: int) -> str:
  """Returns the name of the transfer with averages over so many rectangles."""
  return f"panoptic_averages{number}"


def cells_by_name(scale: Scale) -> dict[str, Cell]:
  """Returns the transfers of a scale by name."""
  coarse, fine = scale.sizes[0], scale.sizes[-1]
  listed = [
    Cell(transfer(backbone, size), backbone, (size,))
    for backbone, size in (
      ("flexible", coarse),
      ("coarse", coarse),
      ("fine", fine),
    )
  ]
  numbers = (*scale.numbers, ALL)
  listed += [
    Cell(ANY_SIZE, "flexible", scale.sizes),
    Cell(BOTH_DIALS, "flexible", scale.sizes, "1.1", numbers),
  ]
  for number in scale.numbers:
    for name, version in (
      (learned(number), "1.1"),
      (averages(number), "average"),
    ):
      listed.append(Cell(name, "flexible", (scale.middle,), version, (number,)))
  return {cell.name: cell for cell in listed}


def needs(scale: Scale) -> dict[str, list[str]]:
  """Returns backbones, coder and transfers, each after those it needs."""
  cells = cells_by_name(scale)
  listed = curves_cells.needs_of_transfers(scale, list(cells.values()))
  return {CODER: []} | {
    name: [*before, CODER] if name in cells else before
    for name, before in listed.items()
  }


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  small = dict(depth=2, map_steps=2, map_batch=8, code_steps=2)
  scale, _, args = recipe.read_argument(
    arg, SCALES, needs, small, cell=ANY_SIZE, workdir=""
  )
  name, seed = args["cell"], args["seed"]
  if name in curves_cells.backbones_with_needs(scale):
    return curves_config.get_config(arg)
  if name == CODER:
    c = panoptic_code_scenes.get_config(f"steps={scale.code_steps}")
    c.seed, c.batch_size = seed, scale.batch_size
    return c
  cell = cells_by_name(scale)[name]
  backbone = curves_cells.backbones(scale)[cell.backbone]
  needed = [backbone.name, CODER]
  before = recipe.runs_before(args, needed, "transfer_panoptic")
  return _transfer_config(scale, seed, cell, backbone, *before.values())


def _transfer_config(
  scale: Scale,
  seed: int,
  cell: Cell,
  backbone: curves_cells.Cell,
  init: str,
  coder: str,
) -> ml_collections.ConfigDict:
  """Returns the config of a transfer."""
  c = recipe.config(scale, seed, scale.map_steps)
  base = panoptic_scenes.get_config(f"coder={coder}")
  c.batch_size = scale.map_batch
  c.data, c.task, c.evals = base.data, base.task, base.evals
  c.evals.test.data.split = scale.map_test
  c.model = recipe.model_section(scale, backbone.kernel, backbone.grid)
  c.model.decoder_depth, c.model.coder = base.model.decoder_depth, coder
  c.init = init
  c.flexi = dict(patch_size=dict(values=cell.sizes))
  c.evals.test.patch_sizes = scale.sizes
  if cell.version:
    most = max(number for number in cell.numbers if number != ALL)
    c.model.token_learner = dict(
      layer=scale.depth - 1, num_tokens=most, version=cell.version
    )
    c.flexi.num_tokens = dict(values=cell.numbers)
    # Few patches leave nothing to learn.
    c.evals.test.patch_sizes = cell.sizes
  return c
