"""One training of the study; the study itself is `run.py`.

python -m tokenlearner_flexivit.main --workdir=/tmp/cell --config=\
      experiments/two_dials/config.py:cell=two_dials,seed=0,scale=cpu
"""

import dataclasses

import ml_collections

from experiments.two_dials import cells
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models.token_learner import ALL


def model_section(cell: cells.Cell, scale: cells.Scale) -> dict:
  """Returns config.model."""
  # As in flexivit_curves: the buffers of the smallest size.
  kernel, grid = cell.sizes[-1], scale.crop // cell.sizes[-1]
  section = dict(
    width=scale.width,
    depth=scale.depth,
    mlp_dim=4 * scale.width,
    num_heads=scale.width // 32,
    patch_size=(kernel, kernel),
    posemb_grid=(grid, grid),
  )
  learned = [number for number in cell.numbers if number != ALL]
  if learned:
    section["token_learner"] = dict(
      layer=scale.depth // 2, num_tokens=max(learned)
    )
  return section


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  args = configuration.parse_arg(
    arg, cell="two_dials", seed=0, scale="cpu", runlocal=False
  )
  scale = configuration.choose(args["scale"], cells.SCALES, "scale")
  cell = configuration.choose(args["cell"], cells.of(scale), "cell")
  if args["runlocal"]:
    scale = dataclasses.replace(scale, width=32, depth=2, batch_size=8, steps=2)

  c = ml_collections.ConfigDict()
  c.seed = args["seed"]
  c.batch_size = scale.batch_size
  c.total_steps = scale.steps
  c.log_steps = min(50, scale.steps)
  c.checkpoint_steps = 500

  last = "value_range(-1,1)|keep('image','label')"
  name = f"rendered_scenes/{scale.data}"
  c.data = dict(
    name=name,
    split="train",
    pp=f"decode|random_crop({scale.crop})|{last}",
    num_threads=2,
  )
  c.model = model_section(cell, scale)
  c.flexi = dict(patch_size=dict(values=cell.sizes))
  if len(cell.numbers) > 1:
    c.flexi.num_tokens = dict(values=cell.numbers)
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
