r"""One training of the study; the study itself is `run.py`.

    python -m tokenlearner_flexivit.main --workdir=/tmp/runs/cell --config=\
      experiments/transfer_detection/config.py:cell=boxes_any_size,seed=0,\
workdir=/tmp/runs

A backbone is a training of flexivit_curves, under the name that it has there; a
transfer starts from the run of its backbone in the folder `workdir=...` of the
study.
"""

import dataclasses

import ml_collections

from configs import detection_scenes
from experiments import recipe
from experiments.flexivit_curves import cells as curves_cells
from experiments.flexivit_curves import config as curves_config
from experiments.flexivit_curves import scales

ANY_SIZE = "boxes_any_size"
LONGER = "boxes_longer"
_LOOKS = 6  # Evaluations of the longer transfer.
SEEN_GOAL = 60  # AP50 in %.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(scales.Scale):
  """A size of the study.

  Attributes:
    box_data: the dataset of the transfers.
    box_sizes: patch sizes of the transfers, from large to small.
    box_steps: of a transfer.
    box_batch: its images per step.
    longer_steps: of the longer transfer.
    longer_batch: its images per step.
    box_test: the split that is evaluated.
  """

  box_data: str
  box_sizes: tuple[int, ...]
  box_steps: int
  box_batch: int
  longer_steps: int
  longer_batch: int
  box_test: str


SCALES = {
  # A seed takes about an hour of one CPU core.
  "cpu": recipe.larger(
    Scale,
    scales.SCALES["cpu"],
    box_data=f"rendered_scenes/{detection_scenes.SIDE}",
    box_sizes=detection_scenes.PATCH_SIZES,
    # Few images per step: shapes are learned after some thousands of steps.
    box_steps=5000,
    box_batch=16,
    longer_steps=12_000,
    longer_batch=32,
    box_test="test[:1000]",  # Counting takes a minute for each thousand.
  ),
  # Not yet run.
  "gpu": recipe.larger(
    Scale,
    scales.SCALES["gpu"],
    box_data="rendered_scenes/120",
    box_sizes=(30, 20, 15, 10),
    box_steps=5000,
    box_batch=256,
    longer_steps=30_000,
    longer_batch=256,
    box_test="test",
  ),
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """A transfer.

  Attributes:
    name: in tables and folders.
    backbone: key of `cells.backbones`.
    sizes: patch sizes; one of them is drawn at each step.
    steps: of the training.
    batch_size: images per step.
    looks: evaluations, evenly spaced.
  """

  name: str
  backbone: str
  sizes: tuple[int, ...]
  steps: int
  batch_size: int
  looks: int = 1


def transfer(backbone: str, size: int) -> str:
  """Returns the name of a backbone's transfer at one patch size."""
  return f"boxes_{backbone}_at{size}"


def cells_by_name(scale: Scale) -> dict[str, Cell]:
  """Returns the transfers of a scale by name."""
  coarse, fine = scale.box_sizes[0], scale.box_sizes[-1]
  length = dict(steps=scale.box_steps, batch_size=scale.box_batch)
  listed = [
    Cell(transfer(backbone, size), backbone, (size,), **length)
    for backbone, size in (
      ("flexible", coarse),
      ("coarse", coarse),
      ("fine", fine),
    )
  ]
  listed.append(Cell(ANY_SIZE, "flexible", scale.box_sizes, **length))
  return {cell.name: cell for cell in listed}


def longer(scale: Scale) -> Cell:
  """Returns the transfer that is evaluated on its way, for a curve of steps."""
  return Cell(
    LONGER,
    "flexible",
    scale.box_sizes,
    scale.longer_steps,
    scale.longer_batch,
    _LOOKS,
  )


def needs(scale: Scale) -> dict[str, list[str]]:
  """Returns backbones and transfers, each after those it needs."""
  cells = cells_by_name(scale)
  return curves_cells.needs_of_transfers(scale, list(cells.values()))


def needs_of_longer(scale: Scale) -> dict[str, list[str]]:
  """Returns the longer transfer after the cells it needs."""
  return curves_cells.needs_of_transfers(scale, [longer(scale)])


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  small = dict(
    depth=2, box_steps=2, box_batch=8, longer_steps=6, longer_batch=8
  )
  scale, _, args = recipe.read_argument(
    arg,
    SCALES,
    lambda scale: needs(scale) | needs_of_longer(scale),
    small,
    cell=ANY_SIZE,
    workdir="",
  )
  cells = cells_by_name(scale) | {LONGER: longer(scale)}
  cell = cells.get(args["cell"])
  if cell is None:  # A backbone.
    return curves_config.get_config(arg)
  backbone = curves_cells.backbones(scale)[cell.backbone]
  before = recipe.runs_before(args, [backbone.name], "transfer_detection")
  c = recipe.config(scale, args["seed"], cell.steps)
  c.batch_size = cell.batch_size
  c.data = dict(
    detection_scenes.boxes(scale.box_data, "train"),
    num_threads=scale.num_threads,
  )
  c.model = recipe.model_section(scale, backbone.kernel, backbone.grid)
  c.model.text = detection_scenes.text_tower(scale.width)
  c.flexi = dict(patch_size=dict(values=cell.sizes))
  c.task = dict(name="detection", held_out=detection_scenes.held_out())
  c.init = before[backbone.name]
  c.evals = dict(
    test=detection_scenes.evaluation(
      scale.box_data, scale.box_test, scale.box_sizes
    )
  )
  c.evals.test.eval_steps = cell.steps // cell.looks
  return c
