"""One training of the study; the study itself is `run.py`.

python -m tokenlearner_flexivit.main --workdir=/tmp/cell --config=\
      experiments/two_dials/config.py:cell=two_dials,seed=0,scale=cpu
"""

import dataclasses

import ml_collections

from experiments import recipe
from experiments.two_dials import cells
from tokenlearner_flexivit import config as configuration
from tokenlearner_flexivit.models.token_learner import ALL


def model_section(cell: cells.Cell, scale: cells.Scale) -> dict:
  """Returns config.model."""
  # As in flexivit_curves: the buffers of the smallest size.
  section = recipe.model_section(scale.width, cell.sizes[-1], scale.crop)
  section["depth"] = scale.depth
  if scale.dtype is not None:
    section["dtype"] = scale.dtype
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
    scale = dataclasses.replace(
      scale, width=32, depth=2, batch_size=8, steps=2, long_steps=2
    )
  c = recipe.config(
    seed=args["seed"],
    batch_size=scale.batch_size,
    steps=scale.long_steps if cell.long else scale.steps,
  )
  recipe.add_textures(c, scale.data, scale.crop, scale.num_threads)
  c.model = model_section(cell, scale)
  c.flexi = dict(patch_size=dict(values=cell.sizes))
  if len(cell.numbers) > 1:
    # TokenLearner is off in half of the steps, as many as train it.
    learned = len(cell.numbers) - 1
    c.flexi.num_tokens = dict(
      values=cell.numbers, weights=(learned, *[1] * learned)
    )
  return c
