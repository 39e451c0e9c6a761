r"""One training of the study; the study itself is `run.py`.

    python -m tokenlearner_flexivit.main --workdir=/tmp/runs/cell --config=\
      experiments/transfer_segmentation/config.py:cell=flexible_at15,seed=0,\
workdir=/tmp/runs

A backbone is a training of flexivit_curves, under the name that it has there; a
transfer starts from the run of its backbone in the folder `workdir=...` of the
study.
"""

import dataclasses

import ml_collections

from experiments import recipe
from experiments.flexivit_curves import cells as curves_cells
from experiments.flexivit_curves import config as curves_config
from experiments.flexivit_curves import scales

# flexivit_curves' quick version has no masks.
SCALES = {name: scales.SCALES[name] for name in ("cpu", "gpu")}
ANY_SIZE = "any_size"


@dataclasses.dataclass(frozen=True)
class Cell:
  """A transfer.

  Attributes:
    name: in tables and folders.
    backbone: key of `cells.backbones`.
    sizes: patch sizes; one of them is drawn at each step.
    kernel: side of the stored kernel.
    grid: side of the stored position embedding.
    steps: of the training.
  """

  name: str
  backbone: str
  sizes: tuple[int, ...]
  kernel: int
  grid: int
  steps: int


def transfer(backbone: str, size: int) -> str:
  """Returns the name of a backbone's transfer at one patch size."""
  return f"{backbone}_at{size}"


def cells_by_name(scale: scales.Scale) -> dict[str, Cell]:
  """Returns the transfers of a scale by name."""
  coarse_and_fine = scale.sizes[0], scale.sizes[-1]
  cells = []
  for name, backbone in curves_cells.backbones(scale).items():
    stored = backbone.kernel, backbone.grid
    sizes = scale.sizes if name == "flexible" else coarse_and_fine
    cells += [
      Cell(transfer(name, size), name, (size,), *stored, scale.short_steps)
      for size in sizes
    ]
    if name == "flexible":  # As many steps as those of its sizes together.
      steps = len(sizes) * scale.short_steps
      cells.append(Cell(ANY_SIZE, name, sizes, *stored, steps))
  return {cell.name: cell for cell in cells}


def needs(scale: scales.Scale) -> dict[str, list[str]]:
  """Returns backbones and transfers, each with those that come before it."""
  cells = cells_by_name(scale)
  return curves_cells.needs_of_transfers(scale, list(cells.values()))


def _pp(crop: str, scale: scales.Scale) -> str:
  # No flips: they would make other textures of slashes and stripes.
  return (
    f"decode(masks='semantic')|{crop}({scale.side},masks='semantic')"
    "|value_range(-1,1)|keep('image','semantic')"
  )


def _data(scale: scales.Scale, split: str, crop: str) -> dict:
  return dict(
    name=scale.data,
    split=split,
    pp=_pp(crop, scale),
    features=("image", "semantic"),  # The others take time to parse.
    num_threads=2,
  )


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  small = dict(depth=2, short_steps=2)
  scale, _, args = recipe.read_argument(
    arg, SCALES, needs, small, cell=ANY_SIZE, workdir=""
  )
  cell = cells_by_name(scale).get(args["cell"])
  if cell is None:  # A backbone.
    return curves_config.get_config(arg)
  backbone = curves_cells.backbones(scale)[cell.backbone].name
  before = recipe.runs_before(args, [backbone], "transfer_segmentation")
  # It begins with trained weights and learns more slowly, as fine-tuning does
  # in the paper.
  c = recipe.config(scale, args["seed"], cell.steps, lr=2.5e-4)
  # Images that no backbone was trained on.
  c.data = _data(scale, scale.downstream, "random_crop")
  c.model = recipe.model_section(scale, cell.kernel, cell.grid)
  c.model.decoder = "linear"  # As FlexiViT is reported to use.
  c.flexi = dict(patch_size=dict(values=cell.sizes))
  c.task = dict(name="segmentation")
  c.init = before[backbone]
  c.evals = dict(
    test=dict(
      type="segmentation",
      data=_data(scale, "test", "central_crop"),
      batch_size=scale.batch_size,
      patch_sizes=scale.sizes,
    )
  )
  return c
