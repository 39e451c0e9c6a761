"""FlexiViT-S with TokenLearner on ImageNet-1k, supervised, ten patch sizes.

    python -m tokenlearner_flexivit.main --workdir=/shared/run --multihost \
      --config=configs/flexivit_s_i1k.py

Sizes, buffers, image size, loss and optimizer are FlexiViT's supervised recipe
(big_vision's i21k_sup, arXiv 2212.08013); TokenLearner (16 tokens after half of
the blocks) is ours. Not a result of either paper, and not yet run to its end.
`:plain` leaves TokenLearner out; `:runlocal` is a two-step check on noise with
fewer sizes.
"""

import ml_collections

from tokenlearner_flexivit import config as configuration


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; see above for the arguments."""
  args = configuration.parse_arg(arg, runlocal=False, plain=False)
  runlocal = args["runlocal"]
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.batch_size = 8 if runlocal else 1024
  if runlocal:
    c.total_steps = 2
  else:
    c.total_epochs = 90
  c.log_steps = 1 if runlocal else 50
  c.checkpoint_steps = 1000
  c.eval_epochs = 10

  keep = "value_range(-1,1)|keep('image','label')"
  name = "fake:240x240x3:1000:16" if runlocal else "imagenet2012"
  c.data = dict(
    name=name,
    split="train[:99%]",
    pp=f"decode|inception_crop(240)|flip_lr|{keep}",
  )
  c.model = dict(
    variant="mu" if runlocal else "S",
    pool="tok",
    dtype="float32" if runlocal else "bfloat16",
    head_bias_init=-6.9,  # log(1/1000): every class starts unlikely.
  )
  if not args["plain"]:
    c.model.token_learner = dict(layer=0 if runlocal else 6, num_tokens=16)
  values = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)
  c.flexi = dict(patch_size=dict(values=values[::9] if runlocal else values))
  c.task = dict(name="classification", loss="sigmoid_xent", mixup_alpha=0.2)
  c.optimizer = dict(
    name="scale_by_adam",
    lr=1e-3,
    weight_decay=1e-4,
    schedule=dict(name="cosine", warmup_steps=1 if runlocal else 10_000),
    grad_clip_norm=1.0,
  )
  pp_eval = f"decode|resize_small(256)|central_crop(240)|{keep}"
  c.evals = dict(
    val=dict(data=dict(name=name, split="validation", pp=pp_eval)),
  )
  if not runlocal:  # Held out of the training split, to choose by.
    c.evals.minival = dict(
      data=dict(name=name, split="train[99%:]", pp=pp_eval)
    )
  return c
