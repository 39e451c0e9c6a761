"""One training of the study; the study itself is `run.py`.

python -m tokenlearner_flexivit.main --workdir=/tmp/cell --config=\
      experiments/video_token_learner/config.py:cell=learned8,seed=0,scale=cpu
"""

import dataclasses

import ml_collections

from experiments import recipe
from experiments.video_token_learner import cells
from tokenlearner_flexivit import config as configuration


def model_section(cell: cells.Cell, scale: cells.Scale) -> dict:
  """Returns config.model."""
  section = recipe.model_section(scale.width, scale.patch_size, scale.side)
  section |= dict(
    name="vivit",
    depth=scale.depth,
    patch_size=(2, scale.patch_size, scale.patch_size),
    posemb_grid=scale.grid,
    dtype=scale.dtype,
  )
  learner = cell.token_learner(scale.depth)
  return section | ({} if learner is None else dict(token_learner=learner))


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  args = configuration.parse_arg(
    arg, cell=cells.BASELINE, seed=0, scale="cpu", runlocal=False
  )
  cell = configuration.choose(args["cell"], cells.CELLS, "cell")
  scale = configuration.choose(args["scale"], cells.SCALES, "scale")
  if args["runlocal"]:
    small = dict(width=32, depth=2, batch_size=8, steps=2)
    # 16 positions of a frame, as many as the most tokens.
    small |= dict(frames=4, side=16, patch_size=4)
    scale = dataclasses.replace(scale, **small)

  c = recipe.config(
    seed=args["seed"], batch_size=scale.batch_size, steps=scale.steps
  )
  c.checkpoint_steps = 200

  # No flips: they would make one action another.
  last = "value_range(-1,1,key='video')|keep('video','label')"
  clip = f"{scale.frames},{scale.stride}"
  data = dict(
    name=f"rendered_scenes/{scale.data}",
    features=("video", "label"),  # The others take time to parse.
  )
  if args["runlocal"]:
    data = dict(name=f"fake:16x{scale.side}x{scale.side}x3:10:16")
  c.data = dict(
    **data,
    split="train",
    pp=f"decode_video|temporal_crop({clip})|{last}",
    num_threads=scale.num_threads,
  )
  c.model = model_section(cell, scale)
  c.evals = dict(
    test=dict(
      type="classification",
      data=dict(
        **data,
        split="test",
        pp=f"decode_video|temporal_central_crop({clip})|{last}",
      ),
      batch_size=8 if args["runlocal"] else 40,
    )
  )
  return c
