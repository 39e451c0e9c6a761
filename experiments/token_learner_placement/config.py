"""One cell of the study; the study itself is `run.py`.

python -m tokenlearner_flexivit.main --workdir=/tmp/cell --config=\
      experiments/token_learner_placement/config.py:cell=at1_2,seed=0,scale=cpu

`steps=1200` trains for so many steps, instead of the scale's.
"""

import dataclasses

import ml_collections

from experiments.token_learner_placement import cells
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit import models
from tokenlearner_flexivit.analysis import flops


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
  grid = scale.crop // scale.patch_size
  section = dict(
    width=scale.width,
    mlp_dim=4 * scale.width,
    num_heads=scale.width // 32,
    patch_size=(scale.patch_size, scale.patch_size),
    posemb_grid=(grid, grid),
    **cell.model(scale.depth),
  )
  if cell.deeper:
    shape = (scale.crop, scale.crop, 3)
    plain = {k: v for k, v in section.items() if k != "token_learner"}
    budget = flops.macs(models.create(**plain), shape)
    while flops.macs(models.create(**_deeper(section)), shape) <= budget:
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

  c = ml_collections.ConfigDict()
  c.seed = args["seed"]
  c.batch_size = scale.batch_size
  c.total_steps = scale.steps
  c.log_steps = min(50, scale.steps)
  c.checkpoint_steps = 500
  c.eval_steps = scale.steps

  last = "value_range(-1,1)|keep('image','label')"
  name = f"rendered_scenes/{scale.data}"
  c.data = dict(
    name=name,
    split="train",
    pp=f"decode|random_crop({scale.crop})|{last}",
    num_threads=2,
  )
  c.model = model_of(cell, scale)
  c.task = dict(name="classification", loss="softmax_xent", label_smoothing=0.1)
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    b2=0.95,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_steps=min(100, scale.steps // 2)),
    grad_clip_norm=1.0,
  )
  c.evals = dict(
    test=dict(
      type="classification",
      data=dict(
        name=name, split="test", pp=f"decode|central_crop({scale.crop})|{last}"
      ),
      batch_size=100,
    )
  )
  return c
