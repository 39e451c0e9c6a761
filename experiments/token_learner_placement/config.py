"""One cell of the study; the study itself is `run.py`.

python -m tokenlearner_flexivit.main --workdir=/tmp/cell --config=\
      experiments/token_learner_placement/config.py:cell=at1_2,seed=0,scale=cpu

`steps=1200` trains for so many steps, instead of the scale's.
"""

import dataclasses

import ml_collections

from experiments import recipe
from experiments.token_learner_placement import cells
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import models
from tokenlearner_flexivit.models import cost


@dataclasses.dataclass(frozen=True)
class Scale:
  """How large everything is.

  Attributes:
    data: configuration of rendered_scenes.
    crop: side of the images in pixels, cut out of those of the data.
    patch_size: in pixels.
    width: of the models; MLPs are four times as wide, heads are of 32.
    depth: of the baseline.
    batch_size: images per step.
    steps: of each run.
  """

  data: str
  crop: int
  patch_size: int
  width: int
  depth: int
  batch_size: int
  steps: int


SCALES = {
  # 39 runs in 65 minutes on two CPU cores.
  "cpu": Scale("64", 60, 6, 96, 4, 64, 600),
  # A ViT-S, 144 tokens; 20 minutes on one modern GPU. Not yet run.
  "gpu": Scale("96", 96, 8, 384, 12, 256, 3000),
}


def model_of(cell: cells.Cell, scale: Scale) -> dict:
  """Returns config.model."""
  section = recipe.model_section(scale.width, scale.patch_size, scale.crop)
  section |= cell.model(scale.depth)
  if cell.deeper:
    shape = (scale.crop, scale.crop, 3)
    plain = {k: v for k, v in section.items() if k != "token_learner"}
    budget = cost.macs(models.create(**plain), shape)
    while cost.macs(models.create(**_deeper(section)), shape) <= budget:
      section = _deeper(section)
  return section


def _deeper(section: dict) -> dict:
  return section | dict(depth=section["depth"] + 1)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  args = configuration.parse_arg(
    arg, cell="baseline", seed=0, scale="cpu", steps=0, runlocal=False
  )
  cell = configuration.choose(args["cell"], cells.CELLS, "cell")
  scale = configuration.choose(args["scale"], SCALES, "scale")
  runlocal = args["runlocal"]
  if args["steps"]:
    scale = dataclasses.replace(scale, steps=args["steps"])
  if runlocal:
    scale = dataclasses.replace(scale, width=32, batch_size=8, steps=2)

  c = recipe.config(
    seed=args["seed"], batch_size=scale.batch_size, steps=scale.steps
  )
  recipe.add_textures(c, scale.data, scale.crop)
  c.eval_steps = scale.steps
  c.model = model_of(cell, scale)
  return c
