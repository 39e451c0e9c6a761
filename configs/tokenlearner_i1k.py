"""TokenLearner in ViT-B/16 on ImageNet-1k, as its published code trains it.

    python -m tokenlearner_flexivit.main --workdir=/shared/run --multihost \
      --config=configs/tokenlearner_i1k.py

The recipe of Scenic's token_learner/im1k_token_learner_config: 16 tokens of
v1.1 before block 9 of 12, 224 px, sigmoid loss, 90 epochs. Its stochastic depth
of 0.1 is left out, since the published model never reads it. Images are in
[-1, 1] instead of standardized.

`:plain` leaves TokenLearner out; `:runlocal` is a two-step check on noise.

Costs 13.5e9 multiply-adds per image instead of 17.5e9 (`python -m
tokenlearner_flexivit.analysis.flops --variant=B/16 --image_size=224
--token_learner_layer=9 --num_tokens=16`). No hardware, time or accuracy is
published for it (the paper's own models are in tokenlearner_paper.py). Not yet
run here.
"""

import ml_collections

from tokenlearner_flexivit import config as configuration


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(arg, runlocal=False, plain=False)
  runlocal = args["runlocal"]
  c = ml_collections.ConfigDict()
  c.seed = 42
  c.batch_size = 8 if runlocal else 4096
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = 90
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = 5000
  c.eval_steps = 1000

  name = "fake:224x224x3:1000:16" if runlocal else "imagenet2012"
  last = "value_range(-1,1)|keep('image','label')"
  c.data = dict(
    name=name,
    split="train",
    pp=f"decode|inception_crop(224)|flip_lr|{last}",
  )
  c.model = dict(
    variant="mu/16" if runlocal else "B/16",
    pool="gap",
    head_bias_init=-10.0,
  )
  if not args["plain"]:
    c.model.token_learner = dict(layer=0 if runlocal else 9, num_tokens=16)
  c.task = dict(name="classification", loss="sigmoid_xent")
  c.optimizer = dict(
    name="adamw",
    lr=5e-3,
    weight_decay=0.3,
    decay=(".*",),  # The published optimizer decays all parameters.
    schedule=dict(
      name="linear", warmup_steps=1 if runlocal else 10_000, end=2e-3
    ),
    grad_clip_norm=1.0,
  )
  c.evals = dict(
    val=dict(
      data=dict(
        name=name,
        split="validation",
        pp=f"decode|resize_small(256)|central_crop(224)|{last}",
      )
    )
  )
  return c
