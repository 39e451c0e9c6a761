"""rendered_scenes: a small ViT at one patch size, with or without TokenLearner.

    python -m tokenlearner_flexivit.main --workdir=/tmp/scenes \
      --config=configs/rendered_scenes.py:patch_size=8

The first run draws the data, see tokenlearner_flexivit/data/rendered_scenes.
Test accuracy at 96 px after 1,000, 2,000 and 3,000 steps, one seed each:

    patch_size=8    80.7 %  87.5 %  89.7 %    16 minutes on two CPU cores
    patch_size=24   62.5 %  74.4 %  77.7 %

Arguments, joined by commas: `patch_size=8`; `size=96`, the side of the images
in pixels; `token_learner`, for `num_tokens=8` learned tokens from mid-depth on;
`runlocal`, a two-step check on a few images.
"""

import ml_collections

from tokenlearner_flexivit import config as configuration


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the argument."""
  args = configuration.parse_arg(
    arg,
    runlocal=False,
    size=96,
    patch_size=8,
    token_learner=False,
    num_tokens=0,
  )
  runlocal, patch_size = args["runlocal"], args["patch_size"]
  if args["num_tokens"] and not args["token_learner"]:
    raise ValueError(
      f"The config's num_tokens={args['num_tokens']} needs token_learner: "
      f"token_learner,num_tokens={args['num_tokens']}."
    )
  size = 64 if runlocal else args["size"]
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 64
  c.total_steps = 2 if runlocal else 3000
  c.log_steps = 1 if runlocal else 100
  c.checkpoint_steps = 500
  c.eval_steps = 500

  # No flips or turns: they would make other textures of slashes and stripes.
  pp = "decode|value_range(-1,1)|keep('image','label')"
  name = f"rendered_scenes/{'tiny' if runlocal else size}"
  c.data = dict(name=name, split="train", pp=pp, num_threads=1)
  depth = 2 if runlocal else 4
  c.model = dict(
    width=32 if runlocal else 64,
    depth=depth,
    mlp_dim=64 if runlocal else 256,
    num_heads=1 if runlocal else 2,
    patch_size=(patch_size, patch_size),
    posemb_grid=(size // patch_size, size // patch_size),
  )
  if args["token_learner"]:
    c.model.token_learner = dict(
      layer=depth // 2, num_tokens=args["num_tokens"] or 8
    )
  c.task = dict(name="classification", loss="softmax_xent", label_smoothing=0.1)
  c.optimizer = dict(
    name="adamw",
    lr=1e-3,
    b2=0.95,
    weight_decay=0.05,
    schedule=dict(name="cosine", warmup_steps=1 if runlocal else 100),
    grad_clip_norm=1.0,
  )
  c.evals = dict(
    test=dict(type="classification", data=dict(name=name, split="test", pp=pp))
  )
  return c
